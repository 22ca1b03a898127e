"""JobStore in memory: definitions, revisions and where each job stands."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from gnomon.job.errors import RevisionMismatch
from gnomon.job.model import Definition, Job, JobStatus, State
from gnomon.job.ports import JobChange, JobQuery, NewJob, Page
from gnomon.job.target import type_of
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.memory.rows import JobRow
from gnomon.storage.memory.state import Memory, as_stored
from gnomon.storage.refusals import name_taken, no_job_named


class MemoryJobStore:
    """JobStore within this process; see `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def create(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """Raises NameTaken."""
        with self._memory.transaction() as now:
            new = prepare(now)
            definition = as_stored(new.definition)
            self._take_name(new.id, definition)
            row = _born(new, definition, now)
            self._memory.jobs[new.id] = row
            self._memory.place(row)
            self._memory.announce(new.next_run)
            return self._memory.show(row)

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound."""
        with self._memory.transaction():
            return self._memory.show(self._memory.job(job_id))

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound."""
        with self._memory.transaction():
            job_id = self._memory.names.get(name)
            if job_id is None:
                raise no_job_named(name)
            return self._memory.show(self._memory.job(job_id))

    def list(self, query: JobQuery) -> Page[Job]:
        """Newest first."""
        with self._memory.transaction():
            found = [row.job for row in self._memory.jobs.values() if not row.deleted and _fits(row.job, query)]
            found.sort(key=_newness, reverse=True)
            if query.cursor is not None:
                last = read_cursor(query.cursor)
                found = [job for job in found if _newness(job) < last]
            part = found[query.offset : query.offset + query.limit + 1]
            items = [self._memory.show(self._memory.jobs[job.id]) for job in part[: query.limit]]
        more = len(part) > query.limit
        return Page(items=items, cursor=write_cursor(items[-1].created_at, items[-1].id) if more else None)

    def update(self, job_id: UUID, decide: Callable[[Job, datetime], JobChange | None]) -> Job:
        """Under the lock, so no dispatch is in between."""
        with self._memory.transaction() as now:
            row = self._memory.job(job_id)
            change = decide(self._memory.show(row), now)
            if change is None:
                return self._memory.show(row)
            self._write(row, change, now)
            self._memory.announce(change.paused_until or change.next_run)
            return self._memory.show(row)

    def delete(self, job_id: UUID, *, if_revision: int | None = None) -> None:
        """What runs finishes the attempt it is in, and gets no other. Raises NotFound and RevisionMismatch."""
        with self._memory.transaction() as now:
            row = self._memory.job(job_id)
            RevisionMismatch.check(job_id, row.job.revision, if_revision)
            row.deleted = True
            if row.job.name is not None:
                del self._memory.names[row.job.name]
            row.job = replace(row.job, status=JobStatus.STOPPED, next_run=None, paused_until=None, updated_at=now)
            self._memory.place(row)
            for execution in [self._memory.rows[execution_id] for execution_id in row.executions]:
                if execution.state in (State.WAITING, State.PENDING):
                    self._memory.move(execution, State.CANCELLED, finished_at=now)
                elif execution.state is State.RUNNING:
                    execution.execution = replace(execution.execution, max_attempts=0)
            self._memory.bury(row)

    def _write(self, row: JobRow, change: JobChange, now: datetime) -> None:
        if change.definition is not None and change.definition != row.job.definition:
            definition = as_stored(change.definition)
            self._take_name(row.job.id, definition)
            row.define(row.job.revision + 1, definition)
            self._memory.drop_revisions(row)
        row.job = replace(
            row.job,
            status=change.status,
            next_run=change.next_run,
            held_until=None,
            hold_reason=None,
            pause_reason=change.pause_reason,
            paused_until=change.paused_until,
            updated_at=now,
        )
        self._memory.place(row)

    def _take_name(self, job_id: UUID, definition: Definition) -> None:
        names, known = self._memory.names, self._memory.jobs.get(job_id)
        name, old = definition.name, None if known is None else known.job.name
        if name is not None and names.get(name, job_id) != job_id:
            raise name_taken(name)
        if old is not None:
            del names[old]
        if name is not None:
            names[name] = job_id


def _born(new: NewJob, definition: Definition, now: datetime) -> JobRow:
    job = Job(
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
    return JobRow(job=job, revisions={1: definition})


def _newness(job: Job) -> tuple[datetime, UUID]:
    return job.created_at, job.id


def _fits(job: Job, query: JobQuery) -> bool:
    return (
        (query.status is None or job.status is query.status)
        and (query.kind is None or job.kind == query.kind)
        and set(query.tags) <= set(job.tags)
        and (query.name_contains is None or query.name_contains.lower() in (job.name or "").lower())
        and (query.queue is None or (job.definition is not None and job.definition.target.queue == query.queue))
        and _due_between(job.next_run, query.next_run_after, query.next_run_before)
    )


def _due_between(next_run: datetime | None, first: datetime | None, last: datetime | None) -> bool:
    if next_run is None:
        return first is None and last is None
    return (first is None or first <= next_run) and (last is None or next_run <= last)
