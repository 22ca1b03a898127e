"""What becomes of the moments of a due job: run, made up for, or skipped. Pure.

A moment no older than the grace is simply late: it runs. Older ones are misfires, and the job's policy decides:

- `run_once` runs the newest misfire if nothing within the grace runs, and skips the rest
- `run_all` runs them one after the other, oldest first, up to the limit, and skips the rest
- `skip` skips them all

Nothing disappears: runs, serial runs and skipped counts add up to the schedule's moments.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from gnomon.job.model import Misfire, MisfirePolicy
from gnomon.job.schedule import TICK, Timing, next_run_after
from gnomon.job.stretch import Stretch, stretch


@dataclass(frozen=True, kw_only=True)
class DueJob:
    """A job whose `next_run` has come, or will soon.

    `misfires_run`: how many misfires `run_all` has booked since the job fell behind, in plans that stopped short.
    """

    id: UUID
    revision: int
    timing: Timing
    misfire: Misfire
    next_run: datetime
    misfires_run: int = 0


@dataclass(frozen=True, kw_only=True)
class Skip:
    """`count` moments from `first` to `last`, both included, that do not run."""

    reason: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to book for one job, in order of the moments.

    `runs` are due as they are; `serial` ones run one after the other. `next_run` is the first moment not looked at:
    later than now if `reached_now`, else to be continued by another plan. `examined` is the work done, in steps: a
    moment that runs, or a stretch of moments that was counted at once (see stretch.py).
    """

    runs: tuple[datetime, ...]
    serial: tuple[datetime, ...]
    skips: tuple[Skip, ...]
    next_run: datetime | None
    misfires_run: int
    examined: int
    reached_now: bool


def plan_due(job: DueJob, now: datetime, limit: int) -> Plan:
    """Plans the moments up to `now`, from the job's own `next_run` on, in at most `limit` steps."""
    walk = _Walk(job, limit)
    misfires_end = now - job.misfire.grace
    run_all = job.misfire.policy is MisfirePolicy.RUN_ALL
    serial = walk.take(misfires_end, most=job.misfire.limit - job.misfires_run) if run_all else []
    missed = walk.pass_over(misfires_end)
    runs = walk.take(now + TICK, most=limit)
    reached_now = walk.position is None or walk.position > now
    if job.misfire.policy is MisfirePolicy.RUN_ONCE and reached_now and missed and not runs:
        runs, missed = [missed.last], missed.without_last()
    return Plan(
        runs=tuple(runs),
        serial=tuple(serial),
        skips=(_skip(missed),) if missed else (),
        next_run=walk.position,
        misfires_run=0 if reached_now else job.misfires_run + len(serial),
        examined=limit - walk.left,
        reached_now=reached_now,
    )


def plan_ahead(job: DueJob) -> Plan:
    """Plans the job's next moment, and no other, before it has come."""
    following = next_run_after(job.timing, job.next_run, shift=job.timing.shift(job.id))
    return Plan(
        runs=(job.next_run,), serial=(), skips=(), next_run=following, misfires_run=0, examined=1, reached_now=True
    )


def _skip(missed: Stretch) -> Skip:
    return Skip(reason="misfire", first=missed.first, last=missed.last, count=missed.count)


class _Walk:
    """Goes from moment to moment. `position` is the first one not looked at; `left` is what may still be looked at."""

    def __init__(self, job: DueJob, limit: int) -> None:
        self.position: datetime | None = job.next_run
        self.left = limit
        self._timing = job.timing
        self._shift = job.timing.shift(job.id)

    def take(self, before: datetime, *, most: int) -> list[datetime]:
        """Up to `most` moments earlier than `before`."""
        taken: list[datetime] = []
        while self.left > 0 and len(taken) < most and self.position is not None and self.position < before:
            taken.append(self.position)
            self.left -= 1
            self.position = next_run_after(self._timing, self.position, shift=self._shift)
        return taken

    def pass_over(self, before: datetime) -> Stretch | None:
        """The moments earlier than `before`, as far as may be looked at."""
        if self.left <= 0 or self.position is None or self.position >= before:
            return None
        passed = stretch(self._timing, self.position, before, shift=self._shift, limit=self.left)
        self.left -= passed.steps
        self.position = next_run_after(self._timing, passed.last, shift=self._shift)
        return passed
