"""Many rows as one literal, so that a statement has one text whatever their number."""

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from gnomon.job.ports import Token


def uuid_array(ids: Iterable[UUID]) -> str:
    """A Postgres array literal."""
    return "{" + ",".join(map(str, ids)) + "}"


def json_rows(rows: Collection[Mapping[str, Any]]) -> str:
    """A JSON array for json_to_recordset; UUIDs and instants become texts."""
    return json.dumps(rows, default=_text, separators=(",", ":"))


def json_tokens(tokens: Collection[Token]) -> str:
    """Fencing tokens for json_to_recordset."""
    return json_rows([{"id": token.id, "attempt": token.attempt} for token in tokens])


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
