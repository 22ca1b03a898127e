"""Counting the moments of a stretch of time without visiting each, for jobs that were not served for weeks.

On a local day without a change of the clocks, a cron rule's moments are midnight plus the same seconds of the day
as on every other matching day: such a day costs one step, whatever its number of moments.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache

from gnomon.job.cron import compile_cron
from gnomon.job.daylight import find_zone
from gnomon.job.schedule import TICK, Cron, Every, Timing, next_run_after

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """`count` (>= 1) consecutive moments, found in `steps`. `before_last` is `last` where there is only one."""

    first: datetime
    before_last: datetime
    last: datetime
    count: int
    steps: int

    def without_last(self) -> "Stretch | None":
        """Without its last moment; not to be asked twice, for the `before_last` of the result is unknown."""
        if self.count == 1:
            return None
        return replace(self, before_last=self.first, last=self.before_last, count=self.count - 1)


def stretch(timing: Timing, first: datetime, before: datetime, *, shift: timedelta, limit: int) -> Stretch:
    """The moments in [first, before), in at most `limit` (>= 1) steps; `first` is one of them."""
    if timing.ends_at is not None:
        before = min(before, timing.ends_at + TICK)
    if isinstance(timing.schedule, Every):
        return _of_interval(timedelta(seconds=timing.schedule.seconds), first, before)
    walk = _Walk(first)
    position: datetime | None = first
    while position is not None and position < before and walk.steps < limit:
        count, before_last, last = _of_day(timing, position - shift, before - shift)
        walk.add(count, before_last + shift, last + shift)
        position = next_run_after(timing, last + shift, shift=shift)
    return walk.result()


class _Walk:
    """Adds up one piece after the other."""

    def __init__(self, first: datetime) -> None:
        self.steps = 0
        self._first = self._before_last = self._last = first
        self._count = 0

    def add(self, count: int, before_last: datetime, last: datetime) -> None:
        self._before_last = before_last if count > 1 else self._last
        self._last = last
        self._count += count
        self.steps += 1

    def result(self) -> Stretch:
        return Stretch(
            first=self._first,
            before_last=self._before_last,
            last=self._last,
            count=self._count,
            steps=self.steps,
        )


def _of_interval(interval: timedelta, first: datetime, before: datetime) -> Stretch:
    count = max(1, -((first - before) // interval))
    last = first + (count - 1) * interval
    return Stretch(first=first, before_last=max(first, last - interval), last=last, count=count, steps=1)


def _of_day(timing: Timing, moment: datetime, before: datetime) -> tuple[int, datetime, datetime]:
    """How many moments from `moment` on lie on its local day and before `before`, and the last two of them."""
    if not isinstance(timing.schedule, Cron):
        return 1, moment, moment
    midnight = _plain_midnight(find_zone(timing.schedule.timezone), moment)
    if midnight is None:
        return 1, moment, moment
    seconds = _seconds_of_day(timing.schedule.expression)
    start = bisect_left(seconds, (moment - midnight) // SECOND)
    end = bisect_left(seconds, -((midnight - before) // SECOND))
    last = midnight + seconds[end - 1] * SECOND
    return end - start, midnight + seconds[max(start, end - 2)] * SECOND, last


def _plain_midnight(zone: tzinfo, moment: datetime) -> datetime | None:
    """When the local day of `moment` began; None if the clocks change during it or at one of its ends."""
    today = datetime.combine(moment.astimezone(zone).date(), time.min)
    ends = [day.replace(tzinfo=zone, fold=fold).utcoffset() for day in (today, today + DAY) for fold in (0, 1)]
    offset = ends[0]
    if offset is None or any(other != offset for other in ends):
        return None
    return (today - offset).replace(tzinfo=UTC)


@lru_cache(maxsize=512)
def _seconds_of_day(expression: str) -> tuple[int, ...]:
    """The seconds since midnight at which a rule fires on each day that it fires at all."""
    minutes, hours, *others = compile_cron(expression).template.expanded
    seconds = others[3] if len(others) > 3 else [0]  # croniter keeps them last, wherever they were written
    return tuple(
        hour * 3600 + minute * 60 + second
        for hour in _values(hours, 24)
        for minute in _values(minutes, 60)
        for second in _values(seconds, 60)
    )


def _values(expanded: Sequence[object], size: int) -> Sequence[int]:
    return range(size) if expanded == ["*"] else sorted(int(str(value)) for value in expanded)
