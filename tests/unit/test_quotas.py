"""What the operator lets jobs be."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.errors import InvalidJob
from gnomon.job.quotas import Quotas
from gnomon.job.schedule import At, Cron, Every, Schedule, Timing, closest, moments_from

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("* * * * *", MINUTE),
        ("* * * * * *", 1),
        ("*/20 * * * * *", 20),
        ("*/7 * * * *", 4 * MINUTE),  # :56 and :00
        ("0,59 * * * *", MINUTE),  # over the hour
        ("0,59 0 * * *", 59 * MINUTE),
        ("0 0,23 * * *", HOUR),  # over night
        ("0 0,23 * * 1,3", 23 * HOUR),  # no two days in a row
        ("0 0,23 1 * *", 23 * HOUR),
        ("0 0,23 1,31 * *", HOUR),  # 31 January and 1 February
        ("0 12 * * 1,4", 3 * DAY),
        ("0 0 1 * *", 28 * DAY),
        ("0 0 1 3 *", 365 * DAY),
        ("0 0 28,29 2 *", DAY),
        ("0 0 29 2 *", 1461 * DAY),
        ("59 23 L * *", 28 * DAY),  # 31 January and 28 February
        ("0 9 * * 1#1", 28 * DAY),
        ("@daily", DAY),
    ],
)
def test_closest_moments_of_a_cron_expression(expression: str, seconds: int) -> None:
    assert closest(Cron(expression)) == timedelta(seconds=seconds)


def test_closest_moments_of_other_schedules() -> None:
    assert closest(Every(90, ANCHOR)) == timedelta(seconds=90)
    assert closest(At(ANCHOR)) is None


FIELDS = st.tuples(
    *(
        st.just("*") | st.lists(st.integers(low, high).map(str), min_size=1, max_size=3, unique=True).map(",".join)
        for low, high in ((0, 59), (0, 23), (1, 28), (0, 6))
    )
)


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_no_two_moments_are_closer_than_is_said(fields: tuple[str, str, str, str]) -> None:
    minute, hour, day, weekday = fields
    schedule = Cron(f"{minute} {hour} {day} * {weekday}")
    moments = [moment for moment, _ in zip(moments_from(Timing(schedule=schedule), ANCHOR), range(400), strict=False)]
    said = closest(schedule)
    assert said is not None
    assert min(late - early for early, late in pairwise(moments)) >= said


@pytest.mark.parametrize(
    "schedule", [Every(59, ANCHOR), Cron("*/30 * * * * *"), Cron("0,1 0 0 1 1 *")], ids=["every", "cron", "once a year"]
)
def test_schedule_that_is_too_frequent_is_refused_with_the_setting(schedule: Schedule) -> None:
    with pytest.raises(InvalidJob) as caught:
        Quotas(min_interval=timedelta(minutes=1)).check_schedule(schedule, None, pointer="/x")
    (error,) = caught.value.errors
    assert error.pointer == "/x"
    assert "at least 60 s are allowed here" in error.detail
    assert "limits.min_interval" in str(error.hint)


def test_schedule_that_was_too_frequent_before_stays_so() -> None:
    quotas, before = Quotas(min_interval=timedelta(minutes=1)), Every(10, ANCHOR)
    quotas.check_schedule(Every(10, ANCHOR + timedelta(days=1)), before, pointer="/x")
    for other in (Every(5, ANCHOR), Every(30, ANCHOR)):
        with pytest.raises(InvalidJob):
            quotas.check_schedule(other, before, pointer="/x")
    quotas.check_schedule(Every(60, ANCHOR), before, pointer="/x")
