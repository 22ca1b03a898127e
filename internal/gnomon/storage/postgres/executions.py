"""The worker's side of executions: C, S, W, L and the renewal of leases, of docs/protocol.md."""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Engine, TextClause
from sqlalchemy.exc import DBAPIError

from gnomon.job.model import Definition
from gnomon.job.ports import Claimed, Record, Token, Unrecordable
from gnomon.job.sealing import plain_in, sealed_to
from gnomon.storage.postgres import planned, statements
from gnomon.storage.postgres.engine import autocommit, is_passing, translated
from gnomon.storage.postgres.literals import json_rows, json_tokens, uuid_array
from gnomon.storage.postgres.rows import read_stored_definition
from gnomon.storage.postgres.sessions import database_clock

if TYPE_CHECKING:  # its driver is needed only where there is a cache
    from gnomon.storage.cache import DefinitionCache

log = logging.getLogger(__name__)

AGAIN_AFTER_FAILURE = "retried"


class PostgresExecutionStore:
    """ExecutionStore on Postgres. `instance` names this process in the tallies, `worker` in the executions.

    Definitions are looked for in `cache` first, if there is one: those whose secrets are sealed to `keys`, as what the
    cache has may be older than the last change of keys.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        instance: UUID,
        worker: str,
        cache: "DefinitionCache | None" = None,
        keys: Collection[str] = (),
    ) -> None:
        self._engine = autocommit(engine)
        self._instance = instance
        self._worker = worker
        self._cache = cache
        self._keys = frozenset(keys)

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        """C."""
        parameters = {
            "ids": uuid_array(ids),
            "delivery": delivery,
            "lease": lease.total_seconds(),
            "worker": self._worker,
            "instance": self._instance,
        }
        with translated(), self._engine.connect() as connection:
            return [Claimed(**row) for row in planned.execute(connection, statements.CLAIM, parameters).mappings()]

    def definitions(self, revisions: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], Definition]:
        """Immutable, so what this returns may be kept for ever."""
        cached = {} if self._cache is None else self._cache.find(revisions)
        read = _readable(cached)  # it may hold garbage: then the database is asked
        found = {key: definition for key, definition in read.items() if sealed_to(definition) <= self._keys}
        missing = [key for key in revisions if key not in found]
        if missing:
            stored = self._stored(missing)
            found |= _readable(stored, tell=True)
            if self._cache is not None:
                self._cache.keep(
                    {key: document for key, document in stored.items() if key in found and not plain_in(found[key])}
                )
        return found

    def start(self, tokens: Collection[Token], *, delivery: UUID, margin: timedelta) -> set[UUID]:
        """S."""
        parameters = {"tokens": json_tokens(tokens), "delivery": delivery, "margin": margin.total_seconds()}
        return self._ids(statements.START, parameters)

    def record(self, records: Sequence[Record]) -> set[UUID]:
        """W."""
        parameters = {
            "rows": json_rows([record_row(record) for record in records]),
            "instance": self._instance,
            "again": AGAIN_AFTER_FAILURE,
        }
        with translated():
            try:
                return self._ids(statements.RECORD, parameters)
            except DBAPIError as error:
                if is_passing(error):
                    raise
                raise Unrecordable(
                    f"the database refuses {len(records)} outcomes ({type(error.orig).__name__})"
                ) from error

    def recorded_before(self, records: Sequence[Record]) -> set[UUID]:
        """W leaves the owner on the row, so that a lost reply can be told from a lost lease."""
        rows = [{"id": r.token.id, "attempt": r.token.attempt, "lease_owner": r.owner} for r in records]
        return self._ids(statements.RECORDED_BEFORE, {"tokens": json_rows(rows)})

    def renew(self, tokens: Collection[Token], *, lease: timedelta) -> set[UUID]:
        """Extends leases."""
        return self._ids(statements.RENEW, {"tokens": json_tokens(tokens), "lease": lease.total_seconds()})

    def cancel_requested(self, tokens: Collection[Token]) -> set[UUID]:
        """Which to abort. Planned each time: the shortest way depends on how many are asked to stop."""
        with translated(), self._engine.connect() as connection:
            return set(connection.execute(statements.CANCEL_REQUESTED, {"tokens": json_tokens(tokens)}).scalars())

    def release(self, tokens: Collection[Token], *, delay: timedelta) -> set[UUID]:
        """L."""
        return self._ids(statements.RELEASE, {"tokens": json_tokens(tokens), "delay": delay.total_seconds()})

    def pending(self, ids: Collection[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """Reads by primary key."""
        with translated(), self._engine.connect() as connection:
            rows = planned.execute(connection, statements.PENDING, {"ids": uuid_array(ids)})
            return {row.id: (row.job_id, row.revision) for row in rows}

    def return_slots(
        self, ids: Collection[UUID], *, delay: timedelta = timedelta(0), spread: timedelta = timedelta(0)
    ) -> None:
        """Gives publish slots back; with a delay, it is counted."""
        parameters: dict[str, Any] = {"ids": uuid_array(ids)}
        statement = statements.RETURN_SLOTS
        if delay or spread:
            statement = statements.PUT_OFF
            parameters |= {"delay": delay.total_seconds(), "spread": spread.total_seconds(), "instance": self._instance}
        with translated(), self._engine.connect() as connection:
            planned.execute(connection, statement, parameters)

    def overlooked(self, queues: Collection[str], *, oldest: timedelta, newest: timedelta) -> int:
        """Reads the slots under way, which end within the longest one and its jitter."""
        parameters = {
            "queues": list(queues),
            "oldest": oldest.total_seconds(),
            "newest": newest.total_seconds(),
            "longest": 1.2 * statements.PUBLISH_SLOT_MAX_SECONDS,
        }
        with translated(), self._engine.connect() as connection:
            return int(connection.execute(statements.OVERLOOKED, parameters).scalar_one())

    def clock(self) -> datetime:
        """This very moment."""
        with translated(), self._engine.connect() as connection:
            return database_clock(connection)

    def _stored(self, revisions: Collection[tuple[UUID, int]]) -> dict[tuple[UUID, int], Mapping[str, Any]]:
        keys = json_rows([{"job_id": job_id, "revision": revision} for job_id, revision in revisions])
        with translated(), self._engine.connect() as connection:
            rows = planned.execute(connection, statements.DEFINITIONS, {"keys": keys}).all()
        return {(row.job_id, row.revision): row.definition for row in rows}

    def _ids(self, statement: TextClause, parameters: Mapping[str, Any]) -> set[UUID]:
        with translated(), self._engine.connect() as connection:
            found = planned.execute(connection, statement, parameters).scalars()
            return {execution_id for execution_id in found if execution_id is not None}


def record_row(record: Record) -> dict[str, Any]:
    """A row of W as the statement takes it."""
    return {
        "id": record.token.id,
        "attempt": record.token.attempt,
        "state": record.state.value,
        "delay": record.delay.total_seconds(),
        "failed": record.failed,
        "seconds": record.duration.total_seconds(),
        "error_code": record.error_code,
        "error_message": record.error_message,
        "response_status": record.response_status,
        "response_excerpt": record.response_excerpt,
    }


def _readable(
    documents: Mapping[tuple[UUID, int], Mapping[str, Any]], *, tell: bool = False
) -> dict[tuple[UUID, int], Definition]:
    """Those that are definitions; `tell` says in the log which are not."""
    found: dict[tuple[UUID, int], Definition] = {}
    for (job_id, revision), document in documents.items():
        definition = read_stored_definition(document)
        if isinstance(definition, Definition):
            found[job_id, revision] = definition
        elif tell:
            log.error(
                "job %s: revision %s can't be read (%s); its executions fail until it is edited",
                job_id,
                revision,
                definition.reason,
                extra={"job_id": str(job_id)},
            )
    return found
