"""gnomon.testing: time by hand."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from gnomon import (
    After,
    At,
    ConfigurationError,
    Context,
    Cron,
    Every,
    InvalidJob,
    Misfire,
    MisfirePolicy,
    RetryPolicy,
    Scheduler,
    State,
    retry_strategy,
)
from gnomon.testing import BEGINNING, ManualScheduler


def nothing() -> None:
    return None


@pytest.fixture
def scheduler() -> ManualScheduler:
    return ManualScheduler()


def test_each_moment_runs_at_its_own_time_and_in_order(scheduler: ManualScheduler) -> None:
    seen: list[datetime] = []

    def note(context: Context) -> None:
        assert context.scheduled_at == scheduler.now
        seen.append(context.scheduled_at)

    scheduler.register("every", Every("20m"), note)
    scheduler.register("cron", Cron("30 * * * *"), note)
    runs = scheduler.advance("1h")
    assert [(run.job, run.at.hour * 60 + run.at.minute) for run in runs] == [
        ("every", 20),
        ("cron", 30),
        ("every", 40),
        ("every", 60),
    ]
    assert seen == [run.at for run in runs]
    assert scheduler.now == BEGINNING + timedelta(hours=1)


def test_jobs_of_one_moment_run_in_the_order_of_their_names() -> None:
    for _ in range(5):  # their ids are random
        scheduler = ManualScheduler()
        for name in ("c", "a", "d", "b"):
            scheduler.register(name, Every("1h"), nothing)
        assert [run.job for run in scheduler.advance("1h")] == ["a", "b", "c", "d"]


def test_nothing_runs_while_time_stands_still(scheduler: ManualScheduler) -> None:
    scheduler.register("every", Every("1h"), nothing)
    scheduler.start()
    assert scheduler.advance("59m") == []
    assert scheduler.executions("every") == []
    assert len(scheduler.advance("1m")) == 1


def test_retries_come_after_the_whole_pause_of_their_policy(scheduler: ManualScheduler) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    policy = RetryPolicy(max_attempts=4, initial=timedelta(minutes=1), multiplier=3, maximum=timedelta(hours=1))
    scheduler.register("fails", After("10m"), fail, retry=policy)
    runs = scheduler.advance("1h")
    # 10, then pauses of 1, 3 and 9 minutes
    assert [(run.at - BEGINNING) // timedelta(minutes=1) for run in runs] == [10, 11, 14, 23]
    assert [run.state for run in runs] == [State.PENDING, State.PENDING, State.PENDING, State.FAILED]
    assert {str(run.error) for run in runs} == {"no luck"}
    (execution,) = scheduler.executions("fails")
    assert (execution.state, execution.attempt) == (State.FAILED, 4)


def test_strategy_that_is_declared_decides_on_the_pauses(scheduler: ManualScheduler) -> None:
    @retry_strategy("hourly")
    def hourly(failed: object) -> timedelta:
        return timedelta(hours=1)

    def fail() -> None:
        raise ValueError

    scheduler.register("fails", After(0), fail, retry=RetryPolicy(max_attempts=3, strategy="hourly"))
    assert [run.at.hour for run in scheduler.advance("3h")] == [0, 1, 2]
    with pytest.raises(ConfigurationError, match="hourly"):
        scheduler.register("other", After(0), fail, retry=RetryPolicy(strategy="unknown"))


def test_async_handlers_run_in_the_same_order_as_sync_ones(scheduler: ManualScheduler) -> None:
    thread = threading.current_thread()

    async def pause(who: str) -> str:
        assert threading.current_thread() is thread
        await asyncio.sleep(0)
        return f"hello {who}"

    scheduler.register("b", Every("1h"), pause, payload={"who": "you"})
    scheduler.register("a", Every("1h"), nothing)
    assert [(run.job, run.result) for run in scheduler.advance("1h")] == [("a", None), ("b", "hello you")]


def test_async_test_can_advance_too(scheduler: ManualScheduler) -> None:
    async def answer() -> str:
        await asyncio.sleep(0)
        return "answered"

    async def test() -> list[str | None]:
        return [run.result for run in scheduler.advance("2h")]

    scheduler.register("asks", Every("1h"), answer)
    assert asyncio.run(test()) == ["answered", "answered"]


def test_error_of_a_handler_comes_out_on_request(scheduler: ManualScheduler) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    scheduler.register("fails", Every("30m"), fail)
    with pytest.raises(ValueError, match="no luck"):
        scheduler.advance("2h", reraise=True)
    assert scheduler.now == BEGINNING + timedelta(minutes=30)


def test_at_most_once_is_not_tried_again_by_a_handler_that_raised(scheduler: ManualScheduler) -> None:
    def fail() -> None:
        raise ValueError

    scheduler.register("fails", After("1m"), fail, delivery="at_most_once")
    assert [run.state for run in scheduler.advance("1h")] == [State.FAILED]


def test_what_handlers_ask_for_runs_at_the_same_moment(scheduler: ManualScheduler) -> None:
    scheduler.register("other", Every("1d"), nothing)
    scheduler.register("asks", After("5m"), lambda: scheduler.run_now("other") and None)
    assert [(run.job, run.at.minute) for run in scheduler.advance("1h")] == [("asks", 5), ("other", 5)]


def test_paused_job_is_left_out_until_it_is_resumed(scheduler: ManualScheduler) -> None:
    scheduler.register("every", Every("10m"), nothing)
    scheduler.pause("every")
    assert scheduler.advance("55m") == []
    scheduler.resume("every")
    assert [run.at.minute for run in scheduler.advance("1h")] == [0, 10, 20, 30, 40, 50]


def test_run_now_waits_for_the_next_advance(scheduler: ManualScheduler) -> None:
    scheduler.register("every", Every("1h"), nothing)
    asked = scheduler.run_now("every")
    assert [(run.execution_id, run.at) for run in scheduler.advance(0)] == [(asked.id, BEGINNING)]


def test_daylight_saving_is_kept() -> None:
    scheduler = ManualScheduler(now=datetime(2030, 3, 30, 12, tzinfo=UTC))
    scheduler.register("nightly", Cron("30 2 * * *", timezone="Europe/Berlin"), nothing)
    # the clocks of Berlin go from 2:00 to 3:00 on the 31st, so what is due in between runs at 3:00 there, 1:00 in UTC
    assert [run.at for run in scheduler.advance("1d")] == [datetime(2030, 3, 31, 1, tzinfo=UTC)]


def test_registrations_of_a_program_are_taken_over_and_left_as_they_are() -> None:
    program = Scheduler("rediss://nowhere.invalid")
    calls: list[str] = []

    @program.job("greet", Every("1h"), payload={"who": "you"})
    def greet(who: str) -> None:
        calls.append(who)

    scheduler = ManualScheduler.of(program)
    scheduler.advance("2h")
    assert calls == ["you", "you"]
    assert "1 jobs" in repr(program)


def test_one_off_before_its_beginning_is_refused(scheduler: ManualScheduler) -> None:
    scheduler.register("past", At(BEGINNING - timedelta(seconds=1)), nothing)
    with pytest.raises(InvalidJob, match=r"'past'.*passed"):
        scheduler.advance(0)


def test_two_months_of_hours_are_walked_through_without_waiting(scheduler: ManualScheduler) -> None:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    scheduler.register("hourly", Every("1h"), tick, misfire=Misfire(policy=MisfirePolicy.SKIP))
    scheduler.advance("60d")
    assert count == 1440
    assert len(scheduler.executions("hourly", limit=500)) == 500


def test_manual_scheduler_does_not_run_by_itself(scheduler: ManualScheduler) -> None:
    with pytest.raises(RuntimeError, match="advance"):
        scheduler.run()
