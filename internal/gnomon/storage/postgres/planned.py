"""Statements that each connection plans once. For small batches, planning them costs as much as carrying them out.

A plan is kept for as long as its connection, whatever becomes of the tables meanwhile. So this is done only where there
is no choice but the way by indexes (`by_index` of engine.py), which is right for any number of rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any
from weakref import WeakSet

from psycopg2 import errorcodes
from sqlalchemy import Connection, CursorResult, Pool, TextClause, text
from sqlalchemy.exc import DBAPIError

from gnomon.storage.postgres.engine import BY_INDEX, error_code

PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
KNOWN = "gnomon_planned"
# A proxy that gives each transaction another server's session has no place for what one of them has form.
FORGETFUL = {errorcodes.INVALID_SQL_STATEMENT_NAME, errorcodes.DUPLICATE_PREPARED_STATEMENT}
_unplanned: WeakSet[Pool] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class Form:
    """A statement as a session knows it by name."""

    name: str
    prepare: TextClause
    execute: TextClause


def execute(connection: Connection, statement: TextClause, parameters: Mapping[str, Any]) -> CursorResult[Any]:
    """As `connection.execute`; what it raises where a session has forgotten its plans is one of the passing troubles.

    From then on, and where the engine leaves a choice of ways, each execution plans anew.
    """
    if not connection.get_execution_options().get(BY_INDEX) or connection.engine.pool in _unplanned:
        return connection.execute(statement, parameters)
    form = form_of(statement)
    known = connection.info.setdefault(KNOWN, set())
    try:
        if form.name not in known:
            connection.execute(form.prepare)
            known.add(form.name)
        return connection.execute(form.execute, parameters)
    except DBAPIError as error:
        if error_code(error) in FORGETFUL:
            _unplanned.add(connection.engine.pool)
        raise


@cache
def form_of(statement: TextClause) -> Form:
    """What prepares it in a session, and what carries it out from then on."""
    names = list(dict.fromkeys(PARAMETER.findall(statement.text)))
    numbered = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement.text)
    name = f"gnomon_{sha256(numbered.encode()).hexdigest()[:16]}"
    given = f" ({', '.join(f':{one}' for one in names)})" if names else ""
    # SQLAlchemy would take a colon for a parameter
    prepare = text(f"prepare {name} as " + numbered.replace(":", r"\:"))
    return Form(name=name, prepare=prepare, execute=text(f"execute {name}{given}"))
