"""Counting a stretch of moments gives what visiting each of them gives."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gnomon.job.schedule import Cron, Every, Timing, next_run_after
from gnomon.job.stretch import Stretch, stretch

EXPRESSIONS = (
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0,30 1-3 * * *",
    "5 */4 * * 1-5",
    "0 0 L * *",
    "15 30 2 * * *",
    "*/20 59 23 * * *",
    "0 12 13 * 5",
)
ZONES = ("UTC", "Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Beirut")
INSTANTS = st.integers(0, 4 * 365 * 86_400).map(
    lambda second: datetime(2009, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)


def visited(timing: Timing, first: datetime, before: datetime, shift: timedelta) -> list[datetime]:
    """The slow way."""
    moments: list[datetime] = []
    moment: datetime | None = first
    while moment is not None and moment < before:
        moments.append(moment)
        moment = next_run_after(timing, moment, shift=shift)
    return moments


@settings(max_examples=300, deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    start=INSTANTS,
    length=st.integers(1, 10 * 86_400),
    shift=st.integers(0, 7200),
)
@example("0,30 1-3 * * *", "Europe/Paris", datetime(2010, 10, 30, tzinfo=UTC), 3 * 86_400, 0)
@example("* * * * *", "Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC), 3 * 86_400, 0)
def test_counted_moments_are_the_visited_ones(
    expression: str, zone: str, start: datetime, length: int, shift: int
) -> None:
    timing, moved = Timing(schedule=Cron(expression, zone)), timedelta(seconds=shift)
    first = next_run_after(timing, start, shift=moved)
    assert first is not None
    before = first + timedelta(seconds=length)
    moments = visited(timing, first, before, moved)
    counted = stretch(timing, first, before, shift=moved, limit=100_000)
    assert (counted.first, counted.last, counted.count) == (moments[0], moments[-1], len(moments))
    assert counted.before_last == moments[-2:][0]


def test_stretch_cut_short_ends_at_a_moment_from_which_it_can_go_on() -> None:
    timing = Timing(schedule=Cron("* * * * *"))
    first = datetime(2026, 1, 1, 12, tzinfo=UTC)
    counted = stretch(timing, first, first + timedelta(days=30), shift=timedelta(0), limit=2)
    assert counted.count == 12 * 60 + 24 * 60  # the rest of this day, and the next
    assert counted.last == datetime(2026, 1, 2, 23, 59, tzinfo=UTC)
    assert counted.steps == 2


@pytest.mark.parametrize(
    ("seconds", "length", "count"),
    [
        (10, 1, 1),
        (10, 10, 1),  # the end is not part of it
        (10, 11, 2),
        (1, 86_400, 86_400),
    ],
)
def test_interval_is_counted_by_arithmetic(seconds: int, length: int, count: int) -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    timing = Timing(schedule=Every(seconds, first))
    counted = stretch(timing, first, first + timedelta(seconds=length), shift=timedelta(0), limit=1)
    assert (counted.count, counted.steps) == (count, 1)
    assert counted.last == first + timedelta(seconds=seconds * (count - 1))


def test_stretch_ends_with_the_schedule() -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    timing = Timing(schedule=Cron("0 * * * *"), ends_at=first + timedelta(hours=3))
    counted = stretch(timing, first, first + timedelta(days=9), shift=timedelta(0), limit=99)
    assert counted == Stretch(
        first=first,
        before_last=first + timedelta(hours=2),
        last=first + timedelta(hours=3),
        count=4,
        steps=1,
    )
