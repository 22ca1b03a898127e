"""OverviewStore on Postgres: what people look at to see how it goes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Select, func, select, text

from gnomon.job.ids import id_bounds
from gnomon.job.model import JobStatus, State
from gnomon.job.overview import Evidence, QueueDepth, Spread, Stats
from gnomon.job.ports import ExecutionQuery, JobQuery
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.history import filtered, read_executions
from gnomon.storage.postgres.jobs import filtered_jobs, read_job
from gnomon.storage.postgres.repeats import COUNTED
from gnomon.storage.postgres.sessions import database_clock
from gnomon.storage.postgres.tables import executions, jobs

SHOWN = 20  # of the executions of one job

# Each state is read by the partial index that serves it.
QUEUES = text("""
with open as (
    (select queue, state, available_at, published_at from executions where state = 'PENDING' limit :most)
    union all (select queue, state, available_at, published_at from executions where state = 'RUNNING' limit :most)
    union all (select queue, state, available_at, published_at from executions where state = 'WAITING' limit :most)
), seen as (
    select *, state = 'PENDING' and available_at <= now() as due from open
)
select queue as name, count(*) filter (where due) as due,
    count(*) filter (where due and published_at is not null) as sent,
    count(*) filter (where state = 'PENDING' and not due) as later,
    count(*) filter (where state = 'WAITING') as waiting, count(*) filter (where state = 'RUNNING') as running,
    min(available_at) filter (where due) as oldest_due_at, now() as at
from seen group by queue order by queue
""")

JOBS = text("""
select status, count(*) as jobs, count(*) filter (where held_until > now() and hold_reason is not null) as held,
    count(*) filter (where status = 'RUNNING' and next_run < now() - interval '10 seconds'
        and (held_until is null or held_until <= now())) as overdue
from jobs where deleted_at is null group by status
""")

SHARES = "array[0.5, 0.95, 0.99, 1.0]"
# Ids begin with their moments: the primary key serves the window, the newest first.
EXECUTIONS = text(f"""
with recent as materialized (
    select state, first_started_at - scheduled_at as lateness, finished_at - first_started_at as duration
    from executions where id between :first and :last order by id desc limit :most
)
select {", ".join(f"count(*) filter (where state = '{state}') as {state.lower()}" for state in State)},
    count(*) as counted,
    percentile_disc({SHARES}) within group (order by lateness) as lateness,
    percentile_disc({SHARES}) within group (order by duration) as duration
from recent
""")


class PostgresOverviewStore:
    """OverviewStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def count_jobs(self, query: JobQuery) -> int:
        """One statement."""
        return self._count(filtered_jobs(select(jobs.c.id).where(jobs.c.deleted_at.is_(None)), query))

    def count_executions(self, job_id: UUID | None, query: ExecutionQuery) -> int:
        """One statement."""
        chosen = filtered(select(executions.c.id), replace(query, cursor=None))
        return self._count(chosen if job_id is None else chosen.where(executions.c.job_id == job_id))

    def queues(self) -> Sequence[QueueDepth]:
        """One statement."""
        with translated(), self._autocommit.connect() as connection:
            return [QueueDepth(**row) for row in connection.execute(QUEUES, {"most": COUNTED}).mappings()]

    def stats(self, window: timedelta) -> Stats:
        """Two statements: what changes in between is in one and not in the other."""
        with translated(), self._autocommit.connect() as connection:
            now = database_clock(connection)
            rows = connection.execute(JOBS).all()
            bounds = {"first": id_bounds(now - window)[0], "last": id_bounds(now)[1], "most": COUNTED}
            row = connection.execute(EXECUTIONS, bounds).one()
        return Stats(
            at=now,
            jobs={JobStatus(row.status): row.jobs for row in rows},
            held=sum(row.held for row in rows),
            overdue=sum(row.overdue for row in rows),
            executions={state: getattr(row, state.lower()) for state in State},
            counted=row.counted,
            complete=row.counted < COUNTED,
            lateness=_spread(row.lateness),
            duration=_spread(row.duration),
        )

    def evidence(self, job_id: UUID) -> Evidence:
        """The clock is asked last: nothing that is shown is later."""
        with translated(), self._engine.connect() as connection:
            job = read_job(connection, job_id)
            shown = _executions_of(connection, job_id)
            return Evidence(at=database_clock(connection), job=job, executions=shown)

    def _count(self, chosen: Select[Any]) -> int:
        counted = select(func.count()).select_from(chosen.limit(COUNTED).subquery())
        with translated(), self._autocommit.connect() as connection:
            count: int = connection.execute(counted).scalar_one()
            return count


def _executions_of(connection: Connection, job_id: UUID) -> list[Any]:
    of_job = select(executions).where(executions.c.job_id == job_id).order_by(executions.c.id.desc()).limit(SHOWN)
    unfinished = of_job.where(executions.c.state.in_([State.WAITING, State.PENDING, State.RUNNING]))
    found = {one.id: one for chosen in (of_job, unfinished) for one in read_executions(connection, chosen)}
    return sorted(found.values(), key=lambda one: one.id, reverse=True)


def _spread(values: Sequence[timedelta] | None) -> Spread | None:
    if values is None:
        return None
    median, p95, p99, longest = values
    return Spread(median=median, p95=p95, p99=p99, longest=longest)
