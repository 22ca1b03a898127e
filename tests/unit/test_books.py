"""The checker of the books finds what is wrong, and only that."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from support.books import Entry, Row, owed_moments, schedule_moments, unbalanced

JOB = UUID("018f0000-0000-7000-8000-000000000000")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MINUTELY = {"cron_schedule": "* * * * *"}
OWED = [NOON + MINUTE * number for number in range(4)]


def rows(*numbers: int) -> list[Row]:
    return [Row(at=OWED[number]) for number in numbers]


def skips(first: int, last: int, count: int) -> Row:
    return Row(at=OWED[first], skipped=count, last=OWED[last])


@pytest.mark.parametrize(
    ("booked", "wrong"),
    [
        (rows(0, 1, 2, 3), {}),
        ([*rows(0, 3), skips(1, 2, 2)], {}),
        (rows(0, 1, 3), {OWED[2]: 0}),
        (rows(0, 1, 2, 2, 3), {OWED[2]: 2}),
        ([*rows(0, 1, 3), skips(1, 2, 2)], {OWED[1]: 2}),
        ([*rows(0, 3), skips(1, 2, 3)], {OWED[1]: 5, OWED[2]: 0}),
        ([*rows(0, 1, 2, 3), Row(at=NOON + MINUTE / 2)], {NOON + MINUTE / 2: 1}),
    ],
    ids=["right", "right with a skip", "missing", "doubled", "run and skipped", "miscounted skip", "not owed"],
)
def test_every_wrong_moment_is_found(booked: list[Row], wrong: dict[datetime, int]) -> None:
    assert unbalanced(OWED, booked) == wrong


def test_window_leaves_out_what_lies_outside() -> None:
    assert unbalanced(OWED, rows(0, 1), since=OWED[0], until=OWED[3]) == {OWED[2]: 0}


def test_pause_ends_what_is_owed_and_resuming_begins_it_anew() -> None:
    trail = [
        Entry(revision=1, owed_from=NOON - MINUTE / 2),
        Entry(revision=1, owed_until=OWED[2]),
        Entry(revision=1, owed_from=NOON + 3 * MINUTE + MINUTE / 2),
    ]
    owed = owed_moments(JOB, {1: MINUTELY}, trail, closed_at=NOON + 6 * MINUTE)
    assert owed == [NOON, NOON + MINUTE, NOON + 4 * MINUTE, NOON + 5 * MINUTE]


def test_edit_passes_from_one_schedule_to_the_other_without_a_gap() -> None:
    trail = [
        Entry(revision=1, owed_from=NOON),
        Entry(revision=2),
        Entry(revision=3, owed_from=OWED[2], owed_until=OWED[2]),
    ]
    hourly = {"cron_schedule": "0 * * * *"}
    owed = owed_moments(JOB, {1: MINUTELY, 3: hourly}, trail, closed_at=NOON + 3 * timedelta(hours=1))
    assert owed == [NOON, NOON + MINUTE, NOON + timedelta(hours=1), NOON + timedelta(hours=2)]


def test_intervals_one_offs_bounds_and_spread_are_enumerated() -> None:
    day = NOON + timedelta(days=1)
    every = {"interval_seconds": 3600, "anchor_at": NOON.isoformat()}
    assert list(schedule_moments(JOB, every, NOON - MINUTE, NOON + timedelta(hours=2))) == [NOON + timedelta(hours=1)]
    started = {**every, "starts_at": NOON.isoformat(), "ends_at": (NOON + timedelta(hours=1)).isoformat()}
    assert list(schedule_moments(JOB, started, NOON - MINUTE, day)) == [NOON, NOON + timedelta(hours=1)]
    once = {"execute_at": NOON.isoformat()}
    assert list(schedule_moments(JOB, once, NOON, day)) == [NOON]
    assert list(schedule_moments(JOB, once, NOON + MINUTE, day)) == []
    (spread,) = schedule_moments(JOB, {"cron_schedule": "0 12 * * *", "spread_seconds": 600}, NOON, day)
    assert NOON <= spread < NOON + timedelta(seconds=600)
