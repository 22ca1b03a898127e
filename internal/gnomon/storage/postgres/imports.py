"""ImportStore on Postgres: many jobs in one transaction, each by itself in a savepoint."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import IntegrityError

from gnomon.job.errors import Conflict, InvalidJob, NotFound
from gnomon.job.model import Job, JobStatus
from gnomon.job.ports import Imported, ImportStep
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.jobs import insert_job, locked_job, write_change
from gnomon.storage.postgres.sessions import database_clock
from gnomon.storage.postgres.tables import jobs


class PostgresImportStore:
    """ImportStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, steps: Sequence[ImportStep], *, dry_run: bool) -> Sequence[Imported]:
        """Dispatch passes over the jobs it has replaced until the transaction ends: a batch should be small."""
        with translated(), self._engine.connect() as connection, connection.begin() as transaction:
            done = [_put_alone(connection, step) for step in steps]
            if dry_run:
                transaction.rollback()
            return done


def _put_alone(connection: Connection, step: ImportStep) -> Imported:
    try:
        with connection.begin_nested():
            return _put(connection, step)
    except (InvalidJob, Conflict, NotFound) as error:
        return Imported(outcome="refused", error=error)
    except IntegrityError:  # of its id
        return Imported(outcome="refused", error=Conflict("another request created the job meanwhile: send it again"))


def _put(connection: Connection, step: ImportStep) -> Imported:
    found = _meant(connection, step)
    if found is None:
        _create(connection, step)
        return Imported(outcome="created")
    job, now = locked_job(connection, found), database_clock(connection)
    change = step.replace(job, now)
    if change is None:
        return Imported(outcome="unchanged")
    write_change(connection, job, change, now)
    return Imported(outcome="replaced")


def _meant(connection: Connection, step: ImportStep) -> UUID | None:
    """The living job of this name, or else of this id. Raises Conflict for an id whose job was deleted."""
    if step.name is not None:
        named = select(jobs.c.id).where(jobs.c.name == step.name, jobs.c.deleted_at.is_(None))
        if (found := connection.execute(named).scalar()) is not None:
            return UUID(str(found))
    row = connection.execute(select(jobs.c.id, jobs.c.deleted_at).where(jobs.c.id == step.job_id)).first()
    if row is None:
        return None
    if row.deleted_at is not None:
        raise Conflict(f"job {row.id} was deleted here, and its id is not given again: leave the id out")
    return UUID(str(row.id))


def _create(connection: Connection, step: ImportStep) -> None:
    job: Job = insert_job(connection, step.prepare)
    if step.status is JobStatus.COMPLETED:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(status=step.status.value))
    elif step.status is JobStatus.STOPPED:
        now = database_clock(connection)
        if (change := step.stop(job, now)) is not None:
            write_change(connection, job, change, now)
