"""Scheduler in this very process, on each store."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from support.cluster import wait_until

from gnomon import (
    After,
    At,
    ConfigurationError,
    Context,
    Cron,
    Every,
    Execution,
    InvalidJob,
    JobStatus,
    NotFound,
    PermanentError,
    RetryPolicy,
    Scheduler,
    State,
    Unavailable,
)
from gnomon.embedded.ports import free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.ids import scheduled_id

AT_ONCE = RetryPolicy(max_attempts=3, initial=timedelta(0), maximum=timedelta(0))
ONCE = RetryPolicy(max_attempts=1)
STORES = ["memory", "redis", "postgres"]
SHARED = ["redis", "postgres"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """The test runs once on each store."""
    return _url(request)


@pytest.fixture(params=SHARED)
def shared_url(request: pytest.FixtureRequest) -> str:
    """Likewise, on each that outlives a process."""
    return _url(request)


def _url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    fixture = {"redis": "redis_url", "postgres": "database_url"}[request.param]
    found: str = request.getfixturevalue(fixture)
    return found


@pytest.fixture
def make(url: str) -> Iterator[Callable[..., Scheduler]]:
    """Schedulers on that store, stopped at the end."""
    yield from _maker(url)


@pytest.fixture
def make_shared(shared_url: str) -> Iterator[Callable[..., Scheduler]]:
    """Likewise."""
    yield from _maker(shared_url)


def _maker(url: str) -> Iterator[Callable[..., Scheduler]]:
    made: list[Scheduler] = []

    def make(**more: Any) -> Scheduler:
        made.append(Scheduler(url, **more))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.stop(grace=0)


def nothing() -> None:
    return None


def ended(scheduler: Scheduler, name: str, count: int = 1) -> Sequence[Execution]:
    """The job's executions, oldest first, once so many have ended."""

    def finished() -> list[Execution]:
        return [one for one in reversed(scheduler.executions(name)) if one.state.final]

    wait_until(f"{count} executions of {name} have ended", lambda: len(finished()) >= count, seconds=60)
    return finished()


def only(scheduler: Scheduler, name: str) -> Execution:
    return ended(scheduler, name)[0]


def test_job_runs_at_each_of_its_moments_and_what_it_returns_is_kept(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    calls: list[datetime] = []

    @scheduler.job("tick", Every(1))
    def tick(context: Context) -> dict[str, int]:
        calls.append(context.scheduled_at)
        return {"calls": len(calls)}

    scheduler.start()
    wait_until("it has run three times", lambda: len(calls) >= 3, seconds=60)
    scheduler.stop()
    ran = [one for one in reversed(scheduler.executions("tick")) if one.state is State.SUCCEEDED]
    assert [one.scheduled_at for one in ran] == calls  # a moment that found the last one unfinished was skipped
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(calls))
    third = ran[2]
    assert (third.state, third.response_excerpt) == (State.SUCCEEDED, '{"calls": 3}')


def test_handlers_take_nothing_or_a_context_or_the_fields_of_their_payload(make: Callable[..., Scheduler]) -> None:
    def takes_context(context: Context) -> str:
        return f"attempt {context.attempt}"

    def takes_fields(who: str, times: int = 2) -> str:
        return who * times

    async def takes_both(payload: dict[str, Any], context: Context) -> str:
        await asyncio.sleep(0)
        return f"{payload['who']} {context.attempt}"

    with make() as scheduler:
        scheduler.register("nothing", After(0), nothing)
        scheduler.register("context", After(0), takes_context)
        scheduler.register("fields", After(0), takes_fields, payload={"who": "ab"})
        scheduler.register("both", After(0), takes_both, payload={"who": "ab"})
        results = [only(scheduler, name).response_excerpt for name in ("nothing", "context", "fields", "both")]
    assert results == [None, "attempt 1", "abab", "ab 1"]


def test_job_registered_after_the_start_runs(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:
        scheduler.register("late", Every(1), nothing)
        assert only(scheduler, "late").state is State.SUCCEEDED


def test_async_handlers_run_side_by_side_and_sync_ones_too(make: Callable[..., Scheduler]) -> None:
    together = threading.Barrier(3, timeout=60)
    arrived: list[int] = []
    everybody = asyncio.Event()

    def meet() -> None:
        together.wait()

    async def meet_async() -> None:
        arrived.append(1)
        if len(arrived) == 3:
            everybody.set()
        await everybody.wait()

    with make() as scheduler:
        for number in range(3):
            scheduler.register(f"sync-{number}", After(0), meet, timeout=60)
            scheduler.register(f"async-{number}", After(0), meet_async, timeout=60)
        kinds = [f"{kind}-{number}" for kind in ("sync", "async") for number in range(3)]
        assert {only(scheduler, name).state for name in kinds} == {State.SUCCEEDED}


def test_failing_handler_is_tried_again_and_then_given_up(make: Callable[..., Scheduler]) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    with make() as scheduler:
        scheduler.register("fails", After(0), fail, retry=AT_ONCE)
        execution = only(scheduler, "fails")
    assert (execution.state, execution.attempt) == (State.FAILED, 3)
    assert (execution.error_code, execution.error_message) == ("handler_error", "ValueError: no luck")


@pytest.mark.parametrize(
    "error", [PermanentError("never"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_whatever_a_handler_raises_ends_its_attempt_only(make: Callable[..., Scheduler], error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def fail_async() -> None:
        raise error

    with make() as scheduler:
        scheduler.register("fails", After(0), fail, retry=ONCE)
        scheduler.register("fails-async", After(0), fail_async, retry=ONCE)
        states = [only(scheduler, name).state for name in ("fails", "fails-async")]
        scheduler.register("after", After(0), nothing)
        assert [*states, only(scheduler, "after").state] == [State.FAILED, State.FAILED, State.SUCCEEDED]


def test_permanent_error_is_not_tried_again(make: Callable[..., Scheduler]) -> None:
    def fail() -> None:
        raise PermanentError("never")

    with make() as scheduler:
        scheduler.register("fails", After(0), fail, retry=AT_ONCE)
        assert only(scheduler, "fails").attempt == 1


def test_async_handler_is_cancelled_at_its_timeout(make: Callable[..., Scheduler]) -> None:
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    with make() as scheduler:
        scheduler.register("hangs", After(0), hang, timeout=0.2, retry=ONCE)
        execution = only(scheduler, "hangs")
    assert (execution.state, execution.error_code) == (State.FAILED, "timeout")
    assert cancelled.is_set()


def test_sync_handler_that_takes_too_long_fails_and_keeps_its_place_until_it_returns(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()
    saw: list[bool] = []

    def hang(context: Context) -> None:
        let_go.wait(60)
        saw.append(context.cancelled)

    with make(concurrency=1) as scheduler:
        scheduler.register("hangs", After(0), hang, timeout=0.2, retry=ONCE)
        assert only(scheduler, "hangs").error_code == "timeout"
        scheduler.register("waits", After(0), nothing)
        time.sleep(1)  # nothing may happen in it
        assert [one.state for one in scheduler.executions("waits")] == [State.PENDING]
        assert "its place stays taken" in caplog.text
        let_go.set()
        assert only(scheduler, "waits").state is State.SUCCEEDED
    assert saw == [True]
    assert "its place is free again" in caplog.text


def test_at_most_once_that_may_have_happened_is_unknown(make: Callable[..., Scheduler]) -> None:
    async def hang() -> None:
        await asyncio.sleep(600)

    with make() as scheduler:
        scheduler.register("hangs", After(0), hang, timeout=0.2, delivery="at_most_once")
        assert only(scheduler, "hangs").state is State.UNKNOWN


def test_stop_lets_what_runs_finish_and_begins_nothing_new(make: Callable[..., Scheduler]) -> None:
    begun, calls = threading.Event(), []

    def slow() -> str:
        begun.set()
        time.sleep(1)
        return "finished"

    scheduler = make()
    scheduler.register("slow", After(0), slow)
    scheduler.register("tick", Every(1), lambda: calls.append(1))
    scheduler.start()
    assert begun.wait(60)
    scheduler.stop(grace=60)
    count = len(calls)
    assert only(scheduler, "slow").response_excerpt == "finished"
    time.sleep(2.5)  # nothing may happen in it
    assert len(calls) == count


def test_what_does_not_finish_within_the_grace_is_run_again_after_the_next_start(
    make: Callable[..., Scheduler],
) -> None:
    calls: list[int] = []
    let_go = threading.Event()

    def slow(context: Context) -> str:
        calls.append(context.attempt)
        if len(calls) == 1:
            let_go.wait(60)
        return "done"

    scheduler = make()
    scheduler.register("slow", After(0), slow, timeout=100)
    scheduler.start()
    wait_until("it has begun", lambda: calls == [1])
    scheduler.stop(grace=0.5)
    assert [one.state for one in scheduler.executions("slow")] == [State.PENDING]
    scheduler.start()
    execution = only(scheduler, "slow")
    let_go.set()
    assert (execution.state, execution.attempt, execution.failures) == (State.SUCCEEDED, 2, 0)


def test_what_waits_for_a_place_is_given_back_when_it_stops(make: Callable[..., Scheduler]) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        let_go.wait(60)

    scheduler = make(concurrency=1)
    for number in range(3):
        scheduler.register(f"slow-{number}", After(0), slow, timeout=100)
    scheduler.start()
    assert begun.wait(60)
    wait_until("all are due", lambda: all(scheduler.executions(f"slow-{number}") for number in range(3)))
    threading.Timer(0.5, let_go.set).start()
    scheduler.stop(grace=60)
    assert sorted(scheduler.executions(f"slow-{number}")[0].state for number in range(3)) == [
        State.PENDING,
        State.PENDING,
        State.SUCCEEDED,
    ]
    let_go.set()
    scheduler.start()
    again = time.monotonic()
    assert {only(scheduler, f"slow-{number}").state for number in range(3)} == {State.SUCCEEDED}
    assert time.monotonic() - again < 10  # what is not given back has its next message 15 s after the first


def test_paused_job_gets_no_executions_until_it_is_resumed(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:
        scheduler.register("tick", Every(1), nothing)
        ended(scheduler, "tick")
        paused = scheduler.pause("tick", reason="maintenance")
        assert (paused.status, paused.pause_reason) == (JobStatus.STOPPED, "maintenance")
        assert scheduler.next_run("tick") is None
        wait_until("nothing is under way", lambda: all(one.state.final for one in scheduler.executions("tick")))
        count = len(scheduler.executions("tick"))
        time.sleep(2.5)  # nothing may happen in it
        assert len(scheduler.executions("tick")) == count
        scheduler.resume("tick")
        ended(scheduler, "tick", count + 1)


def test_run_now_runs_a_job_whose_time_has_not_come(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:
        scheduler.register("yearly", Cron("@yearly"), lambda: "ran")
        asked = scheduler.run_now("yearly")
        execution = only(scheduler, "yearly")
    assert (execution.id, execution.response_excerpt) == (asked.id, "ran")


def test_scheduler_may_be_used_from_inside_a_handler(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:

        def ask_more() -> str:
            scheduler.register("more", Every("1h"), nothing)
            return str(scheduler.run_now("more").id)

        async def ask_async() -> str:
            return str(scheduler.run_now("other").id)

        scheduler.register("other", Every("1h"), nothing)
        scheduler.register("asks", After(0), ask_more)
        scheduler.register("asks-async", After(0), ask_async)
        assert only(scheduler, "asks").response_excerpt == str(only(scheduler, "more").id)
        assert only(scheduler, "asks-async").response_excerpt == str(only(scheduler, "other").id)


def test_stop_inside_a_handler_does_not_wait_for_itself(make: Callable[..., Scheduler]) -> None:
    scheduler = make(grace=60)

    def end() -> str:
        scheduler.stop()
        return "stopped"

    scheduler.register("ends", After(0), end, timeout=100)
    scheduler.start()
    assert only(scheduler, "ends").response_excerpt == "stopped"
    wait_until("it has stopped", lambda: "stopped" in repr(scheduler))


def test_removed_job_is_gone_and_its_name_free(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:
        scheduler.register("tick", Every(1), nothing)
        assert [job.name for job in scheduler.jobs()] == ["tick"]
        scheduler.remove("tick")
        assert scheduler.jobs() == []
        for ask in (scheduler.remove, scheduler.pause, scheduler.run_now, scheduler.next_run, scheduler.executions):
            with pytest.raises(NotFound, match="tick"):
                ask("tick")
        scheduler.register("tick", Every("1h"), lambda: "another function")
        assert scheduler.get("tick").revision == 1


def test_registering_the_same_again_changes_nothing(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    jobs = []
    for _ in range(3):
        scheduler.register("hourly", Every("1h"), nothing, retry=RetryPolicy(max_attempts=7))
        scheduler.register("reminder", After("1h"), nothing)
        scheduler.register("nightly", Cron("0 3 * * *"), nothing, timezone="Europe/Berlin")
        jobs.append([(job.id, job.revision, job.next_run) for job in scheduler.jobs()])
    assert jobs[0] == jobs[1] == jobs[2]
    assert [revision for _, revision, _ in jobs[0]] == [1, 1, 1]


def test_registering_another_definition_makes_a_new_revision(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    before: Any = None
    for definition in (
        {"schedule": Every("1h")},
        {"schedule": Every("2h")},
        {"schedule": Every("2h"), "payload": {"who": "you"}},
        {"schedule": Every("2h"), "payload": {"who": "you"}, "timeout": 60},
        {"schedule": After("1h"), "payload": {"who": "you"}, "timeout": 60},
        {"schedule": After("2h"), "payload": {"who": "you"}, "timeout": 60},
    ):
        scheduler.register("greet", handler=_greet, **definition)  # type: ignore[arg-type]
        job = scheduler.get("greet")
        assert before is None or (job.id, job.revision) == (before.id, before.revision + 1)
        before = job


def _greet(who: str = "me") -> str:
    return who


def test_one_off_in_the_past_is_refused(make: Callable[..., Scheduler]) -> None:
    past = datetime.now(UTC) - timedelta(minutes=5)
    scheduler = make()
    scheduler.register("past", At(past), nothing)
    with pytest.raises(InvalidJob, match=r"job 'past'.*passed"):
        scheduler.start()
    assert "stopped" in repr(scheduler)


def test_one_off_that_is_over_may_be_registered_again(make_shared: Callable[..., Scheduler]) -> None:
    make_shared().jobs()  # migrates: the moment should not pass meanwhile
    moment = At(datetime.now(UTC) + timedelta(seconds=4))
    for _ in range(2):
        with make_shared() as scheduler:
            scheduler.register("once", moment, nothing)
            assert len(ended(scheduler, "once")) == 1
    assert scheduler.get("once").revision == 1


def test_moment_that_passed_while_nobody_ran_is_made_up_for(make_shared: Callable[..., Scheduler]) -> None:
    planner = make_shared()
    planner.jobs()  # migrates: the moment should not pass meanwhile
    moment = datetime.now(UTC) + timedelta(seconds=4)
    planner.register("once", At(moment), nothing)
    assert planner.next_run("once") == moment
    wait_until("it has passed", lambda: datetime.now(UTC) > moment)
    with make_shared() as scheduler:
        scheduler.register("once", At(moment), nothing, timeout=77)  # another definition
        execution = only(scheduler, "once")
    assert (execution.scheduled_at, execution.state) == (moment, State.SUCCEEDED)


def test_job_that_nobody_registers_stays_due_and_is_not_given_to_anybody(make_shared: Callable[..., Scheduler]) -> None:
    planner = make_shared()
    planner.jobs()  # migrates: the moment should not pass meanwhile
    planner.register("orphan", At(datetime.now(UTC) + timedelta(seconds=4)), nothing)
    due_at = planner.next_run("orphan")
    assert due_at is not None
    with make_shared() as scheduler:
        scheduler.register("tick", Every(1), nothing)
        wait_until("it is due", lambda: datetime.now(UTC) > due_at)
        ended(scheduler, "tick", len(scheduler.executions("tick")) + 2)
        assert (scheduler.executions("orphan"), scheduler.next_run("orphan")) == ([], due_at)
        scheduler.register("orphan", At(due_at), nothing)
        assert only(scheduler, "orphan").state is State.SUCCEEDED


def test_each_scheduler_runs_what_it_registered_whoever_else_is_there(make_shared: Callable[..., Scheduler]) -> None:
    with make_shared() as one, make_shared() as other:
        one.register("of-one", Every(1), lambda: "one")
        other.register("of-other", Every(1), lambda: "other")
        runs = [ended(one, "of-one", 4), ended(one, "of-other", 4)]
        asked = one.run_now("of-other", queue=True)
        wait_until("the other ran it", lambda: _state(one, "of-other", asked) is State.SUCCEEDED)
    assert [{run.response_excerpt for run in ran if run.state is State.SUCCEEDED} for ran in runs] == [
        {"one"},
        {"other"},
    ]
    # one that had been dispatched to the wrong process would have been given back, or waited 15 s for its next message
    assert {run.attempt for ran in runs for run in ran if run.state is State.SUCCEEDED} == {1}
    assert all(run.lateness is None or run.lateness < timedelta(seconds=12) for ran in runs for run in ran)


def _state(scheduler: Scheduler, name: str, asked: Execution) -> State:
    return next(one.state for one in scheduler.executions(name) if one.id == asked.id)


def test_busy_scheduler_leaves_what_is_due_to_an_idle_one(make_shared: Callable[..., Scheduler]) -> None:
    let_go = threading.Event()
    with make_shared(concurrency=1) as busy, make_shared(concurrency=5) as idle:
        busy.register("hog", After(0), lambda: let_go.wait(60) and None, timeout=100)
        wait_until("one is busy", lambda: any(one.state is State.RUNNING for one in busy.executions("hog")))
        for scheduler, answer in ((busy, "busy"), (idle, "idle")):
            scheduler.register("tick", Every(1), _answer(answer))
        runs = ended(idle, "tick", 3)
        let_go.set()
    assert {run.response_excerpt for run in runs if run.state is State.SUCCEEDED} == {"idle"}
    assert all(run.lateness is None or run.lateness < timedelta(seconds=12) for run in runs)


def _answer(text: str) -> Callable[[], str]:
    return lambda: text


def test_namespaces_know_nothing_of_each_other(make_shared: Callable[..., Scheduler]) -> None:
    one, other = make_shared(namespace="one"), make_shared(namespace="other")
    one.register("same", Every("1h"), nothing)
    assert other.jobs() == []
    other.register("same", Every("2h"), nothing)
    assert one.get("same").next_run != other.get("same").next_run


def test_scheduler_can_be_started_again(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    scheduler.register("tick", Every(1), nothing)
    for round_ in (1, 2):
        scheduler.start()
        scheduler.start()
        ended(scheduler, "tick", len(scheduler.executions("tick")) + 1)
        scheduler.stop()
        scheduler.stop()
        assert threading.active_count() < 20, round_


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of forks beside threads
def test_fork_of_its_process_can_not_use_it(make: Callable[..., Scheduler]) -> None:
    with make() as scheduler:
        scheduler.register("tick", Every(1), nothing)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                scheduler.jobs()
            except ConfigurationError as error:
                os.write(writer, str(error).encode())
            scheduler.stop()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert b"after the fork" in os.read(reader, 1000)
        count = len(scheduler.executions("tick"))
        ended(scheduler, "tick", count + 1)


@pytest.mark.parametrize("address", ["redis://127.0.0.1:{}/0", "postgresql://nobody@127.0.0.1:{}/nothing"])
def test_store_that_is_away_is_named_at_the_start(address: str) -> None:
    scheduler = Scheduler(address.format(free_port()))
    scheduler.register("tick", Every(1), nothing)
    with pytest.raises(Unavailable, match="answer"):
        scheduler.start()


def test_jobs_go_on_after_an_outage_of_their_postgres(postgres: EmbeddedPostgres, database_url: str) -> None:
    with Scheduler(database_url) as scheduler:
        _outlives(scheduler, postgres.kill, postgres.start)


def test_jobs_go_on_after_an_outage_of_their_redis(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    assert valkey  # where the session's server is skipped, so is this
    server = EmbeddedValkey(tmp_path / "valkey", persist=True, settings={"appendfsync": "always"})
    server.start()
    try:
        with Scheduler(server.url) as scheduler:
            _outlives(scheduler, server.kill, server.start)
    finally:
        server.stop()


def _outlives(scheduler: Scheduler, end: Callable[[], None], begin: Callable[[], None]) -> None:
    """What runs during the outage is recorded after it."""
    begun, let_go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        let_go.wait(60)
        return "done"

    scheduler.register("tick", Every(1), nothing)
    scheduler.register("slow", After(0), slow, timeout=100)
    assert begun.wait(60)
    ended(scheduler, "tick")
    end()
    let_go.set()
    time.sleep(2)  # of outage
    begin()
    assert only(scheduler, "slow").response_excerpt == "done"
    count = len(scheduler.executions("tick"))
    ended(scheduler, "tick", count + 2)


def test_handler_logs_with_the_id_of_its_execution(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    def tell(context: Context) -> None:
        context.logger.warning("told")

    with caplog.at_level(logging.INFO), make() as scheduler:
        scheduler.register("tells", After(0), tell)
        execution = only(scheduler, "tells")
    (record,) = [record for record in caplog.records if record.getMessage() == "told"]
    assert getattr(record, "execution_id", None) == str(execution.id)


def test_history_in_postgres_is_pruned_by_age(database_url: str) -> None:
    scheduler = Scheduler(database_url)
    scheduler.register("yearly", Cron("@yearly"), nothing)
    _write_history(database_url, scheduler.get("yearly").id, days=20)
    assert len(scheduler.executions("yearly")) == 20
    with scheduler:
        # of those older than a week, the newest ten of a job are kept
        wait_until("ten are left", lambda: len(scheduler.executions("yearly")) == 10, seconds=90)


def _write_history(url: str, job_id: UUID, *, days: int) -> None:
    now = datetime.now(UTC)
    rows = [
        (str(scheduled_id(job_id, at)), str(job_id), at, at, at)
        for at in (now - timedelta(days=8 + n) for n in range(days))
    ]
    with contextlib.closing(psycopg2.connect(url)) as session, session, session.cursor() as cursor:
        cursor.executemany(
            "insert into gnomon_library.executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, "
            "max_attempts, overlap, available_at, finished_at) values "
            "(%s, %s, 1, 'HANDLER', 'handlers', %s, 'SCHEDULE', 'SUCCEEDED', 4, 'skip', %s, %s)",
            rows,
        )
