"""The scheduler's side of executions in memory: D, R1 and R2 of docs/protocol.md."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.ids import scheduled_id
from gnomon.job.model import Attempt, JobStatus, Overlap, State, Trigger
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Dispatched, Hold, Horizon, PlanBatch, Rescued
from gnomon.job.schedule import TICK
from gnomon.storage.memory.births import Birth, give_birth
from gnomon.storage.memory.rows import JobRow, Row
from gnomon.storage.memory.slots import MOST_COUNTED, SLOT, next_slot, return_slots
from gnomon.storage.memory.state import Memory

FELL_BEHIND = timedelta(seconds=60)
BEHIND_SHARE = 10  # of a batch of so many jobs, one may have fallen behind
HELD = timedelta(hours=1)
RESCUED_AT_ONCE = 1_000
LOST_AGAIN_MAX = timedelta(minutes=15)  # the longest that R2 lets an execution wait that was lost again and again
AGAIN_AFTER_LOSS = "lost"
LOST = "LOST"
MAX_MESSAGE = 500


class MemoryDispatchStore:
    """DispatchStore within this process; see `Memory`.

    With `names`, asked at each call, only jobs of these names are dispatched and published.
    """

    def __init__(self, memory: Memory, *, names: Callable[[], Collection[str]] | None = None) -> None:
        self._memory = memory
        self._names = names

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Dispatched:
        """D. Whoever else uses this memory waits until the plans are made and booked."""
        ours = self._ours()
        with self._memory.transaction() as now:
            self._resume(now, limit)
            self._memory.end_holds(now)
            edge, behind_limit = now - FELL_BEHIND, max(1, limit // BEHIND_SHARE)
            behind = self._memory.due.up_to(edge, limit=behind_limit, accept=ours)
            ids = [*self._memory.due.up_to(now, after=edge, limit=limit, accept=ours), *behind]
            if not ids:
                return Dispatched(jobs=0, published={}, held={}, full=False, behind=False)
            jobs = [self._memory.jobs[job_id] for job_id in ids]
            plans = decide([_due(job) for job in jobs], now)
            booked = [pair for job, plan in zip(jobs, plans, strict=True) for pair in self._apply(job, plan, now)]
        return Dispatched(
            jobs=len(jobs),
            published=_by_queue(booked),
            held={job.job.id: plan.reason for job, plan in zip(jobs, plans, strict=True) if isinstance(plan, Hold)},
            full=len(jobs) >= limit or len(behind) >= behind_limit,
            behind=any(isinstance(plan, Plan) and not plan.reached_now for plan in plans),
        )

    def republish(self, *, limit: int) -> Mapping[str, Sequence[UUID]]:
        """R1."""
        ours = self._ours()
        with self._memory.transaction() as now:
            due = sorted(self._memory.publish.up_to(now, limit=limit, accept=lambda one: ours(self._job_of(one))))
            for row in (self._memory.rows[execution_id] for execution_id in due):
                slot = next_slot(row.publish_count, self._memory.rand)
                self._memory.slot(row, now + slot, min(row.publish_count + 1, MOST_COUNTED))
                row.published_at = now
            return _by_queue([(self._memory.rows[execution_id].queue, execution_id) for execution_id in due])

    def return_slots(self, ids: Collection[UUID]) -> None:
        """Gives publish slots back."""
        with self._memory.transaction() as now:
            return_slots(self._memory, ids, now)

    def free_slots(self) -> int:
        """R1, when the broker has lost its messages: all that were published are due again. Returns their number."""
        with self._memory.transaction() as now:
            later = map(self._memory.row, self._memory.publish.later_than(now))
            published = [row for row in later if row.publish_count > 0]
            for row in published:
                self._memory.slot(row, now, 0)
            return len(published)

    def rescue(
        self, *, grace: timedelta, spare: timedelta | None, spread: timedelta = timedelta(seconds=30)
    ) -> Rescued:
        """R2."""
        with self._memory.transaction() as now:
            before = now - (grace if spare is None else max(grace, spare))
            lost = sorted(self._memory.leases.up_to(before - TICK))[:RESCUED_AT_ONCE]
            rows = [self._memory.rows[execution_id] for execution_id in lost]
            promoted = sum([self._rescue(row, now, spread) for row in rows])
        ways = [row.state for row in rows]
        return Rescued(
            requeued=ways.count(State.PENDING),
            failed=ways.count(State.FAILED),
            unknown=ways.count(State.UNKNOWN),
            cancelled=ways.count(State.CANCELLED),
            promoted=promoted,
        )

    def horizon(self) -> Horizon:
        """The wake-up time."""
        ours = self._ours()
        with self._memory.transaction() as now:
            self._memory.end_holds(now)
            ahead = (
                self._memory.due.earliest(ours),
                self._memory.pauses.earliest(),
                self._memory.publish.earliest(lambda one: ours(self._job_of(one))),
            )
        return Horizon(now=now, at=min((moment for moment in ahead if moment is not None), default=None))

    def _ours(self) -> Callable[[UUID], bool]:
        """Which jobs this scheduler serves."""
        if self._names is None:
            return lambda _: True
        names = frozenset(self._names())
        return lambda job_id: self._memory.jobs[job_id].name_in(names)

    def _job_of(self, execution_id: UUID) -> UUID:
        return self._memory.rows[execution_id].execution.job_id

    def _resume(self, now: datetime, limit: int) -> None:
        """D0. Pauses end by themselves: the first moment from then on was computed at the pause."""
        for job_id in self._memory.pauses.up_to(now, limit=limit):
            row = self._memory.jobs[job_id]
            row.job = replace(row.job, status=JobStatus.RUNNING, pause_reason=None, paused_until=None, updated_at=now)
            self._memory.place(row)

    def _apply(self, row: JobRow, plan: Plan | Hold, now: datetime) -> list[tuple[str, UUID]]:
        """Books the plan and advances the job; the queues and ids of what is to be published."""
        if isinstance(plan, Hold):
            row.job = replace(row.job, held_until=now + HELD, hold_reason=plan.reason)
            self._memory.place(row)
            return []
        queue: str = row.definition.target.queue
        published = [(queue, birth.id) for birth in _births(row, plan) if self._book(row, birth, now)]
        for skip in _skips(row, plan):
            give_birth(self._memory, row, skip, State.SKIPPED, now)
        row.misfires_run = plan.misfires_run
        status = JobStatus.COMPLETED if plan.next_run is None else row.job.status
        row.job = replace(row.job, status=status, next_run=plan.next_run, held_until=None, hold_reason=None)
        self._memory.place(row)
        return published

    def _book(self, job: JobRow, birth: Birth, now: datetime) -> bool:
        """Whether it is to be published; else it waits, or is skipped."""
        if give_birth(self._memory, job, birth, State.PENDING, now):
            return True
        may_wait = birth.serial or job.definition.overlap is Overlap.QUEUE
        if not (may_wait and give_birth(self._memory, job, birth, State.WAITING, now)):
            skip = replace(birth, serial=False, reason="overlap", count=1, until=birth.scheduled_at)
            give_birth(self._memory, job, skip, State.SKIPPED, now)
        return False

    def _rescue(self, row: Row, now: datetime, spread: timedelta) -> bool:
        """Ends or requeues one lost attempt; whether another execution of its job has its turn now."""
        execution = row.execution
        losses = [attempt.worker or "" for attempt in execution.attempts if attempt.outcome == LOST]
        final = _way_out(row)
        due_at, attempts = None, execution.attempts
        if final is State.PENDING:
            due_at = now + self._spread(row, len(losses), spread)
            attempts = (*attempts, _lost_attempt(row, now))
            self._memory.announce(due_at)
        row.lease_owner = None
        self._memory.move(
            row,
            final,
            publish_at=due_at,
            failures=execution.failures + 1,
            attempts=attempts,
            finished_at=None if due_at else now,
            available_at=due_at or execution.available_at,
            error_code="lost",
            error_message=_why_lost([*losses, execution.worker or ""]),
            response_status=None,
            response_excerpt=None,
        )
        seconds = (now - (execution.claimed_at or now)).total_seconds()
        self._memory.tally(row.kind, AGAIN_AFTER_LOSS if due_at else final.value, seconds)
        return self._memory.make_way(row, now)

    def _spread(self, row: Row, losses: int, spread: timedelta) -> timedelta:
        """Only the first loss is tried again at once, unless a single attempt is left: see docs/protocol.md."""
        has_more = row.execution.failures + 2 < row.execution.max_attempts
        if losses == 0 and has_more:
            return timedelta(0)
        tripled: int = 3 ** min(losses - has_more, 10)
        return self._memory.rand() * min(spread * tripled, LOST_AGAIN_MAX)


def _due(row: JobRow) -> DueJob:
    assert row.job.next_run is not None  # only such are on the agenda
    return DueJob(
        id=row.job.id,
        revision=row.job.revision,
        timing=row.definition.timing,
        misfire=row.definition.misfire,
        next_run=row.job.next_run,
        misfires_run=row.misfires_run,
    )


def _births(row: JobRow, plan: Plan) -> Iterator[Birth]:
    for serial, moments in ((True, plan.serial), (False, plan.runs)):
        for moment in moments:
            yield Birth(
                id=scheduled_id(row.job.id, moment),
                scheduled_at=moment,
                available_at=moment,
                trigger=Trigger.SCHEDULE,
                serial=serial,
                slot=SLOT,
            )


def _skips(row: JobRow, plan: Plan) -> Iterator[Birth]:
    for skip in plan.skips:
        yield Birth(
            id=scheduled_id(row.job.id, skip.first),
            scheduled_at=skip.first,
            available_at=skip.first,
            trigger=Trigger.SCHEDULE,
            reason=skip.reason,
            count=skip.count,
            until=skip.last,
        )


def _way_out(row: Row) -> State:
    """Only S sets effect_started_at, so it is set only where a second effect is forbidden."""
    if row.effect_started_at is not None:
        return State.UNKNOWN
    if row.execution.cancel_requested_at is not None:
        return State.CANCELLED
    return State.FAILED if row.execution.failures + 1 >= row.execution.max_attempts else State.PENDING


def _lost_attempt(row: Row, now: datetime) -> Attempt:
    return Attempt(
        attempt=row.execution.attempt,
        worker=row.execution.worker,
        claimed_at=row.execution.claimed_at,
        finished_at=now,
        outcome=LOST,
        error_code="lost",
        error_message="the worker did not renew its lease",
        response_status=None,
    )


def _why_lost(workers: Sequence[str]) -> str:
    if len(workers) == 1:
        return f"the worker {workers[0]} did not renew its lease"[:MAX_MESSAGE]
    return f"lost {len(workers)} times: the workers {', '.join(workers)} did not renew their leases"[:MAX_MESSAGE]


def _by_queue(pairs: Sequence[tuple[str, UUID]]) -> Mapping[str, Sequence[UUID]]:
    queues: dict[str, list[UUID]] = {}
    for queue, execution_id in pairs:
        queues.setdefault(queue, []).append(execution_id)
    return queues
