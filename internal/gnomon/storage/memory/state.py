"""What all stores of one process share: the jobs, the executions, one lock and one clock."""

import json
import random
import threading
import weakref
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from gnomon.job.model import Definition, Job, JobStatus, State
from gnomon.job.ports import DURATION_BUCKETS, Clock, Tally
from gnomon.job.stored import read_stored, write_stored
from gnomon.storage.memory.agenda import Agenda
from gnomon.storage.memory.rows import JobRow, Row
from gnomon.storage.refusals import no_execution, no_job

# How many ended executions of each job are kept, and how many deleted jobs with theirs.
HISTORY = 1_000
DELETED_JOBS = 1_000
PRUNED_SHARE = 10  # of so many kept, one more may lie around: to look for it each time would cost too much
KEY_KEPT = timedelta(hours=24)

ARROWS = {
    State.WAITING: {State.PENDING, State.CANCELLED},
    State.PENDING: {State.RUNNING, State.CANCELLED},
    State.RUNNING: {State.PENDING, State.SUCCEEDED, State.FAILED, State.UNKNOWN, State.CANCELLED},
}


class Listener(Protocol):
    """Who wants to know of moments that came nearer."""

    def announce(self, moment: datetime) -> None:
        """Something is due at `moment`; called while the lock is held."""


def system_clock() -> datetime:
    """This machine's."""
    return datetime.now(UTC)


def as_stored(definition: Definition) -> Definition:
    """What comes back from a store that keeps documents: nothing in it is shared with the caller."""
    return read_stored(json.loads(json.dumps(write_stored(definition))))


class Memory:
    """The data behind the five ports, for one process. Every verb is one `transaction`.

    `clock` decides what is due and never sleeps; `rand` draws from [0, 1). Of each job the newest `history` ended
    executions are kept, at times a tenth more, and those that an Idempotency-Key stands for; and the newest thousand
    deleted jobs. Moments of executions that are no longer kept are not backfilled: nobody knows whether they ran.
    """

    def __init__(
        self, *, clock: Clock = system_clock, rand: Callable[[], float] = random.random, history: int = HISTORY
    ) -> None:
        self.clock = clock
        self.rand = rand
        self.jobs: dict[UUID, JobRow] = {}
        self.names: dict[str, UUID] = {}
        self.rows: dict[UUID, Row] = {}
        self.due = Agenda()  # jobs, by next_run
        self.held = Agenda()  # jobs, by held_until
        self.pauses = Agenda()  # jobs, by paused_until
        self.publish = Agenda()  # pending executions, by next_publish_at
        self.leases = Agenda()  # running executions, by lease_expires_at
        self.keys: dict[str, tuple[str, UUID, datetime]] = {}  # in order of their ends
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._history = history
        self._deleted: dict[UUID, None] = {}  # in order of their deletion
        self._lock = threading.RLock()
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()

    @contextmanager
    def transaction(self) -> Iterator[datetime]:
        """Nobody else reads or writes meanwhile; gives the moment at which all of it happens."""
        with self._lock:
            yield self.clock()

    def listen(self, listener: Listener) -> None:
        """As long as the listener lives."""
        with self._lock:
            self._listeners.add(listener)

    def announce(self, moment: datetime | None) -> None:
        """Wakes schedulers that mean to sleep longer than until this moment."""
        if moment is not None:
            for listener in self._listeners:
                listener.announce(moment)

    def job(self, job_id: UUID) -> JobRow:
        """A living one. Raises NotFound."""
        row = self.jobs.get(job_id)
        if row is None or row.deleted:
            raise no_job(job_id)
        return row

    def row(self, execution_id: UUID) -> Row:
        """Raises NotFound."""
        row = self.rows.get(execution_id)
        if row is None:
            raise no_execution(execution_id)
        return row

    def show(self, row: JobRow) -> Job:
        """The job, with what its executions say of it."""
        active = self.rows[row.running[-1]] if row.running else None
        return replace(
            row.job,
            locked_by=None if active is None else active.execution.worker,
            locked_until=None if active is None else active.lease_expires_at,
        )

    def place(self, row: JobRow) -> None:
        """Puts a job where its status, its hold and its next moment belong."""
        job = row.job
        running, stopped = job.status is JobStatus.RUNNING, job.status is JobStatus.STOPPED
        self.due.set(job.id, job.next_run if running and job.held_until is None else None)
        self.held.set(job.id, job.held_until if running else None)
        self.pauses.set(job.id, job.paused_until if stopped else None)

    def end_holds(self, now: datetime) -> None:
        """Jobs whose hold is over are due again as they were; dispatch takes the reason away."""
        for job_id in self.held.up_to(now):
            self.held.set(job_id, None)
            self.due.set(job_id, self.jobs[job_id].job.next_run)

    def insert(self, row: Row) -> bool:
        """Whether neither the id nor the overlap of its job is in the way."""
        job = self.jobs[row.execution.job_id]
        if row.id in self.rows or not job.admits(row):
            return False
        self.rows[row.id] = row
        insort(job.executions, row.id)
        self._enter(job, row)
        self._prune(job)
        return True

    def move(self, row: Row, to: State, *, publish_at: datetime | None = None, **changes: Any) -> None:
        """Along one arrow of the state machine. What is PENDING needs `publish_at`; what runs has its lease set."""
        if to not in ARROWS.get(row.state, ()):
            raise RuntimeError(f"execution {row.id}: {row.state} can not become {to}")
        job = self.jobs[row.execution.job_id]
        job.leave(row)
        row.execution = replace(row.execution, state=to, **changes)
        row.next_publish_at = publish_at
        row.publish_count = 0 if to is State.PENDING else row.publish_count
        row.lease_expires_at = row.lease_expires_at if to is State.RUNNING else None
        self._enter(job, row)
        if to.final:
            self._prune(job)

    def lease(self, row: Row, until: datetime) -> None:
        """Of one that runs."""
        row.lease_expires_at = until
        self.leases.set(row.id, until)

    def slot(self, row: Row, until: datetime, count: int) -> None:
        """When one that is pending is published next, after `count` messages."""
        row.next_publish_at, row.publish_count = until, count
        self.publish.set(row.id, until)

    def promote(self, job_id: UUID, now: datetime) -> bool:
        """The oldest that waits becomes due; whether there was one."""
        waiting = self.jobs[job_id].waiting
        if not waiting:
            return False
        self.move(self.rows[waiting[0]], State.PENDING, publish_at=now, available_at=now)
        self.announce(now)
        return True

    def make_way(self, row: Row, now: datetime) -> bool:
        """After a move: where the active execution of a job ended, the oldest that waits has its turn.

        One that may overlap others was in nobody's way. As all of this is one transaction, none waits for nothing.
        """
        return row.state.final and row.in_the_way and self.promote(row.execution.job_id, now)

    def tally(self, kind: str, outcome: str, seconds: float | None = None) -> None:
        """Counts one attempt, and how long it took."""
        old = self._tallies.get((kind, outcome))
        buckets = [0] * (len(DURATION_BUCKETS) + 1) if old is None else list(old.duration_buckets)
        if seconds is not None:
            buckets[bisect_right(DURATION_BUCKETS, seconds)] += 1
        self._tallies[kind, outcome] = Tally(
            kind=kind,
            outcome=outcome,
            count=1 if old is None else old.count + 1,
            duration_sum=(0.0 if old is None else old.duration_sum) + (seconds or 0.0),
            duration_buckets=buckets,
        )

    def tallies(self) -> list[Tally]:
        """In order of kind and outcome."""
        return [self._tallies[key] for key in sorted(self._tallies)]

    def _enter(self, job: JobRow, row: Row) -> None:
        job.enter(row)
        self.publish.set(row.id, row.next_publish_at if row.state is State.PENDING else None)
        self.leases.set(row.id, row.lease_expires_at if row.state is State.RUNNING else None)

    def bury(self, job: JobRow) -> None:
        """Counts a deleted job among those that are forgotten one day, once all its executions have ended."""
        if not job.deleted or job.unfinished:
            return
        self._deleted[job.job.id] = None
        while len(self._deleted) > DELETED_JOBS:
            forgotten = next(iter(self._deleted))
            del self._deleted[forgotten]
            for execution_id in self.jobs.pop(forgotten).executions:
                del self.rows[execution_id]

    def drop_revisions(self, job: JobRow) -> None:
        """Keeps those that hold or that some execution is of."""
        if len(job.revisions) > 1:
            used = {self.rows[row_id].execution.revision for row_id in job.executions} | {job.job.revision}
            job.revisions = {revision: known for revision, known in job.revisions.items() if revision in used}

    def _prune(self, job: JobRow) -> None:
        """Forgets the oldest that ended, some at a time; but not what an Idempotency-Key stands for."""
        excess = job.finished - self._history
        if excess > self._history // PRUNED_SHARE:
            named = {execution_id for _, execution_id, _ in self.keys.values()}
            ended = (one for one in job.executions if one not in named and self.rows[one].state.final)
            for row_id in [row_id for row_id, _ in zip(ended, range(excess), strict=False)]:
                self._forget(job, row_id)
        self.bury(job)

    def _forget(self, job: JobRow, execution_id: UUID) -> None:
        row = self.rows.pop(execution_id)
        del job.executions[bisect_left(job.executions, execution_id)]
        job.leave(row)
        self.drop_revisions(job)
        moment = row.execution.skipped_until or row.execution.scheduled_at
        job.pruned_until = moment if job.pruned_until is None else max(job.pruned_until, moment)
