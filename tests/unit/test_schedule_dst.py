"""Daylight saving: fixed times run once per local date, wildcards follow elapsed time.

Two oracles: `expected`, which writes the rule down minute by minute without any stepping, and cronsim. Both are asked
around every change of UTC offset of every zone from 1970 to 2037 (`--all`), or around a sample of them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.schedule import Cron, Timing, next_run_after

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MIDNIGHT = datetime(1900, 1, 1)  # noqa: DTZ001 - on the wall clock
ODD_ZONES = (
    "Africa/Casablanca",  # winter time in Ramadan
    "Africa/Monrovia",  # 44 min 30 s, until 1972
    "America/Caracas",  # half an hour, once
    "America/Goose_Bay",  # changed at one minute past midnight
    "America/New_York",
    "America/Sao_Paulo",  # at midnight
    "Antarctica/Casey",  # three hours
    "Antarctica/Troll",  # two hours
    "Asia/Beirut",  # at midnight
    "Asia/Pyongyang",  # half an hour, both ways
    "Australia/Lord_Howe",  # half an hour, every year
    "Europe/Dublin",  # winter is the exception
    "Europe/Paris",
    "Pacific/Apia",  # without 30 December 2011
    "Pacific/Kwajalein",  # without 21 August 1993
)


def wall_times(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The next moments as the clocks of the zone show them; `start` has an offset."""
    timing = Timing(schedule=Cron(expression, zone))
    moment: datetime | None = datetime.fromisoformat(start)
    shown = []
    for _ in range(count):
        assert moment is not None
        moment = next_run_after(timing, moment)
        assert moment is not None
        shown.append(f"{moment.astimezone(ZoneInfo(zone)):%m-%d %H:%M%z}")
    return shown


# In Paris the clocks go from 02:00+01 to 03:00+02 on 29 March 2026, and from 03:00+02 to 02:00+01 on 25 October 2026.
@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # spring: a fixed time in the gap runs at its end, once, and the next day at its own time
        ("30 2 * * *", "2026-03-28T12:00+01:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("0 2 * * *", "2026-03-28T12:00+01:00", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("0 3 * * *", "2026-03-28T12:00+01:00", ["03-29 03:00+0200", "03-30 03:00+0200"]),
        ("30 2 * * *", "2026-03-29T03:00+02:00", ["03-30 02:30+0200"]),
        ("*/5 30 2 * * *", "2026-03-28T12:00+01:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        # several fixed times in one gap fall together, also with one that stands at its end
        ("0,30 2,3 * * *", "2026-03-29T01:59+01:00", ["03-29 03:00+0200", "03-29 03:30+0200", "03-30 02:00+0200"]),
        # autumn: the first time only
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("30 2 * * *", "2026-10-25T02:10+01:00", ["10-26 02:30+0100"]),  # created in the second hour: missed
        ("0,30 2,3 * * *", "2026-10-25T02:00+02:00", ["10-25 02:30+0200", "10-25 03:00+0100", "10-25 03:30+0100"]),
        # elapsed time: the skipped hour has no moment, the repeated one has them twice
        ("*/30 * * * *", "2026-03-29T01:30+01:00", ["03-29 03:00+0200", "03-29 03:30+0200"]),
        ("*/30 2 * * *", "2026-03-28T12:00+01:00", ["03-30 02:00+0200", "03-30 02:30+0200"]),
        ("30 * * * *", "2026-10-25T02:00+02:00", ["10-25 02:30+0200", "10-25 02:30+0100", "10-25 03:30+0100"]),
        ("*/30 2 * * *", "2026-10-25T02:10+02:00", ["10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100"]),
        # once a year, and exactly in the repeated hour: a year's walk finds the first of the two
        ("*/30 2 25 10 *", "2026-01-01T00:00+01:00", ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100"]),
        ("*/30 2 25 10 *", "2026-10-25T02:30+02:00", ["10-25 02:00+0100", "10-25 02:30+0100", "10-25 02:00+0200"]),
    ],
)
def test_in_paris(expression: str, start: str, expected: list[str]) -> None:
    assert wall_times(expression, "Europe/Paris", start, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        # 02:00+10:30 becomes 02:30+11
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00+10:30", ["10-04 02:30+1100", "10-05 02:15+1100"]),
        # 02:00+11 becomes 01:30+10:30
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00+11:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        ("Australia/Lord_Howe", "45 * * * *", "2026-04-05T01:00+11:00", ["04-05 01:45+1100", "04-05 01:45+1030"]),
        # the whole of 30 December is missing: its 09:00 runs when the 31st begins
        ("Pacific/Apia", "0 9 * * *", "2011-12-29T10:00-10:00", ["12-31 00:00+1400", "12-31 09:00+1400"]),
        ("Pacific/Apia", "0 */12 * * *", "2011-12-29T10:00-10:00", ["12-29 12:00-1000", "12-31 00:00+1400"]),
        # midnight does not exist: 00:00-03 is 01:00-02
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00-03:00", ["11-04 01:00-0200", "11-05 00:00-0200"]),
        # midnight comes twice; the second is on the date before
        ("America/Sao_Paulo", "30 23 * * *", "2018-02-17T12:00-02:00", ["02-17 23:30-0200", "02-18 23:30-0300"]),
        ("Asia/Beirut", "15 0 * * *", "2026-03-28T12:00+02:00", ["03-29 01:00+0300", "03-30 00:15+0300"]),
        # from 01:00+00 to 03:00+02
        ("Antarctica/Troll", "30 1,2 * * *", "2026-03-28T12:00+00:00", ["03-29 03:00+0200", "03-30 01:30+0200"]),
        # 00:00:00-00:44:30 became 00:44:30+00: the gap ends within a minute, the only one since 1970
        ("Africa/Monrovia", "30 0 * * *", "1972-01-06T12:00+00:00", ["01-07 00:44+0000", "01-08 00:30+0000"]),
    ],
)
def test_odd_zones(zone: str, expression: str, start: str, expected: list[str]) -> None:
    assert wall_times(expression, zone, start, len(expected)) == expected


def test_job_whose_every_time_is_skipped_has_no_moment() -> None:
    # New York has no 02:00 to 02:59 on the second Sunday of March, since 2007.
    timing = Timing(schedule=Cron("*/5 2 * 3 0#2", "America/New_York"))
    assert next_run_after(timing, datetime(2026, 1, 1, tzinfo=UTC)) is None


zones = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
expressions = st.sampled_from(
    (
        "30 2 * * *",
        "0 0 * * *",
        "*/20 * * * *",
        "*/20 1 * * *",
        "30 */2 * * *",
        "0,30 0-3 * * *",
        "*/30 2 25 10 *",
        "*/30 1 1-7 11 *",
        "0 12 L * *",
        "*/15 59 23 * * *",
        "15 * 0 * * *",
    )
)
instants = st.timedeltas(timedelta(0), timedelta(days=69_000)).map(lambda age: datetime(2000, 1, 1, tzinfo=UTC) + age)


@settings(deadline=None, max_examples=300)
@given(zones, expressions, instants, st.floats(0, 1, exclude_max=True))
def test_next_moment_is_later_and_the_same_from_wherever_one_starts(
    zone: str, expression: str, start: datetime, part: float
) -> None:
    timing = Timing(schedule=Cron(expression, zone))
    moment = next_run_after(timing, start)
    assert moment is not None
    assert moment > start
    between = start + (moment - start) * part
    assert between >= moment or next_run_after(timing, between) == moment
    assert next_run_after(timing, moment - timedelta(microseconds=1)) == moment


# --- every change of offset ---


@dataclass(frozen=True, kw_only=True)
class Change:
    """At `at`, the clocks of `zone` went from the offset `old` to `new`."""

    zone: str
    at: datetime
    old: timedelta
    new: timedelta

    @property
    def size(self) -> timedelta:
        return abs(self.new - self.old)

    @property
    def window(self) -> tuple[datetime, datetime]:
        """From well before the change to well after, whole minutes on the old clocks."""
        start = self.at - self.size - 3 * HOUR
        return start - (start.replace(tzinfo=None) + self.old - MIDNIGHT) % MINUTE, self.at + self.size + 3 * HOUR


@dataclass(frozen=True, kw_only=True)
class Case:
    """An expression, and what it means, in words that need no parser."""

    expression: str
    minutes: frozenset[int]
    hours: frozenset[int]
    fixed: bool
    second: int = 0


def cases(change: Change) -> Iterator[Case]:
    """Times inside and at both edges of the skipped or repeated stretch, and wildcards of each field."""
    before = change.at.replace(tzinfo=None) + change.old
    after = change.at.replace(tzinfo=None) + change.new
    middle = before + (after - before) / 2
    every_minute, every_hour = frozenset(range(60)), frozenset(range(24))
    for time in (before, middle, after):
        minutes, hours = minutes_of(time), frozenset((time.hour,))
        yield Case(expression=f"{time.minute} {time.hour} * * *", minutes=minutes, hours=hours, fixed=True)
    yield Case(
        expression=f"30 {middle.minute} {middle.hour} * * *",
        minutes=minutes_of(middle),
        hours=frozenset((middle.hour,)),
        fixed=True,
        second=30,
    )
    yield Case(expression="0-59/15 0-23 * * *", minutes=frozenset((0, 15, 30, 45)), hours=every_hour, fixed=True)
    yield Case(expression="*/20 * * * *", minutes=frozenset((0, 20, 40)), hours=every_hour, fixed=False)
    yield Case(expression=f"* {middle.hour} * * *", minutes=every_minute, hours=frozenset((middle.hour,)), fixed=False)
    yield Case(expression=f"{middle.minute} * * * *", minutes=minutes_of(middle), hours=every_hour, fixed=False)
    yield Case(
        expression=f"{middle.minute} */2 * * *",
        minutes=minutes_of(middle),
        hours=frozenset(range(0, 24, 2)),
        fixed=False,
    )
    yield Case(expression="10 */30 * * * *", minutes=frozenset((0, 30)), hours=every_hour, fixed=False, second=10)


def minutes_of(time: datetime) -> frozenset[int]:
    return frozenset((time.minute,))


def expected(case: Case, change: Change) -> list[datetime]:
    """The moments in the window of the change, by the rule itself: look at the clocks every minute."""
    start, end = change.window

    def matching(first: datetime, last: datetime, offset: timedelta) -> Iterator[datetime]:
        wall = first.replace(tzinfo=None) + offset
        wall += -(wall - MIDNIGHT) % MINUTE  # the next whole minute on the clocks
        while (moment := (wall - offset + timedelta(seconds=case.second)).replace(tzinfo=UTC)) < last:
            if wall.minute in case.minutes and wall.hour in case.hours and moment >= first:
                yield moment
            wall += MINUTE

    before = list(matching(start, change.at, change.old))
    after = list(matching(change.at - MINUTE, end, change.new))
    after = [moment for moment in after if moment >= change.at]
    if not case.fixed:
        return before + after
    shown_twice = change.old - change.new  # negative in spring
    after = [moment for moment in after if moment >= change.at + shown_twice]
    skipped = matching(change.at, change.at - shown_twice, change.old)  # as if the old clocks had gone on
    return sorted({*before, *after, *(change.at for _ in skipped)})


def stepped(case: Case, change: Change) -> list[datetime]:
    start, end = change.window
    timing = Timing(schedule=Cron(case.expression, change.zone))
    moment: datetime | None = start - timedelta(microseconds=1)
    found: list[datetime] = []
    while moment is not None and moment < end:
        found.append(moment)
        moment = next_run_after(timing, moment)
        assert moment is None or moment > found[-1]
    return found[1:]


def cronsim(case: Case, change: Change) -> list[datetime]:
    start, end = change.window
    simulation = CronSim(case.expression, (start - timedelta(seconds=1)).astimezone(ZoneInfo(change.zone)))
    found: list[datetime] = []
    while (moment := next(simulation).astimezone(UTC)) < end:
        # In a repeated hour cronsim can answer with a time before its start, and for several times in a gap it
        # answers with the end of the gap several times.
        if moment >= start and moment not in found:
            found.append(moment)
    return found


def cronsim_agrees(case: Case, change: Change) -> bool:
    """Where cronsim 2.8 has the same rule.

    It applies Debian's rule to five fields only; six fields with a fixed hour follow elapsed time there. It rolls a
    gap's times on by whole minutes, where ours takes the end of the gap (Monrovia ends a gap at :30). And for wildcards
    it jumps to the next minute or hour by elapsed time, so it skips or repeats moments, or never returns, where the
    clocks do not change by whole hours at a whole hour.
    """
    if case.fixed:
        return case.second == 0 and change.size % MINUTE == timedelta(0)
    wall = change.at.replace(tzinfo=None) + change.old
    return change.size % HOUR == timedelta(0) and (wall - MIDNIGHT) % HOUR == timedelta(0)


def check(changes: list[Change]) -> None:
    compared = 0
    for change in changes:
        for case in cases(change):
            context = f"{case.expression} in {change.zone} around {change.at}"
            found = stepped(case, change)
            assert found == expected(case, change), context
            if cronsim_agrees(case, change):
                compared += 1
                assert found == cronsim(case, change), context
    assert compared > len(changes)


def find_changes(zone: str) -> list[Change]:
    """Every change of offset from 1970 to 2037, by bisection."""
    place = ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta:
        shown = moment.astimezone(place).utcoffset()
        assert shown is not None
        return shown

    found = []
    start, end = datetime(1970, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
    while start < end:
        low, high = 0, 7 * 86_400  # no zone changed its clocks twice within a week and back
        if offset(start) != offset(start + timedelta(seconds=high)):
            while high - low > 1:
                middle = (low + high) // 2
                same = offset(start + timedelta(seconds=middle)) == offset(start)
                low, high = (middle, high) if same else (low, middle)
            at = start + timedelta(seconds=high)
            found.append(Change(zone=zone, at=at, old=offset(start), new=offset(at)))
        start += timedelta(days=7)
    return found


@cache
def all_changes() -> list[Change]:
    """Those of every zone; zones with the same changes count once."""
    zones = {
        tuple((change.at, change.old, change.new) for change in changes): changes
        for changes in map(find_changes, sorted(available_timezones() - {"localtime", "Factory"}))
    }
    return [change for changes in zones.values() for change in changes]


def test_a_sample_of_clock_changes_agrees_with_the_rule_and_with_cronsim() -> None:
    generator = random.Random(1972)
    zones = {*ODD_ZONES, *generator.sample(sorted(available_timezones()), 25)}
    changes = [change for zone in sorted(zones) for change in find_changes(zone)]
    odd = [change for change in changes if change.size != HOUR]
    whole = [change for change in changes if change.size == HOUR]
    check(generator.sample(odd, 80) + generator.sample(whole, 120) + find_changes("Africa/Monrovia"))


@pytest.mark.long
def test_all_clock_changes_agree_with_the_rule_and_with_cronsim() -> None:
    changes = all_changes()
    assert len(changes) > 10_000
    check(changes)
