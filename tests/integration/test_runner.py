"""The worker's heart, without a broker: ids go in, calls reach a real target, outcomes reach a real database."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import pytest
import uvloop
from servers.target import Target, answer, hang, raw
from support.cluster import wait_until
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.address import EgressPolicy
from gnomon.job.model import Execution, Job, State
from gnomon.worker.executors import Executors
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.runner import Runner

NO_GRACE = timedelta(0)
Admit = Callable[[Job], UUID]


def _executors() -> Executors:
    return Executors(http=HttpExecutor(policy=EgressPolicy.parse(["127.0.0.0/8"])))


@contextmanager
def running(
    world: World,
    *,
    concurrency: int = 50,
    lease: timedelta = timedelta(seconds=30),
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> Iterator[Runner]:
    """A runner, drained at the end."""
    runner = Runner(
        store=world.executions, executors=_executors, new_loop=new_loop, concurrency=concurrency, lease=lease
    )
    runner.start()
    try:
        yield runner
    finally:
        runner.drain(NO_GRACE)


def job_calling(world: World, url: str, **more: object) -> Job:
    return world.due(**{"interval_seconds": 3600, "http_job": {"url": url, "body": "{}"}, **more})


def only_execution(world: World, job: Job) -> Execution:
    (execution,) = world.history_of(job)
    return execution


def wait_for_state(world: World, job: Job, state: State, *, seconds: float = 10.0) -> Execution:
    wait_until(f"{state} of {job.id}", lambda: only_execution(world, job).state is state, seconds=seconds)
    return only_execution(world, job)


def test_execution_is_called_once_and_recorded_with_its_lateness(world: World, target: Target) -> None:
    job = job_calling(world, target.url("/hook"))
    (execution_id,) = world.dispatched()
    with running(world) as runner:
        runner.admit([execution_id, execution_id])
        done = wait_for_state(world, job, State.SUCCEEDED)
    (request,) = target.received("/hook")
    assert (request.key, request.header("X-Scheduler-Attempt")) == (str(execution_id), "1")
    assert (done.response_status, done.response_excerpt, done.attempt) == (200, "ok", 1)
    assert done.lateness is not None
    assert timedelta(0) <= done.lateness < timedelta(seconds=5)


def test_failed_call_is_tried_again_with_the_same_key_until_its_attempts_are_used_up(
    world: World, target: Target
) -> None:
    target.on("/hook", answer(500, body=b"boom"))
    job = job_calling(world, target.url("/hook"), retry={"max_attempts": 3, "initial_seconds": 0})
    ids = world.dispatched()
    with running(world) as runner:
        for attempt in (1, 2, 3):
            runner.admit(ids)
            wait_until("the attempt is over", lambda a=attempt: only_execution(world, job).failures == a)
    done = only_execution(world, job)
    assert (done.state, done.error_code, done.response_status) == (State.FAILED, "http_status", 500)
    assert [attempt.attempt for attempt in done.attempts] == [1, 2]
    assert target.keys("/hook") == {str(ids[0]): 3}


def test_target_that_hangs_ends_at_its_timeout_and_holds_up_nobody(world: World, target: Target) -> None:
    target.on("/slow", hang())
    slow = job_calling(world, target.url("/slow"), timeout_seconds=0.5, retry={"max_attempts": 1})
    quick = [job_calling(world, target.url("/quick")) for _ in range(20)]
    ids = world.dispatched()
    with running(world, concurrency=2) as runner:
        runner.admit(ids)
        for job in quick:
            wait_for_state(world, job, State.SUCCEEDED)
        done = wait_for_state(world, slow, State.FAILED)
    assert done.error_code == "timeout"


def test_admitting_waits_while_everything_is_in_flight(world: World, target: Target) -> None:
    target.on("/slow", hang())
    for _ in range(3):
        job_calling(world, target.url("/slow"))
    ids = world.dispatched()
    with running(world, concurrency=2) as runner:
        admitting = threading.Thread(target=runner.admit, args=(ids,))
        admitting.start()
        target.wait_for(lambda requests: len(requests) == 2)
        assert admitting.is_alive()
        assert world.one("select count(*) from executions where state = 'PENDING'") == 1
    admitting.join(5)
    assert not admitting.is_alive()
    # what was not admitted is published again at once, not when its slot has passed
    assert world.one("select count(*) from executions where publish_count = 0 and attempt = 0") == 1


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        (b"zero \x00 byte", "zero \ufffd byte"),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
    ],
)
def test_answer_that_no_text_column_holds_is_recorded_cleaned(
    world: World, target: Target, body: bytes, excerpt: str
) -> None:
    target.on("/hook", answer(200, body=body))
    job = job_calling(world, target.url("/hook"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        assert wait_for_state(world, job, State.SUCCEEDED).response_excerpt == excerpt


def test_doubtful_effect_of_an_at_most_once_job_ends_unknown(world: World, target: Target) -> None:
    target.on("/hook", raw(b"", then="reset"))
    job = job_calling(world, target.url("/hook"), delivery="at_most_once")
    with running(world) as runner:
        runner.admit(world.dispatched())
        wait_for_state(world, job, State.UNKNOWN)
    assert len(target.received("/hook")) == 1


def test_at_most_once_job_that_was_surely_not_sent_is_tried_again(world: World) -> None:
    job = job_calling(world, "http://127.0.0.1:9/closed", delivery="at_most_once", retry={"initial_seconds": 0})
    with running(world) as runner:
        runner.admit(world.dispatched())
        wait_until("a failure is counted", lambda: only_execution(world, job).failures == 1)
    assert only_execution(world, job).state is State.PENDING


def test_lease_of_a_long_call_is_renewed_so_that_nobody_takes_it_over(world: World, target: Target) -> None:
    target.on("/slow", answer(delay=3.0))
    job = job_calling(world, target.url("/slow"))
    with running(world, lease=timedelta(seconds=1.5)) as runner:
        runner.admit(world.dispatched())
        wait_until(
            "it ends while a rescuer looks on",
            lambda: (
                world.dispatch.rescue(grace=NO_GRACE, spare=None).total > 0
                or only_execution(world, job).state is State.SUCCEEDED
            ),
        )
    assert only_execution(world, job).attempt == 1


def test_attempt_that_was_taken_over_is_broken_off_and_its_outcome_dropped(world: World, target: Target) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"))
    ids = world.dispatched()
    with running(world, lease=timedelta(seconds=3)) as runner:
        runner.admit(ids)
        target.wait_for(lambda requests: len(requests) == 1)
        world.sql("update executions set lease_expires_at = now() - interval '1 s'")
        assert world.dispatch.rescue(grace=NO_GRACE, spare=None).requeued == 1
        wait_until("it is broken off", lambda: runner.in_flight == 0)
    taken_over = only_execution(world, job)
    assert (taken_over.state, taken_over.failures) == (State.PENDING, 1)


def test_attempt_whose_lease_can_not_be_renewed_is_broken_off_before_others_may_take_it_over(
    world: World, target: Target, postgres: EmbeddedPostgres
) -> None:
    target.on("/slow", hang())
    job_calling(world, target.url("/slow"))
    ids = world.dispatched()
    with running(world, lease=timedelta(seconds=1.5)) as runner:
        runner.admit(ids)
        target.wait_for(lambda requests: len(requests) == 1)
        postgres.kill()
        wait_until("it is broken off", lambda: runner.in_flight == 0)
        target.wait_for(lambda _: target.open_connections == 0)
        postgres.start()


def test_cancelled_execution_is_broken_off_within_seconds(world: World, target: Target) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        target.wait_for(lambda requests: len(requests) == 1)
        world.sql("update executions set cancel_requested_at = now()")
        done = wait_for_state(world, job, State.CANCELLED)
    assert done.error_code == "cancelled"


def test_drain_lets_what_is_in_flight_finish(world: World, target: Target) -> None:
    target.on("/slow", answer(delay=0.5))
    job = job_calling(world, target.url("/slow"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        target.wait_for(lambda requests: len(requests) == 1)
        runner.drain(timedelta(seconds=10))
        assert only_execution(world, job).state is State.SUCCEEDED


def test_drain_breaks_off_what_does_not_finish_in_time_and_leaves_it_to_others(world: World, target: Target) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        target.wait_for(lambda requests: len(requests) == 1)
        runner.drain(timedelta(seconds=0.2))
        left = only_execution(world, job)
    assert (left.state, left.attempts[0].error_code) == (State.PENDING, "interrupted")


def test_definition_that_can_not_be_read_fails_the_execution_and_no_other(world: World, target: Target) -> None:
    broken, healthy = (job_calling(world, target.url("/hook")) for _ in range(2))
    world.sql("""update job_revisions set definition = '{"type": "HTTP"}' where job_id = :id""", id=broken.id)
    with running(world) as runner:
        runner.admit(world.dispatched())
        assert wait_for_state(world, healthy, State.SUCCEEDED)
        wait_until(
            "the broken one has failed",
            lambda: world.one("select state from executions where job_id = :id", id=broken.id) == "FAILED",
        )
    code = world.one("select error_code from executions where job_id = :id", id=broken.id)
    assert code == "definition_unreadable"


def test_outcomes_are_recorded_after_the_database_was_away(
    world: World, target: Target, postgres: EmbeddedPostgres
) -> None:
    target.on("/slow", answer(delay=1.0))
    job = job_calling(world, target.url("/slow"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        target.wait_for(lambda requests: len(requests) == 1)
        postgres.kill()
        wait_until("the call is over", lambda: runner.in_flight == 0)
        postgres.start()
        wait_until("the database answers", lambda: _answers(world))
        done = wait_for_state(world, job, State.SUCCEEDED)
    assert done.attempt == 1
    assert len(target.received("/slow")) == 1


def _answers(world: World) -> bool:
    try:
        return bool(world.one("select 1"))
    except Exception:
        return False


def test_private_target_is_refused_with_the_setting_that_would_allow_it(world: World, target: Target) -> None:
    job = job_calling(world, target.url("/hook").replace("127.0.0.1", "10.255.255.1"))
    with running(world) as runner:
        runner.admit(world.dispatched())
        done = wait_for_state(world, job, State.FAILED)
    assert done.error_code == "egress_blocked"
    assert "egress-allow" in (done.error_message or "")
