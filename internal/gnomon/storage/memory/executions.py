"""The worker's side of executions in memory: C, S, W, L and the renewal of leases, of docs/protocol.md."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.model import Attempt, Definition, State
from gnomon.job.ports import Claimed, Record, Token
from gnomon.storage.memory.rows import Row
from gnomon.storage.memory.slots import MAX_SLOT, return_slots
from gnomon.storage.memory.state import Memory

AGAIN_AFTER_FAILURE = "retried"
COUNTED_AT_MOST = 1_000


class MemoryExecutionStore:
    """ExecutionStore within this process; see `Memory`. `worker` is the name that executions show."""

    def __init__(self, memory: Memory, *, worker: str) -> None:
        self._memory = memory
        self._worker = worker

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        """C."""
        with self._memory.transaction() as now:
            named = [self._memory.rows[execution_id] for execution_id in sorted(set(ids) & self._memory.rows.keys())]
            for row in named:
                if row.state is State.PENDING and row.execution.available_at <= now:
                    self._claim(row, delivery, now, lease)
            return [_claimed(row) for row in named if row.state is State.RUNNING and row.lease_owner == delivery]

    def definitions(self, revisions: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], Definition]:
        """Immutable, so what this returns may be kept for ever."""
        with self._memory.transaction():
            jobs = ((key, self._memory.jobs.get(key[0])) for key in revisions)
            return {key: job.revisions[key[1]] for key, job in jobs if job is not None and key[1] in job.revisions}

    def start(self, tokens: Collection[Token], *, delivery: UUID, margin: timedelta) -> set[UUID]:
        """S."""
        with self._memory.transaction() as now:
            started = [row for row in self._running(tokens) if _holds(row, delivery, now + margin)]
            for row in started:
                row.effect_started_at = now
            return {row.id for row in started}

    def record(self, records: Sequence[Record]) -> set[UUID]:
        """W. Nothing is refused for its texts."""
        written = set()
        with self._memory.transaction() as now:
            for record in records:
                for row in self._running([record.token]):
                    self._record(row, record, now)
                    written.add(row.id)
        return written

    def recorded_before(self, records: Sequence[Record]) -> set[UUID]:
        """W leaves the owner on the row, so that a lost reply can be told from a lost lease."""
        with self._memory.transaction():
            return {
                row.id
                for record in records
                if (row := self._memory.rows.get(record.token.id)) is not None
                and row.state is not State.RUNNING
                and (row.execution.attempt, row.lease_owner) == (record.token.attempt, record.owner)
            }

    def renew(self, tokens: Collection[Token], *, lease: timedelta) -> set[UUID]:
        """Extends leases."""
        with self._memory.transaction() as now:
            rows = self._running(tokens)
            for row in rows:
                self._memory.lease(row, now + lease)
            return {row.id for row in rows}

    def cancel_requested(self, tokens: Collection[Token]) -> set[UUID]:
        """Which to abort."""
        with self._memory.transaction():
            return {row.id for row in self._running(tokens) if row.execution.cancel_requested_at is not None}

    def release(self, tokens: Collection[Token], *, delay: timedelta) -> set[UUID]:
        """L."""
        with self._memory.transaction() as now:
            rows = [row for row in self._running(tokens) if row.effect_started_at is None]
            for row in rows:
                self._release(row, now, now + delay)
            return {row.id for row in rows}

    def pending(self, ids: Collection[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """What a claim would look at."""
        with self._memory.transaction():
            rows = (self._memory.rows.get(execution_id) for execution_id in ids)
            return {
                row.id: (row.execution.job_id, row.execution.revision)
                for row in rows
                if row is not None and row.state is State.PENDING
            }

    def return_slots(
        self, ids: Collection[UUID], *, delay: timedelta = timedelta(0), spread: timedelta = timedelta(0)
    ) -> None:
        """Gives publish slots back."""
        with self._memory.transaction() as now:
            return_slots(self._memory, ids, now, delay=delay, spread=spread)

    def overlooked(self, queues: Collection[str], *, oldest: timedelta, newest: timedelta) -> int:
        """Reads the slots under way, which end within the longest one and its jitter."""
        with self._memory.transaction() as now:
            under_way = self._memory.publish.up_to(now + 1.2 * MAX_SLOT, after=now)
            rows = (self._memory.rows[execution_id] for execution_id in under_way)
            count = sum(
                row.queue in queues
                and row.publish_count >= 2
                and row.published_at is not None
                and now - oldest < row.published_at <= now - newest
                for row in rows
            )
            return min(count, COUNTED_AT_MOST)

    def _running(self, tokens: Collection[Token]) -> list[Row]:
        """Those whose attempt is still the newest and unfinished."""
        rows = ((token, self._memory.rows.get(token.id)) for token in tokens)
        found = {
            row.id: row
            for token, row in rows
            if row is not None and row.state is State.RUNNING and row.execution.attempt == token.attempt
        }
        return [found[execution_id] for execution_id in sorted(found)]

    def _claim(self, row: Row, delivery: UUID, now: datetime, lease: timedelta) -> None:
        execution, job = row.execution, self._memory.jobs[row.execution.job_id]
        row.lease_owner, row.lease_expires_at = delivery, now + lease
        self._memory.move(
            row,
            State.RUNNING,
            attempt=execution.attempt + 1,
            claimed_at=now,
            first_started_at=execution.first_started_at or now,
            worker=self._worker,
        )
        if execution.first_started_at is None:
            self._memory.tally(row.kind, "started")
            job.note_start(row.execution)

    def _record(self, row: Row, record: Record, now: datetime) -> None:
        failures = row.execution.failures + record.failed
        final = _final_state(row, record.state, failures)
        attempts = row.execution.attempts
        if final is State.PENDING:
            row.effect_started_at = None
            attempts = (*attempts, _failed_attempt(row, record, now))
        due_at = now + record.delay if final is State.PENDING else None
        self._memory.move(
            row,
            final,
            publish_at=due_at,
            failures=failures,
            attempts=attempts,
            finished_at=None if due_at else now,
            available_at=due_at or row.execution.available_at,
            error_code=record.error_code,
            error_message=record.error_message,
            response_status=record.response_status,
            response_excerpt=record.response_excerpt,
        )
        outcome = AGAIN_AFTER_FAILURE if due_at else final.value
        self._memory.tally(row.kind, outcome, record.duration.total_seconds())
        self._memory.announce(due_at)
        self._memory.make_way(row, now)

    def _release(self, row: Row, now: datetime, due_at: datetime) -> None:
        execution = row.execution
        is_last = execution.cancel_requested_at is not None or execution.failures >= execution.max_attempts
        row.lease_owner = None
        if is_last:
            self._memory.move(row, State.CANCELLED, finished_at=now, available_at=due_at)
            self._memory.make_way(row, now)
        else:
            self._memory.move(row, State.PENDING, publish_at=due_at, available_at=due_at)
            self._memory.announce(due_at)


def _claimed(row: Row) -> Claimed:
    execution = row.execution
    return Claimed(
        id=execution.id,
        attempt=execution.attempt,
        job_id=execution.job_id,
        revision=execution.revision,
        failures=execution.failures,
        scheduled_at=execution.scheduled_at,
    )


def _holds(row: Row, delivery: UUID, until: datetime) -> bool:
    return row.lease_owner == delivery and row.lease_expires_at is not None and row.lease_expires_at > until


def _final_state(row: Row, wanted: State, failures: int) -> State:
    """A retry of what was cancelled, or of what allows no further attempt, ends instead."""
    if wanted is not State.PENDING:
        return wanted
    if row.execution.cancel_requested_at is not None:
        return State.CANCELLED
    return State.FAILED if failures >= row.execution.max_attempts else State.PENDING


def _failed_attempt(row: Row, record: Record, now: datetime) -> Attempt:
    return Attempt(
        attempt=row.execution.attempt,
        worker=row.execution.worker,
        claimed_at=row.execution.claimed_at,
        finished_at=now,
        outcome="FAILED",
        error_code=record.error_code,
        error_message=record.error_message,
        response_status=record.response_status,
    )
