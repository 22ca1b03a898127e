"""HistoryStore on Postgres: what became of executions."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, literal, select

from gnomon.job.ids import id_bounds
from gnomon.job.model import Attempt, Execution, State, Trigger
from gnomon.job.ports import ExecutionQuery, Page, Tally
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.postgres import statements
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.tables import attempts, executions, jobs
from gnomon.storage.refusals import no_execution, no_job


class PostgresHistoryStore:
    """HistoryStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = autocommit(engine)

    def get(self, execution_id: UUID) -> Execution:
        """With the attempts that did not end it."""
        with translated(), self._engine.connect() as connection:
            return read_execution(connection, execution_id)

    def list(self, job_id: UUID | None, query: ExecutionQuery) -> Page[Execution]:
        """In the order of their ids, which is that of their moments; with the attempts that did not end them."""
        chosen = filtered(select(executions), query)
        if job_id is not None:
            chosen = chosen.where(executions.c.job_id == job_id)
        chosen = chosen.order_by(executions.c.id.desc()).limit(query.limit + 1).offset(query.offset)
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(chosen).all()
            if not rows and job_id is not None:
                _require_job(connection, job_id)
            tried = _attempts(connection, [row.id for row in rows[: query.limit] if row.attempt > 0])
        items = [_read_execution(row, tried[row.id]) for row in rows[: query.limit]]
        more = len(rows) > query.limit
        return Page(items=items, cursor=write_cursor(items[-1].scheduled_at, items[-1].id) if more else None)

    def tallies(self) -> Sequence[Tally]:
        """Summed over all processes that ever counted."""
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(statements.TALLIES).mappings().all()
        return [Tally(**row) for row in rows]


def read_execution(connection: Connection, execution_id: UUID) -> Execution:
    """Raises NotFound."""
    row = connection.execute(select(executions).where(executions.c.id == execution_id)).first()
    if row is None:
        raise no_execution(execution_id)
    return _read_execution(row, _attempts(connection, [row.id])[row.id])


def read_executions(connection: Connection, chosen: Select[Any]) -> list[Execution]:
    """In the order of the selection, with the attempts that did not end them."""
    rows = connection.execute(chosen).all()
    tried = _attempts(connection, [row.id for row in rows if row.attempt > 0])
    return [_read_execution(row, tried[row.id]) for row in rows]


def filtered(chosen: Select[Any], query: ExecutionQuery) -> Select[Any]:
    """Narrows a selection from `executions` to what the query asks for, but for its limit and its offset."""
    if query.states:
        chosen = chosen.where(executions.c.state.in_([state.value for state in query.states]))
    if query.trigger is not None:
        chosen = chosen.where(executions.c.trigger == query.trigger.value)
    if query.cursor is not None:
        chosen = chosen.where(executions.c.id < literal(read_cursor(query.cursor)[1]))
    # an id begins with its moment, so the primary key serves both
    if query.since is not None:
        chosen = chosen.where(executions.c.scheduled_at >= query.since, executions.c.id >= id_bounds(query.since)[0])
    if query.until is not None:
        chosen = chosen.where(executions.c.scheduled_at <= query.until, executions.c.id <= id_bounds(query.until)[1])
    return chosen


def _require_job(connection: Connection, job_id: UUID) -> None:
    if connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first() is None:
        raise no_job(job_id)


def _attempts(connection: Connection, ids: Sequence[UUID]) -> defaultdict[UUID, list[Attempt]]:
    found: defaultdict[UUID, list[Attempt]] = defaultdict(list)
    if ids:
        chosen = select(attempts).where(attempts.c.execution_id.in_(ids))
        for row in connection.execute(chosen.order_by(attempts.c.execution_id, attempts.c.attempt)):
            values = row._asdict()
            found[values.pop("execution_id")].append(Attempt(**values))
    return found


def _read_execution(row: Row[Any], tried: Sequence[Attempt]) -> Execution:
    return Execution(
        id=row.id,
        job_id=row.job_id,
        revision=row.revision,
        scheduled_at=row.scheduled_at,
        trigger=Trigger(row.trigger),
        state=State(row.state),
        attempt=row.attempt,
        failures=row.failures,
        max_attempts=row.max_attempts,
        created_at=row.created_at,
        available_at=row.available_at,
        first_started_at=row.first_started_at,
        claimed_at=row.claimed_at,
        finished_at=row.finished_at,
        cancel_requested_at=row.cancel_requested_at,
        error_code=row.error_code,
        error_message=row.error_message,
        response_status=row.response_status,
        response_excerpt=row.response_excerpt,
        worker=row.worker,
        skipped_count=row.skipped_count,
        skipped_until=row.skipped_until,
        repeats=row.repeats,
        attempts=tuple(tried),
    )
