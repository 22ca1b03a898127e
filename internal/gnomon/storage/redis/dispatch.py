"""The scheduler's side of executions: D, R1 and R2 of docs/protocol.md."""

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gnomon.job.errors import InvalidJob, Unavailable
from gnomon.job.ids import scheduled_id
from gnomon.job.model import Overlap
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Dispatched, Hold, Horizon, PlanBatch, Rescued
from gnomon.storage.redis.database import (
    FORMAT,
    SCRIPT_ROWS,
    RedisDatabase,
    instant,
    micros,
    optional_instant,
    parts,
    present,
)
from gnomon.storage.redis.documents import read_due_job

log = logging.getLogger(__name__)

BEHIND_SHARE = 10  # of a batch of so many jobs, one may have fallen behind
RESCUED_AT_ONCE = 1_000
DELETED_REMEMBERED = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A due job as it was read. What `book` gets of its plan holds only as long as `version` does."""

    id: UUID
    version: str
    queue: str
    overlap: str
    is_behind: bool
    row: Sequence[str | None]

    @property
    def misfires_run(self) -> int:
        """As DueJob.misfires_run."""
        return int(self.row[5] or 0)


@dataclass(frozen=True, kw_only=True)
class _Booking:
    due: _Due
    plan: Plan | Hold

    @property
    def rows(self) -> int:
        """How much work it is for the script."""
        plan = self.plan
        return 1 if isinstance(plan, Hold) else 1 + len(plan.serial) + len(plan.runs) + len(plan.skips)


class RedisDispatchStore:
    """DispatchStore on Redis.

    Schedulers may plan the same jobs at the same time; each job is booked by the one that comes first, and the others
    leave it alone. So several of them make sure that one is there, and not that more is done.

    With `names`, asked at each call, only jobs of these names are dispatched and published: for a process that can't
    hand the others to anybody. What was lost is rescued whatever its name. The work of a call grows with their number.
    """

    def __init__(self, database: RedisDatabase, *, names: Callable[[], Collection[str]] | None = None) -> None:
        self._database = database
        self._names = names

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Dispatched:
        """D. One script reads what is due; others book what was planned, each as much as one script may."""
        behind_limit = max(1, limit // BEHIND_SHARE)
        now, *rows = self._database.run("due", limit=limit, behind_limit=behind_limit, names=self._whose())
        due = [_read_due(*row) for row in rows]
        if not due:
            return Dispatched(jobs=0, published={}, held={}, full=False, behind=False)
        bookings = [_shortened(booking) for booking in _planned(due, decide, instant(now))]
        booked, created = self._book(bookings)
        done = [booking for booking in bookings if booking.due.id in booked]
        return Dispatched(
            jobs=len(done),
            published=_by_queue(_created(done, created)),
            held={one.due.id: one.plan.reason for one in done if isinstance(one.plan, Hold)},
            full=len(due) >= limit or sum(one.is_behind for one in due) >= behind_limit or len(done) < len(bookings),
            behind=any(isinstance(one.plan, Plan) and not one.plan.reached_now for one in done),
        )

    def republish(self, *, limit: int) -> Mapping[str, Sequence[UUID]]:
        """R1."""
        rows: list[tuple[str, UUID]] = []
        while len(rows) < limit:
            most = min(SCRIPT_ROWS, limit - len(rows))
            part = self._database.run("republish", limit=most, seed=_seed(), names=self._whose())
            rows += [(queue, UUID(execution_id)) for execution_id, queue in part]
            if len(part) < most:
                break
        return _by_queue(sorted(rows, key=lambda row: row[1]))

    def free_slots(self) -> int:
        """R1, when the broker has lost its messages: all that were published are due again. Returns their number."""
        freed = passed = 0
        looked_at, before = SCRIPT_ROWS, None
        while looked_at == SCRIPT_ROWS:
            looked_at, part, moment = self._database.run("free_slots", limit=SCRIPT_ROWS, passed=passed, before=before)
            # those that are published again meanwhile are not freed again
            before, freed, passed = int(moment), freed + int(part), passed + looked_at - part
        return freed

    def return_slots(self, ids: Collection[UUID]) -> None:
        """Gives publish slots back."""
        for part in parts(ids):
            self._database.run("return_slots", ids=part)

    def rescue(
        self, *, grace: timedelta, spare: timedelta | None, spread: timedelta = timedelta(seconds=30)
    ) -> Rescued:
        """R2. A job's end is what promotes the one that waits, in the same script: none waits for nothing."""
        total = Rescued()
        while total.total < RESCUED_AT_ONCE:
            found, requeued, failed, unknown, cancelled, promoted = self._database.run(
                "rescue",
                grace=max(grace, spare or grace),
                spread=spread,
                limit=SCRIPT_ROWS // 2,
                seed=_seed(),
                remembered=DELETED_REMEMBERED,
            )
            total = Rescued(
                requeued=total.requeued + requeued,
                failed=total.failed + failed,
                unknown=total.unknown + unknown,
                cancelled=total.cancelled + cancelled,
                promoted=total.promoted + promoted,
            )
            if found < SCRIPT_ROWS // 2:
                break
        return total

    def horizon(self) -> Horizon:
        """The wake-up time. Says in the log when the server has lost everything."""
        now, at, was_emptied = self._database.run("horizon", format=FORMAT, names=self._whose())
        if was_emptied:
            log.error(
                "all keys that began with %s are gone: Redis restarted without its data, or was emptied. The jobs that "
                "were there must be created again; set appendonly yes",
                self._database.prefix,
            )
        return Horizon(now=instant(now), at=optional_instant(at))

    def _whose(self) -> Sequence[str] | None:
        return None if self._names is None else sorted(self._names())

    def _book(self, bookings: Sequence[_Booking]) -> tuple[set[UUID], set[UUID]]:
        """The jobs that were booked, and the executions that were created to be published."""
        booked: set[UUID] = set()
        created: set[UUID] = set()
        for group in _groups(bookings):
            try:
                jobs, ids = self._database.run("book", jobs=[_written(booking) for booking in group])
            except Unavailable as error:
                if not booked:
                    raise
                log.warning("dispatch stops after %s of %s jobs: %s", len(booked), len(bookings), error)
                break  # what is booked should be published now; the others are due still
            booked.update(map(UUID, jobs))
            created.update(map(UUID, ids))
        return booked, created


def _read_due(job_id: str, is_behind: int, row: Sequence[str | None]) -> _Due:
    version, _, queue, overlap, *_ = row
    return _Due(
        id=UUID(job_id),
        version=version or "",
        queue=queue or "",
        overlap=overlap or "",
        is_behind=bool(is_behind),
        row=row,
    )


def _planned(due: Sequence[_Due], decide: PlanBatch, now: datetime) -> list[_Booking]:
    """Each job with its plan. One that can't even be read is held, so that it can't stop the others."""
    readable: list[tuple[_Due, DueJob]] = []
    held: list[_Booking] = []
    for one in due:
        try:
            readable.append((one, _due_job(one)))
        except Exception as error:  # whatever was written past the API
            held.append(_Booking(due=one, plan=_hold(error)))
    plans = decide([job for _, job in readable], now)
    return [*(_Booking(due=one, plan=plan) for (one, _), plan in zip(readable, plans, strict=True)), *held]


def _due_job(due: _Due) -> DueJob:
    _, revision, _, _, next_run, misfires_run, timing = due.row
    job = read_due_job(
        due.id, revision=str(revision), next_run=str(next_run), misfires_run=misfires_run, timing=str(timing)
    )
    scheduled_id(job.id, job.next_run)  # raises for a moment that no id can hold
    return job


def _hold(error: Exception) -> Hold:
    kind = "" if isinstance(error, InvalidJob) else f"{type(error).__name__}: "
    return Hold(reason=f"the schedule can't be read: {kind}{error}"[:500])


def _shortened(booking: _Booking) -> _Booking:
    """As much of a plan as one script may book; what is left out is planned again."""
    plan = booking.plan
    if isinstance(plan, Hold) or booking.rows <= SCRIPT_ROWS:
        return booking
    serial, skips, runs = plan.serial[:SCRIPT_ROWS], plan.skips, plan.runs
    if len(plan.serial) > SCRIPT_ROWS:
        next_run, skips, runs = plan.serial[SCRIPT_ROWS], (), ()
    else:
        room = max(0, SCRIPT_ROWS - len(serial) - len(skips))
        next_run, runs = runs[room], runs[:room]
    return replace(
        booking,
        plan=replace(
            plan,
            serial=serial,
            skips=skips,
            runs=runs,
            next_run=next_run,
            misfires_run=booking.due.misfires_run + len(serial),
            reached_now=False,
        ),
    )


def _groups(bookings: Iterable[_Booking]) -> Iterator[list[_Booking]]:
    group: list[_Booking] = []
    rows = 0
    for booking in bookings:
        if group and rows + booking.rows > SCRIPT_ROWS:
            yield group
            group, rows = [], 0
        group.append(booking)
        rows += booking.rows
    if group:
        yield group


def _written(booking: _Booking) -> dict[str, Any]:
    due, plan = booking.due, booking.plan
    row: dict[str, Any] = {"id": due.id, "version": due.version, "births": [], "skips": []}
    if isinstance(plan, Hold):
        return row | {"hold_reason": plan.reason}
    row |= present({"next_run": plan.next_run, "misfires_run": plan.misfires_run})
    row["births"] = sorted(_births(due, plan), key=lambda birth: birth["id"])
    row["skips"] = [
        {
            "id": scheduled_id(due.id, skip.first),
            "at": micros(skip.first),
            "serial": False,
            "reason": skip.reason,
            "count": skip.count,
            "until": micros(skip.last),
        }
        for skip in plan.skips
    ]
    return row


def _births(due: _Due, plan: Plan) -> Iterator[dict[str, Any]]:
    for serial, moments in ((True, plan.serial), (False, plan.runs)):
        for moment in moments:
            yield {
                "id": scheduled_id(due.id, moment),
                "at": micros(moment),
                "serial": serial,
                "may_wait": serial or due.overlap == Overlap.QUEUE,
            }


def _created(done: Iterable[_Booking], created: Collection[UUID]) -> Iterator[tuple[str, UUID]]:
    for booking in done:
        if isinstance(booking.plan, Plan):
            for moment in (*booking.plan.serial, *booking.plan.runs):
                if (execution_id := scheduled_id(booking.due.id, moment)) in created:
                    yield booking.due.queue, execution_id


def _by_queue(pairs: Iterable[tuple[str, UUID]]) -> Mapping[str, Sequence[UUID]]:
    queues: dict[str, list[UUID]] = {}
    for queue, execution_id in pairs:
        queues.setdefault(queue, []).append(execution_id)
    return queues


def _seed() -> int:
    """Lua's own chance begins anew with each script."""
    return secrets.randbelow(1 << 31)
