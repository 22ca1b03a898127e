"""What schedules would do, and what may surprise whoever wrote them."""

from datetime import UTC, datetime, timedelta

import pytest

from gnomon.job.daylight import clock_changes, find_zone
from gnomon.job.preview import preview
from gnomon.job.schedule import At, Cron, Every, Timing

WINTER = datetime(2030, 1, 1, tzinfo=UTC)


def warnings(expression: str, timezone: str = "Europe/Paris", since: datetime = WINTER) -> list[str]:
    return list(preview(Timing(schedule=Cron(expression, timezone)), since, count=3).warnings)


def test_moments_begin_where_they_are_asked_for() -> None:
    found = preview(Timing(schedule=Cron("0 9 * * *", "Europe/Paris")), WINTER, count=2)
    assert found.moments == [datetime(2030, 1, 1, 8, tzinfo=UTC), datetime(2030, 1, 2, 8, tzinfo=UTC)]
    assert (found.words, found.zone.key) == ("at 09:00 every day, Europe/Paris", "Europe/Paris")
    assert found.warnings == []


def test_clocks_of_a_zone_change_twice_a_year() -> None:
    found = list(clock_changes(find_zone("Europe/Paris"), WINTER, WINTER + timedelta(days=365)))
    spring, autumn = datetime(2030, 3, 31), datetime(2030, 10, 27)  # noqa: DTZ001 - on the wall clock
    two, three = timedelta(hours=2), timedelta(hours=3)
    assert [(change.first, change.end, change.skips) for change in found] == [
        (spring + two, spring + three, True),
        (autumn + two, autumn + three, False),
    ]
    assert list(clock_changes(find_zone("Asia/Tokyo"), WINTER, WINTER + timedelta(days=365))) == []


@pytest.mark.parametrize(
    ("expression", "spring", "autumn"),
    [
        ("30 2 * * *", "runs at 03:00, once", "runs the first time only"),
        ("*/10 2 * * *", "does not run", "runs both times"),
        ("30 3 * * *", None, None),
        ("*/10 * * * *", None, None),
        ("30 2 * * 1", None, None),
        ("0 2 31 3 *", "runs at 03:00, once", None),
    ],
)
def test_changes_of_the_clocks_are_told_where_they_matter(
    expression: str, spring: str | None, autumn: str | None
) -> None:
    """2030-03-31 and 2030-10-27 are Sundays; 2031-01 is beyond the next year's changes."""
    found = warnings(expression)
    expected = [
        *([f"skip 2030-03-31 02:00 to 03:00: what is due in between {spring}"] if spring else []),
        *([f"show 2030-10-27 02:00 to 03:00 twice: what is due in between {autumn}"] if autumn else []),
    ]
    assert len(found) == len(expected)
    for warning, end in zip(found, expected, strict=True):
        assert warning == f"the clocks of Europe/Paris {end}"


def test_changes_after_the_end_do_not_matter() -> None:
    timing = Timing(schedule=Cron("30 2 * * *", "Europe/Paris"), ends_at=datetime(2030, 3, 1, tzinfo=UTC))
    assert preview(timing, WINTER, count=3).warnings == []


def test_quick_succession_is_told() -> None:
    (warning,) = preview(Timing(schedule=Every(5, WINTER)), WINTER, count=3).warnings
    assert "5 s apart" in warning
    assert "17,280" in warning
    assert "1 s apart" in warnings("* * * * * *", "UTC")[0]
    assert preview(Timing(schedule=Every(60, WINTER)), WINTER, count=3).warnings == []


@pytest.mark.parametrize(
    "timing",
    [
        Timing(schedule=At(WINTER - timedelta(seconds=1))),
        Timing(schedule=Cron("0 0 * * *"), ends_at=WINTER - timedelta(hours=1)),
    ],
)
def test_what_never_fires_is_told(timing: Timing) -> None:
    found = preview(timing, WINTER, count=3)
    assert found.moments == []
    assert found.warnings == ["it never fires from 2030-01-01T00:00:00Z on"]
