"""What becomes of the moments of a due job."""

import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.model import Misfire, MisfirePolicy
from gnomon.job.plan import DueJob, Plan, plan_ahead, plan_due
from gnomon.job.schedule import At, Cron, Every, Schedule, Timing, next_run_after

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
JOB_ID = UUID("0190a5f0-0000-7000-8000-000000000001")
MINUTELY = (Cron("* * * * *"), Every(60, NOON - timedelta(days=60)))


def minute(count: int) -> datetime:
    return NOON + timedelta(minutes=count)


def due(
    schedule: Schedule,
    next_run: datetime = NOON,
    *,
    policy: MisfirePolicy = MisfirePolicy.RUN_ONCE,
    grace: int = 60,
    misfire_limit: int = 100,
    misfires_run: int = 0,
    ends_at: datetime | None = None,
) -> DueJob:
    misfire = Misfire(policy=policy, grace=timedelta(seconds=grace), limit=misfire_limit)
    timing = Timing(schedule=schedule, ends_at=ends_at)
    return DueJob(id=JOB_ID, revision=1, timing=timing, misfire=misfire, next_run=next_run, misfires_run=misfires_run)


def skipped(plan: Plan) -> list[tuple[datetime, datetime, int]]:
    assert all(skip.reason == "misfire" for skip in plan.skips)
    return [(skip.first, skip.last, skip.count) for skip in plan.skips]


@pytest.mark.parametrize("schedule", MINUTELY)
def test_moment_that_is_due_runs_and_the_next_is_left(schedule: Schedule) -> None:
    plan = plan_due(due(schedule), NOON, 10)
    assert plan == Plan(
        runs=(NOON,), serial=(), skips=(), next_run=minute(1), misfires_run=0, examined=1, reached_now=True
    )


@pytest.mark.parametrize("schedule", MINUTELY)
@pytest.mark.parametrize("policy", MisfirePolicy)
def test_moments_within_the_grace_all_run(schedule: Schedule, policy: MisfirePolicy) -> None:
    plan = plan_due(due(schedule, policy=policy, grace=120), minute(2), 10)  # exactly as old as the grace: within
    assert plan.runs == (minute(0), minute(1), minute(2))
    assert (plan.serial, plan.skips) == ((), ())


# At 12:05:30 with a grace of 60 s, 12:05 (30 s old) is within it and 12:00 to 12:04 (90 s old and more) are misfires.
# At 12:05:30 with a grace of 20 s, 12:00 to 12:05 are misfires.
@pytest.mark.parametrize("schedule", MINUTELY)
@pytest.mark.parametrize(
    ("policy", "grace", "runs", "serial", "skips"),
    [
        (MisfirePolicy.RUN_ONCE, 60, [5], [], [(0, 4, 5)]),
        (MisfirePolicy.RUN_ONCE, 20, [5], [], [(0, 4, 5)]),
        (MisfirePolicy.SKIP, 60, [5], [], [(0, 4, 5)]),
        (MisfirePolicy.SKIP, 20, [], [], [(0, 5, 6)]),
        (MisfirePolicy.RUN_ALL, 60, [5], [0, 1, 2], [(3, 4, 2)]),  # the limit is 3
        (MisfirePolicy.RUN_ALL, 20, [], [0, 1, 2], [(3, 5, 3)]),
    ],
)
def test_misfires(
    schedule: Schedule,
    policy: MisfirePolicy,
    grace: int,
    runs: list[int],
    serial: list[int],
    skips: list[tuple[int, int, int]],
) -> None:
    plan = plan_due(due(schedule, policy=policy, grace=grace, misfire_limit=3), minute(5) + timedelta(seconds=30), 100)
    assert plan.runs == tuple(map(minute, runs))
    assert plan.serial == tuple(map(minute, serial))
    assert skipped(plan) == [(minute(first), minute(last), count) for first, last, count in skips]
    assert plan.next_run == minute(6)
    assert plan.reached_now


@pytest.mark.parametrize("schedule", [*MINUTELY, At(NOON)])
def test_late_job_runs_once_when_policy_is_run_once(schedule: Schedule) -> None:
    plan = plan_due(due(schedule, ends_at=NOON), NOON + timedelta(hours=9), 10)
    assert plan.runs == (NOON,)
    assert plan.skips == ()
    assert plan.next_run is None
    assert plan.reached_now


def test_one_off_past_its_grace_is_skipped_when_policy_is_skip() -> None:
    plan = plan_due(due(At(NOON), policy=MisfirePolicy.SKIP), minute(2), 10)
    assert plan.runs == ()
    assert skipped(plan) == [(NOON, NOON, 1)]
    assert plan.next_run is None


def test_job_that_is_not_due_yet_is_left_alone() -> None:
    plan = plan_due(due(MINUTELY[0], minute(1)), NOON, 10)
    assert (plan.runs, plan.serial, plan.skips) == ((), (), ())
    assert (plan.next_run, plan.examined, plan.reached_now) == (minute(1), 0, True)


@pytest.mark.parametrize("schedule", MINUTELY)
def test_of_a_job_that_is_looked_at_ahead_only_the_next_moment_runs(schedule: Schedule) -> None:
    plan = plan_ahead(due(schedule, minute(1), policy=MisfirePolicy.RUN_ALL))
    assert (plan.runs, plan.serial, plan.skips) == ((minute(1),), (), ())
    assert (plan.next_run, plan.examined, plan.reached_now) == (minute(2), 1, True)
    assert plan_ahead(due(At(NOON))).next_run is None


def test_without_a_budget_nothing_is_looked_at() -> None:
    for schedule in MINUTELY:
        plan = plan_due(due(schedule), minute(90), 0)
        assert (plan.runs, plan.serial, plan.skips) == ((), (), ())
        assert (plan.next_run, plan.examined, plan.reached_now) == (NOON, 0, False)


DAILY = Cron("0 12 * * *")


def day(number: int) -> datetime:
    return NOON + timedelta(days=number)


def test_plan_that_stops_short_skips_what_it_saw_and_leaves_the_newest_to_the_next() -> None:
    # day 0 to day 9 are due, 10 moments of one step each, 4 steps each time
    now = day(9) + timedelta(seconds=50)
    first = plan_due(due(DAILY, grace=20), now, 4)
    assert (first.runs, skipped(first)) == ((), [(day(0), day(3), 4)])
    assert (first.next_run, first.examined, first.reached_now) == (day(4), 4, False)
    second = plan_due(due(DAILY, day(4), grace=20), now, 4)
    assert (second.runs, skipped(second)) == ((), [(day(4), day(7), 4)])
    third = plan_due(due(DAILY, day(8), grace=20), now, 4)
    assert (third.runs, skipped(third)) == ((day(9),), [(day(8), day(8), 1)])
    assert (third.next_run, third.examined, third.reached_now) == (day(10), 2, True)


def test_run_all_keeps_its_limit_across_plans_that_stop_short() -> None:
    # day 0 to day 9 are misfires, 4 steps each time, 5 made up for in all
    now = day(9) + timedelta(seconds=50)
    policy = MisfirePolicy.RUN_ALL
    first = plan_due(due(DAILY, grace=20, policy=policy, misfire_limit=5), now, 4)
    assert (len(first.serial), skipped(first), first.misfires_run) == (4, [], 4)
    second = plan_due(due(DAILY, day(4), grace=20, policy=policy, misfire_limit=5, misfires_run=4), now, 4)
    assert (second.serial, skipped(second)) == ((day(4),), [(day(5), day(7), 3)])
    assert second.misfires_run == 5
    third = plan_due(due(DAILY, day(8), grace=20, policy=policy, misfire_limit=5, misfires_run=5), now, 4)
    assert (third.serial, skipped(third), third.misfires_run) == ((), [(day(8), day(9), 2)], 0)


def test_month_of_minutes_costs_a_step_a_day() -> None:
    plan = plan_due(due(MINUTELY[0], day(-30)), NOON, 100)
    # the grace is a minute: NOON and the moment before are within it
    assert [count for _, _, count in skipped(plan)] == [30 * 1440 - 1]
    assert plan.runs == (minute(-1), NOON)
    assert plan.examined == 31 + 2  # 31 local days, and the two that run


def test_ten_years_of_seconds_cost_an_interval_one_step() -> None:
    start = NOON - timedelta(days=3650)
    job = due(Every(1, start), start + timedelta(seconds=1), grace=0)
    plan = plan_due(job, NOON, 100)
    assert plan.runs == (NOON,)
    # 3650 days of 86,400 moments: the last of them is NOON, which runs
    assert skipped(plan) == [(job.next_run, NOON - timedelta(seconds=1), 3650 * 86_400 - 1)]
    assert plan.examined == 2
    assert plan.next_run == NOON + timedelta(seconds=1)


def test_moments_after_the_end_are_not_counted() -> None:
    plan = plan_due(due(MINUTELY[1], ends_at=minute(7), policy=MisfirePolicy.SKIP), NOON + timedelta(hours=9), 10)
    assert skipped(plan) == [(minute(0), minute(7), 8)]
    assert plan.next_run is None


def test_daylight_saving_does_not_make_a_moment_run_twice() -> None:
    # In Paris, 02:30 on 25 October 2026 comes at 00:30 and at 01:30 UTC; the first counts.
    job = due(Cron("30 2 * * *", "Europe/Paris"), datetime(2026, 10, 25, 0, 30, tzinfo=UTC), grace=86_400)
    plan = plan_due(job, datetime(2026, 10, 25, 9, tzinfo=UTC), 10)
    assert plan.runs == (job.next_run,)
    assert plan.next_run == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)  # winter time


schedules = st.sampled_from(
    (
        Cron("* * * * *"),
        Cron("*/7 * * * *"),
        Cron("*/20 * * * * *"),
        Cron("30 2 * * *", "Europe/Paris"),
        Cron("0,30 * * * *", "Australia/Lord_Howe"),
        Every(1, NOON - timedelta(days=40)),
        Every(17, NOON - timedelta(days=40, microseconds=3)),
        Every(3600, NOON - timedelta(days=40)),
        At(NOON),
    )
)


@settings(deadline=None, max_examples=200)
@given(
    schedule=schedules,
    policy=st.sampled_from(MisfirePolicy),
    late=st.timedeltas(timedelta(0), timedelta(hours=3)),
    grace=st.integers(0, 400),
    misfire_limit=st.integers(1, 30),
    limit=st.integers(1, 60),
    spread=st.integers(0, 90),
    ends=st.none() | st.timedeltas(timedelta(0), timedelta(hours=3)),
    passing=st.timedeltas(timedelta(0), timedelta(seconds=30)),
)
def test_no_moment_disappears_or_is_booked_twice(
    schedule: Schedule,
    policy: MisfirePolicy,
    late: timedelta,
    grace: int,
    misfire_limit: int,
    limit: int,
    spread: int,
    ends: timedelta | None,
    passing: timedelta,
) -> None:
    """Plans are repeated until one reaches now; time goes on by `passing` after each of the first ten.

    For ever would be too long: a job of one moment a second is not caught up with by plans of one moment in thirty.
    """
    timing = Timing(
        schedule=schedule,
        ends_at=None if ends is None else NOON + ends,
        spread_seconds=0 if isinstance(schedule, At) else spread,
    )
    shift = timing.shift(JOB_ID)
    old_next_run = next_run_after(timing, NOON - timedelta(microseconds=1), shift=shift)
    if old_next_run is None:
        return
    misfire = Misfire(policy=policy, grace=timedelta(seconds=grace), limit=misfire_limit)
    now, next_run, misfires_run = old_next_run + late, old_next_run, 0
    ran: list[datetime] = []
    serial: list[datetime] = []
    stretches: list[tuple[datetime, datetime, int]] = []
    for rounds in itertools.count():
        job = DueJob(
            id=JOB_ID, revision=1, timing=timing, misfire=misfire, next_run=next_run, misfires_run=misfires_run
        )
        plan = plan_due(job, now, limit)
        ran += plan.runs
        serial += plan.serial
        stretches += skipped(plan)
        assert plan.examined <= limit
        assert plan.next_run is None or plan.next_run > next_run
        if plan.reached_now:
            break
        assert plan.next_run is not None
        next_run, misfires_run = plan.next_run, plan.misfires_run
        now += passing if rounds < 10 else timedelta(0)
    assert plan.next_run is None or plan.next_run > now
    assert plan.misfires_run == 0
    assert len(serial) <= misfire_limit

    owed: list[datetime] = []
    moment: datetime | None = old_next_run
    while moment is not None and moment <= now:
        owed.append(moment)
        moment = next_run_after(timing, moment, shift=shift)
    assert plan.next_run == moment
    covered = [*ran, *serial]
    for first, last, count in stretches:
        within = [moment for moment in owed if first <= moment <= last]
        assert (within[0], within[-1], len(within)) == (first, last, count)
        covered += within
    assert sorted(covered) == owed
    if policy is MisfirePolicy.RUN_ONCE:
        assert ran
        assert ran[-1] == owed[-1]  # the newest always runs
