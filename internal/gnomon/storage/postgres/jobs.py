"""JobStore on Postgres: definitions, revisions and where each job stands."""

import json
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    bindparam,
    cast,
    func,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import Text

from gnomon.job.changes import changed_fields
from gnomon.job.errors import NotFound, RevisionMismatch
from gnomon.job.ids import id_bounds
from gnomon.job.model import Action, Definition, Job, JobStatus
from gnomon.job.ports import Event, JobChange, JobQuery, NewJob, Page
from gnomon.job.target import type_of
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.postgres.engine import Direct, autocommit, translated
from gnomon.storage.postgres.literals import json_rows
from gnomon.storage.postgres.quotas import check_jobs, has_job_quotas
from gnomon.storage.postgres.rows import (
    DEFINED,
    Unreadable,
    definition_columns,
    definition_document,
    read_stored_definition,
)
from gnomon.storage.postgres.sessions import CLOCK, database_clock, principal_of
from gnomon.storage.postgres.statements import TAKE_BACK, WAKE_CHANNEL
from gnomon.storage.postgres.tables import executions, job_revisions, jobs
from gnomon.storage.refusals import name_taken, no_job, no_job_named

DIALECT = dialect()  # type: ignore[no-untyped-call]
EVENT = """
insert into job_events (job_id, action, revision, owed_from, owed_until, reason, principal, changed)
values (:id, :action, :revision, :owed_from, :owed_until, :reason, :principal, cast(:changed as text[]))
"""
CHANGED = """
status = :status, next_run = :next_run, held_until = null, hold_reason = null, pause_reason = :pause_reason,
paused_until = :paused_until, updated_at = :now
"""
WAKE = f"""
select pg_notify('{WAKE_CHANNEL}', extract(epoch from cast(:wake_at as timestamptz))::text)
where cast(:wake_at as timestamptz) is not null
"""

BIRTH = text(f"""
with given as materialized (
    select * from json_to_recordset(cast(:born as json)) as g (
        id uuid, next_run timestamptz, definition jsonb,
        {", ".join(f"{name} {jobs.c[name].type.compile(DIALECT)}" for name in DEFINED)}
    )
), born as (
    insert into jobs (id, status, revision, next_run, created_at, updated_at, created_by, {", ".join(DEFINED)})
    select id, 'RUNNING', 1, next_run, :now, :now, :principal, {", ".join(DEFINED)} from given
), revised as (
    insert into job_revisions (job_id, revision, definition) select id, 1, definition from given
), booked as (
    insert into job_events (job_id, action, revision, owed_from, principal)
    select id, 'CREATED', 1, :now, :principal from given
)
select pg_notify('{WAKE_CHANNEL}', extract(epoch from min(next_run))::text) from given
having min(next_run) is not null
""")

CHANGE = text(f"with changed as (update jobs set {CHANGED} where id = :id), booked as ({EVENT}) {WAKE}")

EDIT = text(f"""
with changed as (
    update jobs set {CHANGED}, revision = :revision, {", ".join(f"{name} = :{name}" for name in DEFINED)} where id = :id
), revised as (
    insert into job_revisions (job_id, revision, definition) values (:id, :revision, cast(:definition as jsonb))
), booked as ({EVENT}) {WAKE}
""")

BEAR = Direct(BIRTH)

# What runs finishes the attempt it is in: its row allows no other. Which rows those are is only known once they are
# locked: a claim and a retry may be on their way.
DELETE = text(f"""
with gone as (
    update jobs set deleted_at = now(), updated_at = now(), status = 'STOPPED', next_run = null, paused_until = null
    where id = :id and deleted_at is null
), booked as ({EVENT}), pick as materialized (
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
        """One statement; with quotas one transaction, because what is too much is only known afterwards."""
        if has_job_quotas(self._engine):
            with translated(), self._engine.begin() as connection:
                return insert_job(connection, prepare)
        with translated():
            ((now,),) = CLOCK.rows(self._engine)
            new = prepare(now)
            with _names_taken(new.definition.name):
                BEAR.rows(self._engine, **_birth_values([new], now, principal_of(self._engine)))
        return _born(new, now)

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound."""
        with translated():
            return _read_job(_only(GET.rows(self._engine, id=job_id), no_job(job_id)))

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound."""
        with translated():
            return _read_job(_only(GET_BY_NAME.rows(self._engine, name=name), no_job_named(name)))

    def list(self, query: JobQuery) -> Page[Job]:
        """Newest first."""
        chosen = filtered_jobs(LIVING, query)
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
            job, now = reopened_job(connection, job_id)
            change = decide(job, now)
            if change is None:
                connection.rollback()
                return job
            return write_change(connection, job, change, now)

    def delete(self, job_id: UUID, *, if_revision: int | None = None) -> None:
        """One transaction under the job's row lock, so that what a dispatch is creating meanwhile is cancelled too."""
        with translated(), self._engine.begin() as connection:
            job, _ = reopened_job(connection, job_id)
            RevisionMismatch.check(job_id, job.revision, if_revision)
            owed_until = job.next_run if job.status is JobStatus.RUNNING else None
            event = Event(action=Action.DELETED, owed_until=owed_until)
            connection.execute(DELETE, {"id": job_id, **_event_values(connection, job.revision, event)})


def insert_job(connection: Connection, prepare: Callable[[datetime], NewJob]) -> Job:
    """The job, its first revision, and the announcement of its first moment. Raises NameTaken and QuotaExceeded."""
    now = database_clock(connection)
    new = prepare(now)
    with _names_taken(new.definition.name):
        insert_jobs(connection, [new], now)
    return _born(new, now)


def _born(new: NewJob, now: datetime) -> Job:
    definition = new.definition
    return Job(
        id=new.id,
        definition=definition,
        name=definition.name,
        kind=type_of(definition.target),
        tags=definition.tags,
        status=JobStatus.RUNNING,
        revision=1,
        next_run=new.next_run,
        created_at=now,
        updated_at=now,
    )


def insert_jobs(connection: Connection, born: Sequence[NewJob], now: datetime) -> None:
    """As insert_job, for any number of them. Raises IntegrityError where one can't be, and QuotaExceeded."""
    connection.execute(BIRTH, _birth_values(born, now, principal_of(connection)))
    check_jobs(connection)


def _birth_values(born: Sequence[NewJob], now: datetime, principal: str) -> dict[str, Any]:
    rows = [
        {
            "id": new.id,
            "next_run": new.next_run,
            "definition": definition_document(new.definition),
            **definition_columns(new.definition),
        }
        for new in born
    ]
    return {"born": json_rows(rows), "now": now, "principal": principal}


def read_job(connection: Connection, job_id: UUID) -> Job:
    """Raises NotFound, also for a deleted job."""
    return _read_job(_one(connection, BY_ID, {"id": job_id}, no_job(job_id)))


def locked_job(connection: Connection, job_id: UUID) -> tuple[Job, datetime]:
    """The job, and this very moment; dispatch passes over it until the transaction ends. Raises NotFound.

    Not by one statement: it would read what is beside the job as it was before it waited for the lock.
    """
    row = _locked_row(connection, job_id)
    return _read_job(row), row.now


def _locked_row(connection: Connection, job_id: UUID) -> Row[Any]:
    if connection.execute(LOCK, {"id": job_id}).first() is None:
        raise no_job(job_id)
    return _one(connection, LOCKED, {"id": job_id}, no_job(job_id))


def reopened_job(connection: Connection, job_id: UUID) -> tuple[Job, datetime]:
    """As locked_job, for whoever changes it: what was dispatched ahead of its moment is taken back, and is next again.

    Where it is not changed after all, the transaction has to be rolled back.
    """
    row = _locked_row(connection, job_id)
    job, now = _read_job(row), row.now
    first, _ = id_bounds(now)
    if row.latest is not None and row.latest >= first:
        taken = connection.execute(TAKE_BACK, {"id": job_id, "first": first}).one()
        job, now = replace(job, next_run=taken.next_run or job.next_run), taken.now
    if job.status is JobStatus.RUNNING and job.next_run is None:  # its last moment has come, or was cancelled
        job = replace(job, status=JobStatus.COMPLETED)
    return job, now


def write_change(connection: Connection, job: Job, change: JobChange, now: datetime) -> Job:
    """Of a locked job, which it returns as it is then; also announces its next moment. Raises NameTaken."""
    definition = change.definition
    edited = definition is not None and definition != job.definition
    changed = replace(
        job,
        status=change.status,
        revision=job.revision + 1 if edited else job.revision,
        next_run=change.next_run,
        held_until=None,
        hold_reason=None,
        pause_reason=change.pause_reason,
        paused_until=change.paused_until,
        updated_at=now,
    )
    values = {
        "id": job.id,
        "status": changed.status.value,
        "next_run": changed.next_run,
        "pause_reason": changed.pause_reason,
        "paused_until": changed.paused_until,
        "now": now,
        "wake_at": changed.paused_until or changed.next_run,
    }
    if definition is None or not edited:
        connection.execute(CHANGE, {**values, **_event_values(connection, changed.revision, change.event)})
        return changed
    event = _event_values(connection, changed.revision, change.event, changed_fields(job.definition, definition))
    stored = {"definition": json.dumps(definition_document(definition)), **definition_columns(definition)}
    with _names_taken(definition.name):
        connection.execute(EDIT, {**values, **event, **stored})
    return replace(
        changed,
        definition=definition,
        unreadable=None,
        name=definition.name,
        kind=type_of(definition.target),
        tags=definition.tags,
    )


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
            cast(job_revisions.c.definition, Text).label("definition"),
            last.label("last_run"),
            active.c.worker.label("locked_by"),
            active.c.lease_expires_at.label("locked_until"),
        )
        .join(job_revisions, and_(job_revisions.c.job_id == jobs.c.id, job_revisions.c.revision == jobs.c.revision))
        .outerjoin(active, literal(True))
        .where(jobs.c.deleted_at.is_(None))
    )


LIVING = _select_jobs()
# Of what was read: definitions and their texts of at most so many characters.
REMEMBERED, SMALL = 1_024, 4_096
BY_ID = LIVING.where(jobs.c.id == bindparam("id"))
Found = namedtuple("Found", LIVING.selected_columns.keys())  # type: ignore[misc]
GET = Direct(BY_ID)
GET_BY_NAME = Direct(LIVING.where(jobs.c.name == bindparam("name")))
# Under the lock: no dispatch of the job has seen a later moment. now() would not do, it is when the transaction began.
# `latest` tells whether something may have been dispatched ahead: ids begin with their moments.
LOCKED = BY_ID.add_columns(
    func.clock_timestamp().label("now"),
    select(executions.c.id)
    .where(executions.c.job_id == jobs.c.id)
    .order_by(executions.c.id.desc())
    .limit(1)
    .scalar_subquery()
    .label("latest"),
)
LOCK = (
    select(jobs.c.id).where(jobs.c.id == bindparam("id"), jobs.c.deleted_at.is_(None)).with_for_update(key_share=True)
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


def _read_job(row: Any) -> Job:
    stored = _read_definition(row.definition) if len(row.definition) <= SMALL else _parsed(row.definition)
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
        held_until=row.held_until if row.hold_reason is not None else None,
        hold_reason=row.hold_reason,
        pause_reason=row.pause_reason,
        paused_until=row.paused_until,
        last_run=row.last_run,
        locked_by=row.locked_by,
        locked_until=row.locked_until,
    )


def _parsed(stored: str) -> Definition | Unreadable:
    return read_stored_definition(json.loads(stored))


# The same text is the same definition, whoever asks again. It takes longer to check one than to fetch it.
_read_definition = lru_cache(maxsize=REMEMBERED)(_parsed)


def _only(rows: Sequence[tuple[Any, ...]], missing: NotFound) -> Any:
    if not rows:
        raise missing
    return Found._make(rows[0])


def _one(connection: Connection, chosen: Select[Any], wanted: Mapping[str, Any], missing: NotFound) -> Row[Any]:
    row = connection.execute(chosen, wanted).first()
    if row is None:
        raise missing
    return row


def _event_values(connection: Connection, revision: int, event: Event, changed: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "action": event.action.value,
        "revision": revision,
        "owed_from": event.owed_from,
        "owed_until": event.owed_until,
        "reason": event.reason,
        "principal": principal_of(connection),
        "changed": list(changed),
    }


@contextmanager
def _names_taken(name: str | None) -> Iterator[None]:
    """Raises NameTaken where another job bears the name."""
    try:
        yield
    except IntegrityError as error:
        if getattr(error.orig, "diag", None) is not None and error.orig.diag.constraint_name == "jobs_name":  # type: ignore[union-attr]
            raise name_taken(name) from error
        raise
