"""ImportStore on Postgres: many jobs in one transaction, new ones together, and each of the others in a savepoint."""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, Engine, or_, select, update
from sqlalchemy.exc import IntegrityError

from gnomon.job.errors import Conflict, InvalidJob, NotFound, QuotaExceeded
from gnomon.job.model import Job, JobStatus
from gnomon.job.ports import Imported, ImportStep, NewJob
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.jobs import insert_job, insert_jobs, reopened_job, write_change
from gnomon.storage.postgres.quotas import create_alone
from gnomon.storage.postgres.sessions import database_clock
from gnomon.storage.postgres.tables import jobs


class PostgresImportStore:
    """ImportStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, steps: Sequence[ImportStep], *, dry_run: bool) -> Sequence[Imported]:
        """Dispatch passes over the jobs it has replaced until the transaction ends: a batch should be small."""
        with translated(), self._engine.connect() as connection, connection.begin() as transaction:
            create_alone(connection)
            created = _create_together(connection, _new_ones(connection, steps))
            done = [created.get(place) or _put_alone(connection, step) for place, step in enumerate(steps)]
            if dry_run:
                transaction.rollback()
            return done


def _new_ones(connection: Connection, steps: Sequence[ImportStep]) -> Mapping[int, ImportStep]:
    """By their place, those that surely mean no job that is here, and no other of these steps."""
    names = [step.name for step in steps if step.name is not None]
    ids = [step.job_id for step in steps if step.job_id is not None]
    known = select(jobs.c.id, jobs.c.name).where(or_(jobs.c.name.in_(names), jobs.c.id.in_(ids)))
    taken: set[object] = {value for row in connection.execute(known) for value in row}
    often = Counter([*names, *ids])
    return {
        place: step
        for place, step in enumerate(steps)
        if step.status is JobStatus.RUNNING
        and all(value not in taken and often[value] == 1 for value in (step.name, step.job_id) if value is not None)
    }


def _create_together(connection: Connection, steps: Mapping[int, ImportStep]) -> dict[int, Imported]:
    """What became of them; nothing where one of them can't be created: each is then tried by itself."""
    done: dict[int, Imported] = {}
    born: list[NewJob] = []
    now = database_clock(connection)
    for place, step in steps.items():
        try:
            born.append(step.prepare(now))
        except (InvalidJob, Conflict) as error:
            done[place] = Imported(outcome="refused", error=error)
        else:
            done[place] = Imported(outcome="created")
    try:
        with connection.begin_nested():
            if born:
                insert_jobs(connection, born, now)
    except (IntegrityError, QuotaExceeded):
        return {}
    return done


def _put_alone(connection: Connection, step: ImportStep) -> Imported:
    try:
        with connection.begin_nested() as savepoint:
            done = _put(connection, step)
            if done.outcome == "unchanged":
                savepoint.rollback()
            return done
    except (InvalidJob, Conflict, NotFound) as error:
        return Imported(outcome="refused", error=error)
    except IntegrityError:  # of its id
        return Imported(outcome="refused", error=Conflict("another request created the job meanwhile: send it again"))


def _put(connection: Connection, step: ImportStep) -> Imported:
    found = _meant(connection, step)
    if found is None:
        _create(connection, step)
        return Imported(outcome="created")
    job, now = reopened_job(connection, found)
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
