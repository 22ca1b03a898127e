"""What a store should do, in dicts and lists: written from docs/protocol.md, with nothing of any store in it.

Every verb changes the model as it should change the store, and returns what the store should answer. Where chance
decides, the answer is a range, and what the store chose is handed in.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gnomon.job.errors import Conflict, KeyReused, NotFound, Overlapping

GRACE = timedelta(seconds=60)
FINAL = ("SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED", "SKIPPED")
DAY = timedelta(hours=24)
PACE = timedelta(milliseconds=100)
Range = tuple[datetime, datetime]


@dataclass(kw_only=True)
class ModelJob:
    id: UUID
    anchor: datetime
    step: timedelta
    overlap: str
    policy: str
    limit: int
    max_attempts: int
    next_run: datetime | None
    revision: int = 1
    status: str = "RUNNING"
    paused_until: datetime | None = None
    deleted: bool = False

    def first_from(self, moment: datetime) -> datetime:
        return self.anchor + max(0, -((self.anchor - moment) // self.step)) * self.step

    def moments(self, first: datetime, last: datetime) -> list[datetime]:
        """Both included."""
        found, moment = [], self.first_from(first)
        while moment <= last:
            found.append(moment)
            moment += self.step
        return found


@dataclass(kw_only=True)
class ModelExecution:
    id: UUID
    job: ModelJob
    trigger: str
    at: datetime
    state: str
    available: datetime
    max_attempts: int
    revision: int
    overlap: str
    attempt: int = 0
    failures: int = 0
    publish: Range | None = None
    messages: int = 0
    owner: UUID | None = None
    lease: datetime | None = None
    started: bool = False
    cancel: bool = False
    error: str | None = None
    skipped: int = 0
    until: datetime | None = None
    repeats: UUID | None = None
    past: list[tuple[int, str]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in FINAL

    @property
    def blocks(self) -> bool:
        return self.state in ("PENDING", "RUNNING") and self.overlap != "allow"


class Model:
    """`now` is the store's clock, which stands still in between."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.jobs: dict[UUID, ModelJob] = {}
        self.executions: dict[UUID, ModelExecution] = {}
        self.keys: dict[str, tuple[object, UUID, datetime]] = {}

    def of(self, job: ModelJob) -> list[ModelExecution]:
        """In order of their ids."""
        return sorted((one for one in self.executions.values() if one.job is job), key=lambda one: one.id)

    def dispatch(self, new_id: Callable[[UUID, datetime], UUID]) -> list[UUID]:
        """The ids to publish."""
        now, published = self._now(), []
        for job in self.jobs.values():
            if job.status == "STOPPED" and job.paused_until is not None and job.paused_until <= now:
                job.status, job.paused_until = "RUNNING", None
            if job.status == "RUNNING" and job.next_run is not None and job.next_run <= now:
                published += self._dispatch(job, new_id)
        return published

    def _dispatch(self, job: ModelJob, new_id: Callable[[UUID, datetime], UUID]) -> list[UUID]:
        assert job.next_run is not None
        owed = job.moments(job.next_run, self._now())
        missed = [moment for moment in owed if moment < self._now() - GRACE]
        runs, serial = owed[len(missed) :], []
        if job.policy == "run_all":
            serial, missed = missed[: job.limit], missed[job.limit :]
        elif job.policy == "run_once" and missed and not runs:
            runs = [missed.pop()]
        if missed:
            self._skip(job, new_id(job.id, missed[0]), missed, "misfire")
        published = []
        for moment in [*serial, *runs]:
            one = self._new(job, new_id(job.id, moment), "SCHEDULE", moment, serial=moment in serial)
            may_wait = moment in serial or job.overlap == "queue"
            if self._place(one, may_wait=may_wait) is None:
                self._skip(job, one.id, [moment], "overlap")
            elif one.state == "PENDING":
                one.publish, one.messages = self._in(timedelta(seconds=15)), 1
                published.append(one.id)
        job.next_run = job.first_from(owed[-1] + timedelta(seconds=1))
        return published

    def _skip(self, job: ModelJob, new: UUID, moments: Sequence[datetime], reason: str) -> None:
        one = self._new(job, new, "SCHEDULE", moments[0], serial=False)
        one.state, one.error, one.skipped, one.until = "SKIPPED", reason, len(moments), moments[-1]
        self.executions[one.id] = one

    def _new(self, job: ModelJob, new: UUID, trigger: str, at: datetime, *, serial: bool) -> ModelExecution:
        return ModelExecution(
            id=new,
            job=job,
            trigger=trigger,
            at=at,
            state="PENDING",
            available=at,
            max_attempts=job.max_attempts,
            revision=job.revision,
            overlap="serial" if serial and job.overlap != "allow" else job.overlap,
        )

    def _place(self, one: ModelExecution, *, may_wait: bool) -> str | None:
        """PENDING where nothing is in the way, else WAITING, else nothing."""
        others = self.of(one.job)
        if one.id in self.executions:
            return None
        if one.overlap == "allow" or not any(other.blocks for other in others):
            one.state, one.publish = "PENDING", (one.available, one.available)
        elif may_wait and not (
            one.overlap == "queue" and any(o.state == "WAITING" and o.overlap == "queue" for o in others)
        ):
            one.state = "WAITING"
        else:
            return None
        self.executions[one.id] = one
        return one.state

    def republish(self, chosen: Collection[UUID]) -> tuple[set[UUID], set[UUID]]:
        """`chosen`: what the store published. Which had to be, and which might."""
        pending = [one for one in self.executions.values() if one.state == "PENDING" and one.publish is not None]
        must = {one.id for one in pending if one.publish and one.publish[1] <= self._now()}
        may = {one.id for one in pending if one.publish and one.publish[0] <= self._now()}
        for one in pending:
            if one.id in chosen:
                slot = min(timedelta(seconds=15) * 2**one.messages, timedelta(minutes=15))
                one.publish = self._in(slot, 1.1 * slot)
                one.messages += 1
        return must, may

    def return_slots(self, ids: Iterable[UUID]) -> None:
        for one in self._known(ids):
            if one.state == "PENDING":
                moment = max(self._now(), one.available)
                one.publish, one.messages = (moment, moment), 0

    def free_slots(self) -> tuple[int, int]:
        """The least and the most that are freed."""
        published = [one for one in self.executions.values() if one.state == "PENDING" and one.messages > 0]
        ahead = [one for one in published if one.publish and one.publish[1] > self._now()]
        sure = [one for one in ahead if one.publish and one.publish[0] > self._now()]
        for one in ahead:
            assert one.publish is not None
            first = one.publish[0] if one not in sure else self._now()  # due by itself, or freed
            one.publish, one.messages = (min(first, self._now()), self._now()), 0
        return len(sure), len(ahead)

    def horizon(self) -> tuple[datetime | None, datetime | None]:
        """The range of its moment."""
        moments = [
            (moment, moment)
            for job in self.jobs.values()
            for moment in [job.next_run if job.status == "RUNNING" else job.paused_until]
            if moment is not None and not job.deleted
        ]
        moments += [one.publish for one in self.executions.values() if one.state == "PENDING" and one.publish]
        least, most = (min((moment[end] for moment in moments), default=None) for end in (0, 1))
        return least, most

    def lost(self, grace: timedelta) -> list[ModelExecution]:
        """Those to rescue, in order."""
        return [
            one
            for _, one in sorted(self.executions.items())
            if one.state == "RUNNING" and one.lease is not None and one.lease < self._now() - grace
        ]

    def rescue(self, one: ModelExecution, spread: timedelta) -> tuple[str, timedelta]:
        """What becomes of it, and the longest it may wait."""
        times = sum(outcome == "LOST" for _, outcome in one.past)
        has_more = one.failures + 2 < one.max_attempts
        longest = timedelta(0)
        if times or not has_more:
            longest = min(spread * 3 ** (times - has_more), timedelta(minutes=15))
        one.failures += 1
        one.error, one.owner = "lost", None
        if one.started:
            self._end(one, "UNKNOWN")
        elif one.cancel:
            self._end(one, "CANCELLED")
        elif one.failures >= one.max_attempts:
            self._end(one, "FAILED")
        else:
            one.past.append((one.attempt, "LOST"))
            self._requeue(one, timedelta(0))
        return one.state, longest

    def claim(self, ids: Collection[UUID], delivery: UUID, lease: timedelta) -> set[UUID]:
        for one in self._known(set(ids)):
            if one.state == "PENDING" and one.available <= self._now():
                one.state, one.owner, one.lease = "RUNNING", delivery, self._now() + lease
                one.attempt += 1
        return {one.id for one in self._known(ids) if one.state == "RUNNING" and one.owner == delivery}

    def running(self, execution: UUID, attempt: int) -> ModelExecution | None:
        one = self.executions.get(execution)
        return one if one is not None and one.state == "RUNNING" and one.attempt == attempt else None

    def start(self, execution: UUID, attempt: int, delivery: UUID, margin: timedelta) -> set[UUID]:
        one = self.running(execution, attempt)
        if one is None or one.owner != delivery or one.lease is None or one.lease <= self._now() + margin:
            return set()
        one.started = True
        return {one.id}

    def renew(self, execution: UUID, attempt: int, lease: timedelta) -> set[UUID]:
        one = self.running(execution, attempt)
        if one is None:
            return set()
        one.lease = self._now() + lease
        return {one.id}

    def cancel_requested(self, execution: UUID, attempt: int) -> set[UUID]:
        one = self.running(execution, attempt)
        return {one.id} if one is not None and one.cancel else set()

    def release(self, execution: UUID, attempt: int, delay: timedelta) -> set[UUID]:
        one = self.running(execution, attempt)
        if one is None or one.started:
            return set()
        one.owner = None
        if one.cancel or one.failures >= one.max_attempts:
            one.available = self._now() + delay
            self._end(one, "CANCELLED")
        else:
            self._requeue(one, delay)
        return {one.id}

    def record(
        self, execution: UUID, attempt: int, state: str, *, failed: bool, delay: timedelta, error: str | None
    ) -> set[UUID]:
        one = self.running(execution, attempt)
        if one is None:
            return set()
        one.failures += failed
        one.error = error
        if state == "PENDING" and one.cancel:
            self._end(one, "CANCELLED")
        elif state == "PENDING" and one.failures >= one.max_attempts:
            self._end(one, "FAILED")
        elif state == "PENDING":
            one.past.append((one.attempt, "FAILED"))
            one.started = False
            self._requeue(one, delay)
        else:
            self._end(one, state)
        return {one.id}

    def recorded_before(self, execution: UUID, attempt: int, owner: UUID) -> set[UUID]:
        one = self.executions.get(execution)
        if one is None or one.state == "RUNNING" or (one.attempt, one.owner) != (attempt, owner):
            return set()
        return {one.id}

    def _requeue(self, one: ModelExecution, delay: timedelta) -> None:
        one.state, one.lease, one.messages = "PENDING", None, 0
        one.available = self._now() + delay
        one.publish = (one.available, one.available)

    def _end(self, one: ModelExecution, state: str) -> None:
        was_waiting, one.state, one.lease, one.publish = one.state == "WAITING", state, None, None
        if one.overlap != "allow" and not was_waiting and not one.job.deleted:
            self._promote(one.job)

    def _promote(self, job: ModelJob) -> None:
        for one in self.of(job):
            if one.state == "WAITING":
                self._requeue(one, timedelta(0))
                return

    def run(self, job: ModelJob, *, may_wait: bool, key: str | None) -> type[Exception] | UUID | None:
        """An error, the id of an execution made before, or nothing: then hand in the new one's by `ran`."""
        if key is not None and (known := self._key(key, ("run", job.id, may_wait))) is not None:
            return known
        if job.deleted:
            return NotFound
        busy = job.overlap != "allow" and any(one.blocks for one in self.of(job))
        return Overlapping if busy and not may_wait else None

    def retry(
        self, failed: ModelExecution, *, same_revision: bool, may_wait: bool, key: str | None
    ) -> type[Exception] | UUID | None:
        """As `run`."""
        if key is not None and (known := self._key(key, ("retry", failed.id, same_revision, may_wait))) is not None:
            return known
        if failed.job.deleted:
            return NotFound
        if failed.state not in ("FAILED", "UNKNOWN", "CANCELLED"):
            return Conflict
        busy = failed.job.overlap != "allow" and any(one.blocks for one in self.of(failed.job))
        return Overlapping if busy and not may_wait else None

    def ran(self, job: ModelJob, new: UUID, at: datetime, *, request: tuple[object, ...], key: str | None) -> None:
        busy = any(one.blocks for one in self.of(job))
        trigger = "MANUAL" if request[0] == "run" else "RETRY_OF"
        one = self._new(job, new, trigger, at, serial=busy)
        if trigger == "RETRY_OF":
            failed = self.executions[UUID(str(request[1]))]
            one.repeats = failed.id
            if request[2]:
                one.revision, one.max_attempts = failed.revision, failed.max_attempts
        self._place(one, may_wait=True)
        if key is not None:
            self.keys[key] = (request, new, self._now() + DAY)

    def _key(self, key: str, request: tuple[object, ...]) -> type[Exception] | UUID | None:
        known = self.keys.get(key)
        if known is None or known[2] <= self._now():
            return None
        return known[1] if known[0] == request else KeyReused

    def to_backfill(self, job: ModelJob, first: datetime, last: datetime) -> list[datetime]:
        closed = self._now() if job.next_run is None else min(self._now(), job.next_run)
        booked = {one.at for one in self.of(job) if one.trigger in ("SCHEDULE", "BACKFILL") and one.state != "SKIPPED"}
        return [moment for moment in job.moments(first, last) if moment < closed and moment not in booked]

    def backfilled(self, job: ModelJob, new: Sequence[tuple[UUID, datetime]]) -> None:
        for number, (execution, moment) in enumerate(new):
            one = self._new(job, execution, "BACKFILL", moment, serial=True)
            one.available = self._now() + number * PACE
            self._place(one, may_wait=True)

    def cancel(self, one: ModelExecution) -> type[Exception] | None:
        if one.state in ("WAITING", "PENDING"):
            one.cancel, one.error = True, "cancelled"
            self._end(one, "CANCELLED")
        elif one.state == "RUNNING":
            one.cancel = True
        elif one.state != "CANCELLED":
            return Conflict
        return None

    def delete(self, job: ModelJob) -> None:
        job.deleted, job.status, job.next_run, job.paused_until = True, "STOPPED", None, None
        for one in self.of(job):
            if one.state in ("WAITING", "PENDING"):
                self._end(one, "CANCELLED")
            elif one.state == "RUNNING":
                one.max_attempts = 0

    def edit(self, job: ModelJob, **changes: Any) -> None:
        if any(getattr(job, name) != value for name, value in changes.items()):
            job.revision += 1
            for name, value in changes.items():
                setattr(job, name, value)

    def pause(self, job: ModelJob, until: datetime | None) -> None:
        if job.status != "STOPPED" or job.paused_until != until:
            job.status, job.paused_until = "STOPPED", until
            job.next_run = None if until is None else job.first_from(until)

    def resume(self, job: ModelJob) -> None:
        if job.status == "STOPPED":
            job.status, job.paused_until, job.next_run = "RUNNING", None, job.first_from(self._now())

    def _in(self, least: timedelta, most: timedelta | None = None) -> Range:
        return self._now() + least, self._now() + (least if most is None else most)

    def _known(self, ids: Iterable[UUID]) -> list[ModelExecution]:
        return [self.executions[one] for one in ids if one in self.executions]
