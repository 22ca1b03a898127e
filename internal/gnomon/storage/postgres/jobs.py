"""JobStore on Postgres: definitions, revisions and where each job stands."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, and_, insert, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import Text

from gnomon.job.changes import changed_fields
from gnomon.job.errors import NotFound, RevisionMismatch
from gnomon.job.model import Action, Definition, Job, JobStatus
from gnomon.job.ports import Event, JobChange, JobQuery, NewJob, Page
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.quotas import check_jobs
from gnomon.storage.postgres.rows import Unreadable, definition_columns, definition_document, read_stored_definition
from gnomon.storage.postgres.sessions import announce, database_clock, principal_of
from gnomon.storage.postgres.tables import executions, job_events, job_revisions, jobs
from gnomon.storage.refusals import name_taken, no_job, no_job_named

# What runs finishes the attempt it is in: its row allows no other. Which rows those are is only known once they are
# locked: a claim and a retry may be on their way.
DELETE = text("""
with gone as (
    update jobs set deleted_at = now(), updated_at = now(), status = 'STOPPED', next_run = null, paused_until = null
    where id = :id and deleted_at is null
), pick as materialized (
    select id, state from executions
    where job_id = :id and state in ('WAITING', 'PENDING', 'RUNNING') order by id for no key update
), cancelled as (
    update executions e set state = 'CANCELLED', finished_at = now()
    from pick where e.id = pick.id and pick.state in ('WAITING', 'PENDING')
)
update executions e set max_attempts = 0 from pick where e.id = pick.id and pick.state = 'RUNNING'
""")


class PostgresJobStore:
    """JobStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def create(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """One transaction: the job, its first revision, and the announcement of its first moment."""
        with translated(), self._engine.begin() as connection:
            return insert_job(connection, prepare)

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound."""
        with translated(), self._autocommit.connect() as connection:
            return read_job(connection, job_id)

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound."""
        with translated(), self._autocommit.connect() as connection:
            return _one(connection, _select_jobs().where(jobs.c.name == name), no_job_named(name))

    def list(self, query: JobQuery) -> Page[Job]:
        """Newest first."""
        chosen = filtered_jobs(_select_jobs(), query)
        if query.cursor is not None:
            created_at, last_id = read_cursor(query.cursor)
            chosen = chosen.where(tuple_(jobs.c.created_at, jobs.c.id) < tuple_(literal(created_at), literal(last_id)))
        chosen = chosen.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(query.limit + 1).offset(query.offset)
        with translated(), self._autocommit.connect() as connection:
            rows = connection.execute(chosen).all()
        items = [_read_job(row) for row in rows[: query.limit]]
        more = len(rows) > query.limit
        return Page(items=items, cursor=write_cursor(items[-1].created_at, items[-1].id) if more else None)

    def update(self, job_id: UUID, decide: Callable[[Job, datetime], JobChange | None]) -> Job:
        """One transaction under the job's row lock; dispatch passes over the job meanwhile."""
        with translated(), self._engine.begin() as connection:
            job = locked_job(connection, job_id)
            now = database_clock(connection)
            change = decide(job, now)
            if change is None:
                return job
            write_change(connection, job, change, now)
            return read_job(connection, job_id)

    def delete(self, job_id: UUID, *, if_revision: int | None = None) -> None:
        """One transaction under the job's row lock, so that what a dispatch is creating meanwhile is cancelled too."""
        with translated(), self._engine.begin() as connection:
            job = locked_job(connection, job_id)
            RevisionMismatch.check(job_id, job.revision, if_revision)
            owed_until = job.next_run if job.status is JobStatus.RUNNING else None
            _insert_event(connection, job_id, job.revision, Event(action=Action.DELETED, owed_until=owed_until))
            connection.execute(DELETE, {"id": job_id})


def insert_job(connection: Connection, prepare: Callable[[datetime], NewJob]) -> Job:
    """The job, its first revision, and the announcement of its first moment. Raises NameTaken and QuotaExceeded."""
    now = database_clock(connection)
    new = prepare(now)
    try:
        insert_jobs(connection, [new], now)
    except IntegrityError as error:
        raise _name_taken(error, new.definition.name) from error
    return read_job(connection, new.id)


def insert_jobs(connection: Connection, born: Sequence[NewJob], now: datetime) -> None:
    """As insert_job, for any number of them. Raises IntegrityError where one can't be, and QuotaExceeded."""
    rows = [
        {
            "id": new.id,
            "status": JobStatus.RUNNING.value,
            "revision": 1,
            "next_run": new.next_run,
            "created_at": now,
            "updated_at": now,
            "created_by": principal_of(connection),
            **definition_columns(new.definition),
        }
        for new in born
    ]
    revisions = [{"job_id": new.id, "revision": 1, "definition": definition_document(new.definition)} for new in born]
    event = Event(action=Action.CREATED, owed_from=now)
    connection.execute(insert(jobs), rows)
    connection.execute(insert(job_revisions), revisions)
    connection.execute(insert(job_events), [_event_row(connection, new.id, 1, event) for new in born])
    announce(connection, min((new.next_run for new in born if new.next_run is not None), default=None))
    check_jobs(connection)


def read_job(connection: Connection, job_id: UUID) -> Job:
    """Raises NotFound, also for a deleted job."""
    return _one(connection, _select_jobs().where(jobs.c.id == job_id), no_job(job_id))


def locked_job(connection: Connection, job_id: UUID) -> Job:
    """The job; dispatch passes over it until the transaction ends. Raises NotFound."""
    living = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None))
    if connection.execute(living.with_for_update(key_share=True)).first() is None:
        raise no_job(job_id)
    return read_job(connection, job_id)


def write_change(connection: Connection, job: Job, change: JobChange, now: datetime) -> None:
    """Of a locked job; also announces its next moment. Raises NameTaken."""
    edited = change.definition is not None and change.definition != job.definition
    revision = job.revision + 1 if edited else job.revision
    values: dict[str, Any] = {
        "status": change.status.value,
        "revision": revision,
        "next_run": change.next_run,
        "held_until": None,
        "hold_reason": None,
        "pause_reason": change.pause_reason,
        "paused_until": change.paused_until,
        "updated_at": now,
    }
    if change.definition is not None and edited:
        values |= definition_columns(change.definition)
    try:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))
    except IntegrityError as error:
        raise _name_taken(error, values.get("name")) from error
    if change.definition is not None and edited:
        _insert_revision(connection, job.id, revision, definition_document(change.definition))
    changed = changed_fields(job.definition, change.definition) if edited and change.definition else ()
    _insert_event(connection, job.id, revision, change.event, changed)
    announce(connection, change.paused_until or change.next_run)


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
            jobs.c.name,
            jobs.c.type,
            jobs.c.tags,
            jobs.c.status,
            jobs.c.revision,
            jobs.c.next_run,
            jobs.c.created_at,
            jobs.c.updated_at,
            jobs.c.held_until,
            jobs.c.hold_reason,
            jobs.c.pause_reason,
            jobs.c.paused_until,
            job_revisions.c.definition,
            last.label("last_run"),
            active.c.worker.label("locked_by"),
            active.c.lease_expires_at.label("locked_until"),
        )
        .join(job_revisions, and_(job_revisions.c.job_id == jobs.c.id, job_revisions.c.revision == jobs.c.revision))
        .outerjoin(active, literal(True))
        .where(jobs.c.deleted_at.is_(None))
    )


def filtered_jobs(chosen: Select[Any], query: JobQuery) -> Select[Any]:
    """Narrows a selection from `jobs` to what the query asks for, but for where its page lies."""
    if query.status is not None:
        chosen = chosen.where(jobs.c.status == query.status.value)
    if query.kind is not None:
        chosen = chosen.where(jobs.c.type == query.kind)
    if query.tags:
        chosen = chosen.where(jobs.c.tags.contains(literal(list(query.tags), ARRAY(Text))))
    if query.name_contains is not None:
        chosen = chosen.where(jobs.c.name.icontains(query.name_contains, autoescape=True))
    if query.queue is not None:
        chosen = chosen.where(jobs.c.queue == query.queue)
    if query.next_run_after is not None:
        chosen = chosen.where(jobs.c.next_run >= query.next_run_after)
    if query.next_run_before is not None:
        chosen = chosen.where(jobs.c.next_run <= query.next_run_before)
    return chosen


def _read_job(row: Row[Any]) -> Job:
    stored = read_stored_definition(row.definition)
    return Job(
        id=row.id,
        definition=stored if isinstance(stored, Definition) else None,
        unreadable=stored.reason if isinstance(stored, Unreadable) else None,
        name=row.name,
        kind=row.type,
        tags=tuple(row.tags),
        status=JobStatus(row.status),
        revision=row.revision,
        next_run=row.next_run,
        created_at=row.created_at,
        updated_at=row.updated_at,
        held_until=row.held_until,
        hold_reason=row.hold_reason,
        pause_reason=row.pause_reason,
        paused_until=row.paused_until,
        last_run=row.last_run,
        locked_by=row.locked_by,
        locked_until=row.locked_until,
    )


def _one(connection: Connection, chosen: Select[Any], missing: NotFound) -> Job:
    row = connection.execute(chosen).first()
    if row is None:
        raise missing
    return _read_job(row)


def _insert_revision(connection: Connection, job_id: UUID, revision: int, definition: dict[str, Any]) -> None:
    connection.execute(insert(job_revisions).values(job_id=job_id, revision=revision, definition=definition))


def _insert_event(
    connection: Connection, job_id: UUID, revision: int, event: Event, changed: Sequence[str] = ()
) -> None:
    connection.execute(insert(job_events), _event_row(connection, job_id, revision, event, changed))


def _event_row(
    connection: Connection, job_id: UUID, revision: int, event: Event, changed: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "action": event.action.value,
        "revision": revision,
        "owed_from": event.owed_from,
        "owed_until": event.owed_until,
        "reason": event.reason,
        "principal": principal_of(connection),
        "changed": list(changed),
    }


def _name_taken(error: IntegrityError, name: str | None) -> Exception:
    if getattr(error.orig, "diag", None) is not None and error.orig.diag.constraint_name == "jobs_name":  # type: ignore[union-attr]
        return name_taken(name)
    return error
