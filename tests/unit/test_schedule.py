"""Schedules: what is accepted, and when they fire (daylight saving has its own file)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.errors import InvalidJob
from gnomon.job.schedule import (
    At,
    Cron,
    Every,
    Schedule,
    Timing,
    describe,
    first_run,
    next_run_after,
    parse_cron,
)

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday
JOB_ID = UUID("0190a5f0-0000-7000-8000-000000000001")


def moments(timing: Timing, after: datetime, count: int) -> list[str]:
    found: list[str] = []
    moment: datetime | None = after
    while moment is not None and len(found) < count:
        moment = next_run_after(timing, moment)
        found += [] if moment is None else [f"{moment:%m-%d %H:%M:%S}"]
    return found


# --- cron ---


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["01-01 00:20:00", "01-01 00:40:00", "01-01 01:00:00"]),
        ("0 9 * * 1-5", ["01-01 09:00:00", "01-02 09:00:00", "01-05 09:00:00"]),  # Thursday, Friday, Monday
        ("15 30 9 * * *", ["01-01 09:30:15", "01-02 09:30:15", "01-03 09:30:15"]),  # seconds come first
        ("*/30 * * * * *", ["01-01 00:00:30", "01-01 00:01:00", "01-01 00:01:30"]),
        ("0 0 L * *", ["01-31 00:00:00", "02-28 00:00:00", "03-31 00:00:00"]),
        ("0 0 15,L 2 *", ["02-15 00:00:00", "02-28 00:00:00", "02-15 00:00:00"]),
        ("0 0 * * 1#2", ["01-12 00:00:00", "02-09 00:00:00", "03-09 00:00:00"]),  # Mondays: 5, 12 · 2, 9 · 2, 9
        ("0 0 * * L5", ["01-30 00:00:00", "02-27 00:00:00", "03-27 00:00:00"]),  # last Fridays
        ("0 0 15W * *", ["01-15 00:00:00", "02-16 00:00:00", "03-16 00:00:00"]),  # 15 February and March are Sundays
        ("0 0 13 * 5", ["01-02 00:00:00", "01-09 00:00:00", "01-13 00:00:00"]),  # either: Fridays 2, 9, and the 13th
        ("0 0 */2 * 5", ["01-09 00:00:00", "01-23 00:00:00", "02-13 00:00:00"]),  # */2 restricts nothing: odd Fridays
        ("0 0 * * 7", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 * * 5-7", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("0 0 ? JAN,mar Mon", ["01-05 00:00:00", "01-12 00:00:00", "01-19 00:00:00"]),
        ("0 0 29 2 *", ["02-29 00:00:00", "02-29 00:00:00", "02-29 00:00:00"]),
        ("@yearly", ["01-01 00:00:00", "01-01 00:00:00", "01-01 00:00:00"]),
        ("@annually", ["01-01 00:00:00", "01-01 00:00:00", "01-01 00:00:00"]),
        ("@monthly", ["02-01 00:00:00", "03-01 00:00:00", "04-01 00:00:00"]),
        ("@weekly", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("@daily", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("@midnight", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("@Hourly", ["01-01 01:00:00", "01-01 02:00:00", "01-01 03:00:00"]),
    ],
)
def test_cron_expression_fires_at(expression: str, expected: list[str]) -> None:
    assert moments(Timing(schedule=Cron(expression)), ANCHOR, 3) == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("R * * * *", "field 1 (minute) 'r' is random"),
        ("0 R(1-5) * * *", "field 2 (hour) 'r(1-5)' is random"),
        ("H * * * *", "field 1 (minute) 'h' is hashed"),
        ("0 0 1,H/5 * *", "field 3 (day of month) '1,h/5' is hashed"),
        ("0 0 0 1 1 * 2030", "field 7 (year)"),
        ("0 22-2 * * *", "field 2 (hour) '22-2' has a range that does not ascend (22-2)"),
        ("0 0 * NOV-FEB *", "field 4 (month) 'nov-feb' has a range that does not ascend (nov-feb)"),
        ("0 0 * * FRI-MON", "field 5 (day of week) 'fri-mon' has a range that does not ascend"),
        ("0 0 * * sat-sun/2", "field 5 (day of week) 'sat-sun/2' has a range that does not ascend"),
        ("5-5 * * * *", "field 1 (minute) '5-5' has a range that does not ascend"),
        ("0 0 L-5 * *", "field 3 (day of month) 'l-5' has a range that does not ascend"),
        ("0 0 30 2 *", "field 3 (day of month) '30' never occurs in month 2"),
        ("0 0 31 4,6,9,11 *", "field 3 (day of month) '31' never occurs in month 4,6,9,11"),
        ("60 * * * *", "field 1 (minute) '60' can't be read"),
        ("0 24 * * *", "field 2 (hour) '24' can't be read"),
        ("0 0 0 * *", "field 3 (day of month) '0' can't be read"),
        ("0 0 * 13 *", "field 4 (month) '13' can't be read"),
        ("0 0 * * 8", "field 5 (day of week) '8' can't be read"),
        ("60 0 0 * * *", "field 1 (second) '60' can't be read"),
        ("0 0 24 * * *", "field 3 (hour) '24' can't be read"),
        ("0 0 * * 1#6", "field 5 (day of week) '1#6' can't be read"),
        ("0 0 * * 5L", "field 5 (day of week) '5l' can't be read"),
        ("0 0 * * 1,2#3", "field 5 (day of week) '1,2#3' can't be read"),
        ("*/0 * * * *", "field 1 (minute) '*/0' can't be read"),
        ("1,,2 * * * *", "field 1 (minute) '1,,2' can't be read"),
        ("-1 * * * *", "field 1 (minute) '-1' can't be read"),
        ("0 0 1 * 1#1", "field 5 (day of week) '1#1' can't be combined with a day of month"),
        ("0 0 15W * 1", "field 5 (day of week) '1' can't be combined with a day of month"),
        ("15,* * * * *", "field 1 (minute) '15,*' lists * beside other values"),
        ("0 0 *,5 * *", "field 3 (day of month) '*,5' lists * beside other values"),
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * * *", "has 8 fields"),
        ("@reboot", "'@reboot' is not known"),
        ("0 0 * * " + "1," * 100 + "1", "is longer than 200 characters"),
    ],
)
def test_refused_expression_says_which_field_and_why(expression: str, reason: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Cron(expression)
    (error,) = caught.value.errors
    assert error.pointer == "/cron_schedule"
    assert reason in error.detail


@settings(deadline=None, max_examples=300)
@given(st.text("0123456789*/-,# \tLWRH?@JANMONSUyearlyx\u0663\u00a0", max_size=24) | st.text(max_size=12))
def test_any_text_is_a_schedule_or_an_invalid_job(text: str) -> None:
    try:
        schedule = parse_cron(text, timezone="UTC", anchor_at=ANCHOR)
    except InvalidJob:
        return
    assert next_run_after(Timing(schedule=schedule), ANCHOR) is not None


def values(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
    stepped = st.tuples(spans | st.just("*"), st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.just("*") | stepped | st.lists(number.map(str) | spans, min_size=1, max_size=3).map(",".join)


expressions = st.tuples(
    values(0, 59), values(0, 23), values(1, 28) | st.just("L"), values(1, 12), values(0, 7) | st.just("1#2")
).map(" ".join)


@settings(deadline=None)
@given(expressions, st.timedeltas(timedelta(0), timedelta(days=36_500)))
def test_in_utc_cron_agrees_with_cronsim(expression: str, age: timedelta) -> None:
    start = ANCHOR + age
    day, weekday = expression.split()[2], expression.split()[4]
    if weekday == "1#2" and not day.startswith("*"):
        with pytest.raises(InvalidJob, match="can't be combined"):
            Cron(expression)
        return
    timing = Timing(schedule=Cron(expression))
    oracle = CronSim(expression, start)
    moment: datetime | None = start
    for _ in range(3):
        assert moment is not None
        moment = next_run_after(timing, moment)
        assert moment == next(oracle)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Pariss", "Europe/Paris"),
        ("europe/paris", "Europe/Paris"),
        ("../../etc/passwd", "IANA"),
        ("/etc/localtime", "IANA"),
        ("localtime", "IANA"),
        ("right/UTC", ""),
        ("", "IANA"),
        ("x" * 10_000, "IANA"),
    ],
)
def test_unknown_zone_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Cron("0 0 * * *", name)
    (error,) = caught.value.errors
    assert error.pointer == "/timezone"
    assert hint in (error.hint or "")
    assert len(error.detail) < 100


def test_cron_means_the_wall_clock_of_its_zone() -> None:
    timing = Timing(schedule=Cron("0 9 * * *", "Asia/Tokyo"))  # UTC+9
    assert next_run_after(timing, ANCHOR) == datetime(
        2026, 1, 2, 0, 0, tzinfo=UTC
    )  # 09:00 on the 1st is now, not later


def test_start_may_be_in_any_zone_and_the_answer_is_utc() -> None:
    timing = Timing(schedule=Cron("0 * * * *"))
    for zone in (timezone(timedelta(hours=5, minutes=30)), ZoneInfo("America/New_York")):
        moment = next_run_after(timing, ANCHOR.astimezone(zone))
        assert moment == ANCHOR + timedelta(hours=1)
        assert moment.tzinfo is UTC


@pytest.mark.parametrize("micros", [0, 1, 499_999, 500_000, 999_999])
def test_fractions_of_a_second_are_neither_rounded_up_nor_lost(micros: int) -> None:
    timing = Timing(schedule=Cron("* * * * * *"))
    start = datetime(2199, 6, 1, 12, 0, 5, micros, tzinfo=UTC)  # far out, where floats are coarse
    assert next_run_after(timing, start) == datetime(2199, 6, 1, 12, 0, 6, tzinfo=UTC)


def test_nothing_is_due_after_the_year_2200() -> None:
    for schedule in (Cron("0 0 1 1 *"), Cron("*/5 * * * *"), Every(315_576_000, ANCHOR)):
        assert next_run_after(Timing(schedule=schedule), datetime(2200, 12, 31, 23, 59, tzinfo=UTC)) is None


# --- the spellings of cron_schedule ---


@pytest.mark.parametrize(
    ("text", "timezone_name", "schedule"),
    [
        ("0 9 * * *", "UTC", Cron("0 9 * * *")),
        ("  0 9 * * *\n", "Europe/Paris", Cron("0 9 * * *", "Europe/Paris")),
        ("TZ=Asia/Tokyo 0 9 * * *", "UTC", Cron("0 9 * * *", "Asia/Tokyo")),
        ("CRON_TZ=Asia/Tokyo 0 9 * * *", "Asia/Tokyo", Cron("0 9 * * *", "Asia/Tokyo")),
        ("TZ=Asia/Tokyo @daily", "UTC", Cron("@daily", "Asia/Tokyo")),
        ("@every 5m", "UTC", Every(300, ANCHOR)),
        ("@every 1h30m", "UTC", Every(5400, ANCHOR)),  # 3600 + 30 · 60
        ("@every 90s", "UTC", Every(90, ANCHOR)),
        ("@every 1.5m", "UTC", Every(90, ANCHOR)),
        ("@every 500ms1.5s", "UTC", Every(2, ANCHOR)),  # 0.5 + 1.5
        ("TZ=UTC @every 1s", "UTC", Every(1, ANCHOR)),
    ],
)
def test_spelling_is_read_as(text: str, timezone_name: str, schedule: Schedule) -> None:
    assert parse_cron(text, timezone=timezone_name, anchor_at=ANCHOR) == schedule


@pytest.mark.parametrize(
    ("text", "timezone_name", "pointer"),
    [
        ("TZ=Asia/Tokyo 0 9 * * *", "Europe/Paris", "/timezone"),
        ("TZ=Nowhere/At_All 0 9 * * *", "UTC", "/timezone"),
        ("TZ= 0 9 * * *", "UTC", "/timezone"),
        ("TZ=UTC", "UTC", "/cron_schedule"),
        ("@every 5m", "Europe/Paris", "/timezone"),
        ("@every 5", "UTC", "/cron_schedule"),
        ("@every", "UTC", "/cron_schedule"),
        ("@every -5m", "UTC", "/cron_schedule"),
        ("@every 5m junk", "UTC", "/cron_schedule"),
        ("@every 0s", "UTC", "/cron_schedule"),
        ("@every 500ms", "UTC", "/cron_schedule"),
        ("@every 1.5s", "UTC", "/cron_schedule"),
        ("@every 999999999999h", "UTC", "/cron_schedule"),
    ],
)
def test_spelling_is_refused(text: str, timezone_name: str, pointer: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_cron(text, timezone=timezone_name, anchor_at=ANCHOR)
    assert [error.pointer for error in caught.value.errors] == [pointer]


# --- intervals, one-offs, bounds ---


def test_interval_anchored_at_its_start_begins_with_the_anchor() -> None:
    timing = Timing(schedule=Every(3600, ANCHOR), starts_at=ANCHOR)
    assert first_run(timing, ANCHOR - timedelta(days=9)) == ANCHOR
    assert first_run(timing, ANCHOR) == ANCHOR
    assert next_run_after(timing, ANCHOR) == ANCHOR + timedelta(hours=1)


def test_interval_anchored_at_its_creation_begins_one_interval_later() -> None:
    timing = Timing(schedule=Every(3600, ANCHOR))
    assert first_run(timing, ANCHOR) == ANCHOR + timedelta(hours=1)
    assert first_run(timing, ANCHOR - timedelta(days=9)) == ANCHOR + timedelta(hours=1)


def test_interval_keeps_to_its_grid_after_a_century() -> None:
    timing = Timing(schedule=Every(7, ANCHOR + timedelta(microseconds=5)))
    late = ANCHOR + timedelta(days=36_500)
    moment = next_run_after(timing, late)
    assert moment is not None
    assert timedelta(0) < moment - late <= timedelta(seconds=7)
    assert (moment - ANCHOR) % timedelta(seconds=7) == timedelta(microseconds=5)


def test_one_off_has_one_moment() -> None:
    timing = Timing(schedule=At(ANCHOR))
    assert first_run(timing, ANCHOR - timedelta(days=1)) == ANCHOR
    assert first_run(timing, ANCHOR) == ANCHOR
    assert next_run_after(timing, ANCHOR) is None


def test_bounds_are_moments_themselves_and_nothing_lies_outside() -> None:
    noon = ANCHOR + timedelta(hours=12)
    timing = Timing(schedule=Cron("0 * * * *"), starts_at=noon, ends_at=noon + timedelta(hours=2))
    assert moments(timing, ANCHOR, 9) == ["01-01 12:00:00", "01-01 13:00:00", "01-01 14:00:00"]


def test_spread_shifts_every_moment_by_the_same_and_bounds_mean_the_shifted_moment() -> None:
    start, end = ANCHOR + timedelta(minutes=10), ANCHOR + timedelta(hours=2, minutes=10)
    timing = Timing(schedule=Cron("0 * * * *"), starts_at=start, ends_at=end)
    shift = timedelta(minutes=15)
    # 00:00 + 15 min is after the start at 00:10; 02:00 + 15 min is after the end at 02:10
    first = first_run(timing, ANCHOR - timedelta(days=1), shift=shift)
    assert first == ANCHOR + timedelta(minutes=15)
    second = next_run_after(timing, first, shift=shift)
    assert second == ANCHOR + timedelta(hours=1, minutes=15)
    assert next_run_after(timing, second, shift=shift) is None


def test_shift_is_constant_for_a_job_and_less_than_the_spread() -> None:
    timing = Timing(schedule=Cron("0 * * * *"), spread_seconds=60)
    shifts = {timing.shift(UUID(int=number)) for number in range(500)}
    assert shifts == {timedelta(seconds=second) for second in range(60)}  # 500 jobs reach every second of a minute
    assert timing.shift(JOB_ID) == timing.shift(JOB_ID)
    assert replace(timing, spread_seconds=0).shift(JOB_ID) == timedelta(0)


naive = datetime(2026, 1, 1)  # noqa: DTZ001 - what must be refused


@pytest.mark.parametrize(
    ("pointer", "build"),
    [
        ("/interval_seconds", lambda: Every(0, ANCHOR)),
        ("/interval_seconds", lambda: Every(315_576_001, ANCHOR)),
        ("/anchor_at", lambda: Every(5, naive)),
        ("/execute_at", lambda: At(naive)),
        ("/execute_at", lambda: At(datetime(1999, 12, 31, tzinfo=UTC))),
        ("/execute_at", lambda: At(datetime(2201, 1, 1, tzinfo=UTC))),
        ("/execute_at", lambda: At(datetime(2200, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))))),  # 2201 in UTC
        ("/starts_at", lambda: Timing(schedule=At(ANCHOR), starts_at=naive)),
        ("/ends_at", lambda: Timing(schedule=At(ANCHOR), ends_at=naive)),
        ("/ends_at", lambda: Timing(schedule=At(ANCHOR), starts_at=ANCHOR, ends_at=ANCHOR)),
        ("/spread_seconds", lambda: Timing(schedule=Every(5, ANCHOR), spread_seconds=-1)),
        ("/spread_seconds", lambda: Timing(schedule=Every(5, ANCHOR), spread_seconds=86_401)),
        ("/spread_seconds", lambda: Timing(schedule=At(ANCHOR), spread_seconds=1)),
    ],
)
def test_wrong_value_names_its_field(pointer: str, build: Callable[[], object]) -> None:
    with pytest.raises(InvalidJob) as caught:
        build()
    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_instants_are_kept_in_utc_so_equal_schedules_are_equal() -> None:
    elsewhere = ANCHOR.astimezone(ZoneInfo("Asia/Tokyo"))
    assert At(elsewhere).at.tzinfo is UTC
    assert Timing(schedule=At(ANCHOR), starts_at=elsewhere) == Timing(schedule=At(ANCHOR), starts_at=ANCHOR)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Cron("*/10 * * * *"), "every 10 minutes, UTC"),
        (Cron("* * * * *"), "every minute, UTC"),
        (Cron("*/1 * * * *"), "every minute, UTC"),
        (Cron("5 * * * *"), "at minute 5 of every hour, UTC"),
        (Cron("@hourly"), "at minute 0 of every hour, UTC"),
        (Cron("30 2 * * *", "Europe/Paris"), "at 02:30 every day, Europe/Paris"),
        (Cron("@daily"), "at 00:00 every day, UTC"),
        (Cron("*/7 * * * *", "Europe/Paris"), "cron '*/7 * * * *' in Europe/Paris"),  # 60 is no multiple of 7
        (Cron("*/5,7 * * * *"), "cron '*/5,7 * * * *' in UTC"),
        (Cron("0 9 * * 1-5"), "cron '0 9 * * 1-5' in UTC"),
        (Every(1, ANCHOR), "every second"),
        (Every(90, ANCHOR), "every 90 seconds"),
        (Every(600, ANCHOR), "every 10 minutes"),
        (Every(86_400, ANCHOR), "every day"),
        (Every(1_209_600, ANCHOR), "every 2 weeks"),
        (At(ANCHOR), "once at 2026-01-01T00:00:00Z"),
    ],
)
def test_description_is_plain_english(schedule: Schedule, words: str) -> None:
    assert describe(schedule) == words
