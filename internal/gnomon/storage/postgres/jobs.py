"""JobStore on Postgres: definitions, revisions and where each job stands."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, and_, func, insert, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import Text

from gnomon.job.document import read_definition
from gnomon.job.errors import NameTaken, NotFound
from gnomon.job.model import Job, JobStatus
from gnomon.job.ports import JobChange, JobQuery, NewJob, Page
from gnomon.storage.postgres import statements
from gnomon.storage.postgres.cursors import read_cursor, write_cursor
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.rows import definition_columns, definition_document
from gnomon.storage.postgres.tables import executions, job_revisions, jobs

NOTIFY = text(f"select pg_notify('{statements.WAKE_CHANNEL}', extract(epoch from cast(:at as timestamptz))::text)")

# What runs finishes the attempt it is in: its row allows no other.
DELETE = text("""
with gone as (
    update jobs set deleted_at = now(), updated_at = now(), status = 'STOPPED', next_run = null
    where id = :id and deleted_at is null returning id
), cancelled as (
    update executions e set state = 'CANCELLED', finished_at = now() from gone
    where e.job_id = gone.id and e.state in ('WAITING', 'PENDING')
), last_attempt as (
    update executions e set max_attempts = 0 from gone where e.job_id = gone.id and e.state = 'RUNNING'
)
select id from gone
""")


class PostgresJobStore:
    """JobStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def create(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """One transaction: the job, its first revision, and the announcement of its first moment."""
        with translated(), self._engine.begin() as connection:
            new = prepare(_now(connection))
            try:
                connection.execute(
                    insert(jobs).values(
                        id=new.id,
                        status=JobStatus.RUNNING.value,
                        revision=1,
                        next_run=new.next_run,
                        **definition_columns(new.definition),
                    )
                )
            except IntegrityError as error:
                raise _name_taken(error, new.definition.name) from error
            _insert_revision(connection, new.id, 1, definition_document(new.definition))
            _announce(connection, new.next_run)
            return _read_job(connection.execute(_select_jobs().where(jobs.c.id == new.id)).one())

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound."""
        with translated(), self._autocommit.connect() as connection:
            return _one(connection, _select_jobs().where(jobs.c.id == job_id), f"no job {job_id}")

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound."""
        with translated(), self._autocommit.connect() as connection:
            return _one(connection, _select_jobs().where(jobs.c.name == name), f"no job is named {name[:200]!r}")

    def list(self, query: JobQuery) -> Page[Job]:
        """Newest first."""
        chosen = _filtered(_select_jobs(), query)
        if query.cursor is not None:
            created_at, last_id = read_cursor(query.cursor)
            chosen = chosen.where(tuple_(jobs.c.created_at, jobs.c.id) < tuple_(literal(created_at), literal(last_id)))
        chosen = chosen.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(query.limit + 1).offset(query.offset)
        with translated(), self._autocommit.connect() as connection:
            rows = connection.execute(chosen).all()
        items = [_read_job(row) for row in rows[: query.limit]]
        more = len(rows) > query.limit
        return Page(items=items, cursor=write_cursor(items[-1].created_at, items[-1].id) if more else None)

    def update(self, job_id: UUID, decide: Callable[[Job, datetime], JobChange]) -> Job:
        """One transaction under the job's row lock; dispatch passes over the job meanwhile."""
        with translated(), self._engine.begin() as connection:
            lock = (
                select(jobs.c.id)
                .where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None))
                .with_for_update(key_share=True)
            )
            if connection.execute(lock).first() is None:
                raise NotFound(f"no job {job_id}")
            job = _one(connection, _select_jobs().where(jobs.c.id == job_id), f"no job {job_id}")
            change = decide(job, _now(connection))
            if change == JobChange(definition=job.definition, status=job.status, next_run=job.next_run):
                return job
            self._write(connection, job, change)
            _announce(connection, change.next_run)
            return _read_job(connection.execute(_select_jobs().where(jobs.c.id == job_id)).one())

    def delete(self, job_id: UUID) -> None:
        """One transaction under the job's row lock, so that what a dispatch is creating meanwhile is cancelled too."""
        with translated(), self._engine.begin() as connection:
            _lock(connection, job_id)
            connection.execute(DELETE, {"id": job_id})

    def _write(self, connection: Connection, job: Job, change: JobChange) -> None:
        revision = job.revision + 1
        try:
            connection.execute(
                update(jobs)
                .where(jobs.c.id == job.id)
                .values(
                    status=change.status.value,
                    revision=revision,
                    next_run=change.next_run,
                    held_until=None,
                    hold_reason=None,
                    updated_at=func.now(),
                    **definition_columns(change.definition),
                )
            )
        except IntegrityError as error:
            raise _name_taken(error, change.definition.name) from error
        _insert_revision(connection, job.id, revision, definition_document(change.definition))


def _select_jobs() -> Select[Any]:
    last = (
        select(executions.c.scheduled_at)
        .where(executions.c.job_id == jobs.c.id, executions.c.first_started_at.is_not(None))
        .order_by(executions.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    active = (
        select(executions.c.worker, executions.c.lease_expires_at)
        .where(executions.c.job_id == jobs.c.id, executions.c.state == "RUNNING")
        .order_by(executions.c.id.desc())
        .limit(1)
        .lateral("active")
    )
    return (
        select(
            jobs.c.id,
            jobs.c.status,
            jobs.c.revision,
            jobs.c.next_run,
            jobs.c.created_at,
            jobs.c.updated_at,
            jobs.c.held_until,
            jobs.c.hold_reason,
            job_revisions.c.definition,
            last.label("last_run"),
            active.c.worker.label("locked_by"),
            active.c.lease_expires_at.label("locked_until"),
        )
        .join(job_revisions, and_(job_revisions.c.job_id == jobs.c.id, job_revisions.c.revision == jobs.c.revision))
        .outerjoin(active, literal(True))
        .where(jobs.c.deleted_at.is_(None))
    )


def _filtered(chosen: Select[Any], query: JobQuery) -> Select[Any]:
    if query.status is not None:
        chosen = chosen.where(jobs.c.status == query.status.value)
    if query.kind is not None:
        chosen = chosen.where(jobs.c.type == query.kind)
    if query.tags:
        chosen = chosen.where(jobs.c.tags.contains(literal(list(query.tags), ARRAY(Text))))
    if query.name_contains is not None:
        chosen = chosen.where(jobs.c.name.icontains(query.name_contains, autoescape=True))
    return chosen


def _read_job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        definition=read_definition(row.definition),
        status=JobStatus(row.status),
        revision=row.revision,
        next_run=row.next_run,
        created_at=row.created_at,
        updated_at=row.updated_at,
        held_until=row.held_until,
        hold_reason=row.hold_reason,
        last_run=row.last_run,
        locked_by=row.locked_by,
        locked_until=row.locked_until,
    )


def _one(connection: Connection, chosen: Select[Any], missing: str) -> Job:
    row = connection.execute(chosen).first()
    if row is None:
        raise NotFound(missing)
    return _read_job(row)


def _lock(connection: Connection, job_id: UUID) -> None:
    """Dispatch passes over the job until the transaction ends. Raises NotFound."""
    living = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None))
    if connection.execute(living.with_for_update(key_share=True)).first() is None:
        raise NotFound(f"no job {job_id}")


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now


def _insert_revision(connection: Connection, job_id: UUID, revision: int, definition: dict[str, Any]) -> None:
    connection.execute(insert(job_revisions).values(job_id=job_id, revision=revision, definition=definition))


def _announce(connection: Connection, next_run: datetime | None) -> None:
    if next_run is not None:
        connection.execute(NOTIFY, {"at": next_run})


def _name_taken(error: IntegrityError, name: str | None) -> Exception:
    if getattr(error.orig, "diag", None) is not None and error.orig.diag.constraint_name == "jobs_name":  # type: ignore[union-attr]
        return NameTaken(f"another job is named {name!r}: choose another name, or change that job")
    return error
