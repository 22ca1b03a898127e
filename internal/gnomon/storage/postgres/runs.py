"""RunStore on Postgres: executions that people ask for, or no longer want."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine, select

from gnomon.job.ids import backfill_id, id_bounds, manual_id
from gnomon.job.model import Execution, Job, State, Trigger
from gnomon.job.ports import Once, Requested
from gnomon.storage.postgres import statements
from gnomon.storage.postgres.births import Birth, insert_executions, insert_wanted
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.forgotten import forgotten_moments
from gnomon.storage.postgres.history import read_execution
from gnomon.storage.postgres.jobs import locked_job
from gnomon.storage.postgres.keys import known_resource, remember
from gnomon.storage.postgres.quotas import check_backlog, check_waiting
from gnomon.storage.postgres.sessions import announce, database_clock
from gnomon.storage.postgres.tables import executions, jobs
from gnomon.storage.refusals import no_execution, overlapping, refuse_cancel, refuse_repeat


class PostgresRunStore:
    """RunStore on Postgres. Each verb holds its job's row lock, so that no dispatch is in between."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, job_id: UUID, *, may_wait: bool, once: Once | None) -> Requested:
        """The key is written with the execution, or not at all."""
        with translated(), self._engine.begin() as connection:
            return _once(connection, once, lambda: job_id, lambda job: _create(connection, job, may_wait=may_wait))

    def retry(self, execution_id: UUID, *, same_revision: bool, may_wait: bool, once: Once | None) -> Requested:
        """As `run`."""

        def create(job: Job) -> UUID:
            failed = read_execution(connection, execution_id)
            refuse_repeat(failed)
            return _create(connection, job, may_wait=may_wait, repeats=failed, same_revision=same_revision)

        with translated(), self._engine.begin() as connection:
            return _once(connection, once, lambda: read_execution(connection, execution_id).job_id, create)

    def backfill(
        self,
        job_id: UUID,
        choose: Callable[[Job, datetime], Sequence[datetime]],
        *,
        request_id: UUID,
        pace: timedelta,
        dry_run: bool,
    ) -> Sequence[datetime]:
        """The first is due at once; which others wait for it is for the unique indexes to say."""
        with translated(), self._engine.begin() as connection:
            job, now = locked_job(connection, job_id)
            chosen = choose(job, now)
            booked = _booked(connection, job_id, chosen) | forgotten_moments(connection, job, chosen)
            moments = [moment for moment in chosen if moment not in booked]
            if moments and not dry_run:
                births = [
                    {
                        "id": backfill_id(request_id, job_id, moment),
                        "job_id": job_id,
                        "scheduled_at": moment,
                        "available_at": now + pace * number,
                        "serial": True,
                    }
                    for number, moment in enumerate(moments)
                ]
                created = insert_wanted(connection, births, trigger=Trigger.BACKFILL, now=now)
                refused = [birth for birth in births if birth["id"] not in created]
                insert_executions(connection, refused, State.WAITING, trigger=Trigger.BACKFILL, slot=None)
                check_backlog(connection, job_id)
                announce(connection, now)
            return moments

    def cancel(self, execution_id: UUID) -> Execution:
        """One statement under the row lock of the job, which may be deleted already."""
        with translated(), self._engine.begin() as connection:
            _lock_job_of(connection, execution_id)
            connection.execute(statements.CANCEL, {"id": execution_id})
            execution = read_execution(connection, execution_id)
            refuse_cancel(execution)
            return execution


def _once(
    connection: Connection, once: Once | None, find_job: Callable[[], UUID], create: Callable[[Job], UUID]
) -> Requested:
    """What was made with this key before; else what `create` makes under the job's row lock."""
    if once is not None and (known := known_resource(connection, once)) is not None:
        return Requested(execution=read_execution(connection, known), replayed=True)
    job, _ = locked_job(connection, find_job())
    if once is not None and (known := known_resource(connection, once)) is not None:  # a twin was quicker
        return Requested(execution=read_execution(connection, known), replayed=True)
    execution_id = create(job)
    if once is not None:
        remember(connection, once, execution_id)
    return Requested(execution=read_execution(connection, execution_id), replayed=False)


def _create(
    connection: Connection, job: Job, *, may_wait: bool, repeats: Execution | None = None, same_revision: bool = False
) -> UUID:
    now = database_clock(connection)
    execution_id = manual_id(now)
    birth: Birth = {"id": execution_id, "job_id": job.id, "scheduled_at": now, "serial": False}
    trigger = Trigger.MANUAL
    if repeats is not None:
        trigger = Trigger.RETRY_OF
        birth |= {"repeats": repeats.id, **(_as_it_was(connection, repeats) if same_revision else {})}
    if insert_wanted(connection, [birth], trigger=trigger, now=now):
        announce(connection, now)
    elif may_wait:
        insert_executions(connection, [{**birth, "serial": True}], State.WAITING, trigger=trigger, slot=None)
        check_waiting(connection, job.id)
    else:
        raise overlapping(job.id, _active(connection, job.id))
    return execution_id


def _as_it_was(connection: Connection, execution: Execution) -> Birth:
    columns = executions.c
    chosen = select(columns.revision, columns.kind, columns.queue, columns.max_attempts)
    return dict(connection.execute(chosen.where(columns.id == execution.id)).one()._mapping)


def _active(connection: Connection, job_id: UUID) -> tuple[UUID, str] | None:
    unfinished = executions.c.state.in_([State.PENDING.value, State.RUNNING.value])
    chosen = select(executions.c.id, executions.c.state).where(executions.c.job_id == job_id, unfinished)
    row = connection.execute(chosen.where(executions.c.overlap != "allow")).first()
    return None if row is None else (row.id, row.state)


def _booked(connection: Connection, job_id: UUID, moments: Sequence[datetime]) -> set[datetime]:
    """Which of the moments have an execution that was not skipped."""
    if not moments:
        return set()
    chosen = select(executions.c.scheduled_at).where(
        executions.c.job_id == job_id,
        executions.c.id.between(id_bounds(moments[0])[0], id_bounds(moments[-1])[1]),
        executions.c.trigger.in_([Trigger.SCHEDULE.value, Trigger.BACKFILL.value]),
        executions.c.state != State.SKIPPED.value,
    )
    return set(connection.execute(chosen).scalars())


def _lock_job_of(connection: Connection, execution_id: UUID) -> None:
    its_job = select(executions.c.job_id).where(executions.c.id == execution_id).scalar_subquery()
    lock = select(jobs.c.id).where(jobs.c.id == its_job).with_for_update(key_share=True)
    if connection.execute(lock).first() is None:
        raise no_execution(execution_id)
