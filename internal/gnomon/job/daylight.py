"""From wall-clock time to instants, by Debian cron's rule for daylight saving.

Fixed times run once per local date: skipped ones at the end of the gap, repeated ones the first time only.
The others follow elapsed time: a repeated hour runs twice, a skipped one not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from gnomon.job.cron import CronRule
from gnomon.job.errors import InvalidJob

POINTER = "/timezone"
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
END_OF_TIME = datetime(2201, 1, 1, tzinfo=UTC)
NO_PLACES = frozenset(("localtime", "posixrules", "Factory"))  # they differ from machine to machine, or mean nothing


@dataclass(frozen=True, kw_only=True)
class ClockChange:
    """The clocks never show the wall-clock times in [first, end), or (`skips` is False) show them twice."""

    first: datetime
    end: datetime
    skips: bool


def clock_changes(zone: tzinfo, since: datetime, until: datetime) -> Iterator[ClockChange]:
    """Those between two instants, in order."""
    while since < until:
        day = since + DAY
        before, after = _offset_at(zone, since), _offset_at(zone, day)
        if before != after:
            change = _naive(_first_change(zone, since, day))
            first, end = sorted((change + before, change + after))
            yield ClockChange(first=first, end=end, skips=after > before)
        since = day


@cache
def find_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises InvalidJob at /timezone."""
    known = _zone_names()
    if name not in known:
        close = get_close_matches(name[:64], sorted(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "take an IANA name like Europe/Paris"
        raise InvalidJob.at(POINTER, f"{name[:64]!r} is not a known time zone", hint)
    return ZoneInfo(name)


def fixed_after(rule: CronRule, zone: tzinfo, after: datetime) -> datetime | None:
    """The first moment later than `after` (UTC) of a rule whose hour and minute are fixed."""
    local = after.astimezone(zone)
    wall = local.replace(tzinfo=None, fold=0)
    if local.fold:
        wall = _end_of_repetition(wall, zone, after) - SECOND
    while (found := rule.after(wall)) is not None:
        wall = found
        instant = _first_instant(wall, zone)
        if instant > after:
            return instant
    return None


def elapsed_after(rule: CronRule, zone: tzinfo, after: datetime) -> datetime | None:
    """The first moment later than `after` (UTC) of a rule with a wildcard: from one change of offset to the next."""
    start, offset = after, _offset_at(zone, after)
    wall = _naive(start) + offset
    while (found := rule.after(wall)) is not None:
        instant = _utc(found - offset)
        if instant >= END_OF_TIME:
            return None
        change = _change_within(zone, start, instant)
        if change is None:
            return instant
        start, offset = change, _offset_at(zone, change)
        wall = _naive(start) + offset - SECOND  # the first second of the new offset may be a moment
    return None


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - NO_PLACES


def _first_instant(wall: datetime, zone: tzinfo) -> datetime:
    """When the clocks first show `wall`; if they never do, the end of the gap."""
    early = _offset(wall.replace(tzinfo=zone, fold=0))
    late = _offset(wall.replace(tzinfo=zone, fold=1))
    if late <= early:
        return _utc(wall - early)
    return _first_change(zone, _utc(wall - late), _utc(wall - early))  # PEP 495: in a gap `early` is the old offset


def _end_of_repetition(wall: datetime, zone: tzinfo, second_time: datetime) -> datetime:
    """The wall-clock time from which the clocks show nothing twice; `second_time` is when they show `wall` again."""
    old_offset = _offset(wall.replace(tzinfo=zone, fold=0))
    return _naive(_first_change(zone, _utc(wall - old_offset), second_time)) + old_offset


def _change_within(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """A change of offset in (start, end], or None if none matters to a walk from `start` to the match at `end`.

    Between two moments of the same offset the clocks may have changed and changed back, as in every year. That matters
    only near the ends: an hour repeated just after `start` shows times before it again, one repeated just before `end`
    has shown the match already. No zone has changed its clocks twice within a day, or by more than a day.
    """
    offset = _offset_at(zone, start)
    for moment in sorted({min(start + DAY, end), max(end - DAY, start), end}):
        if _offset_at(zone, moment) != offset:
            return _first_change(zone, start, moment)
        start = moment
    return None


def _first_change(zone: tzinfo, start: datetime, end: datetime) -> datetime:
    """Where the offset of `start` ends, to the second; at `end` it is another one."""
    offset = _offset_at(zone, start)
    start = start.replace(microsecond=0)
    low, high = 0, -(-(end - start) // SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_at(zone, start + middle * SECOND) == offset:
            low = middle
        else:
            high = middle
    return start + high * SECOND


def _offset_at(zone: tzinfo, instant: datetime) -> timedelta:
    return _offset(instant.astimezone(zone))


def _offset(local: datetime) -> timedelta:
    offset = local.utcoffset()
    assert offset is not None  # every IANA zone has one
    return offset


def _utc(naive: datetime) -> datetime:
    return naive.replace(tzinfo=UTC)


def _naive(instant: datetime) -> datetime:
    return instant.replace(tzinfo=None)
