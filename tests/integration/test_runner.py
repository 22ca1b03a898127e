"""The worker's heart, without a broker: ids go in, calls reach a real target, outcomes reach a real database."""

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
import uvloop
from servers.target import Target, answer, hang, raw
from support.cluster import wait_until
from support.world import World, token

from gnomon.embedded.ports import free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.address import EgressPolicy
from gnomon.job.errors import Unavailable
from gnomon.job.model import Definition, Execution, Job, State
from gnomon.job.ports import Claimed, Token
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.worker.executors import Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.python import NoHandlers
from gnomon.worker.flights import Flight
from gnomon.worker.runner import Runner
from gnomon.worker.verdict import MAX_EXCUSED

NO_GRACE = timedelta(0)
Answer = TypeVar("Answer")


def _executors() -> Executors:
    policy = EgressPolicy.parse(["127.0.0.0/8"])
    return Executors(http=HttpExecutor(policy=policy), amqp=AmqpExecutor(policy=policy), handlers=NoHandlers())


@contextmanager
def running(
    world: World,
    *,
    concurrency: int = 50,
    lease: timedelta = timedelta(seconds=30),
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    store: PostgresExecutionStore | None = None,
) -> Iterator[Runner]:
    """A runner, drained at the end."""
    runner = Runner(
        store=store or world.executions, executors=_executors, new_loop=new_loop, concurrency=concurrency, lease=lease
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


def test_executions_leave_nothing_to_the_garbage_collector(world: World, target: Target) -> None:
    jobs = [job_calling(world, target.url("/hook")) for _ in range(20)]
    ids = world.dispatched()
    gc.collect()
    gc.disable()
    try:
        with running(world) as runner:
            runner.admit(ids)
            for job in jobs:
                wait_for_state(world, job, State.SUCCEEDED)
        assert not [one for one in gc.get_objects() if isinstance(one, Flight) and one.claimed.id in ids]
        assert not [one for one in gc.get_objects() if isinstance(one, Claimed) and one.id in ids]
    finally:
        gc.enable()


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
    job = job_calling(world, f"http://127.0.0.1:{free_port()}/", delivery="at_most_once", retry={"initial_seconds": 0})
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


def interruptions(world: World) -> list[str]:
    return [
        row.error_message for row in world.sql("select error_message from attempts where error_code = 'interrupted'")
    ]


@pytest.mark.parametrize("max_attempts", [1, 4])
def test_drain_breaks_off_what_does_not_finish_in_time_and_others_try_it_again_at_once_at_no_cost(
    world: World, target: Target, max_attempts: int
) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"), retry={"max_attempts": max_attempts, "initial_seconds": 60})
    ids = world.dispatched()
    with running(world) as runner:
        runner.admit(ids)
        target.wait_for(lambda requests: len(requests) == 1)
        runner.drain(timedelta(seconds=0.2))
    assert (only_execution(world, job).state, only_execution(world, job).failures) == (State.PENDING, 0)
    assert interruptions(world) == ["the worker stopped before the call had ended"]
    target.on("/slow", answer())
    with running(world) as another:
        another.admit(ids)
        done = wait_for_state(world, job, State.SUCCEEDED)
    assert (done.attempt, done.failures) == (2, 0)


def test_call_that_takes_longer_than_workers_live_is_not_tried_for_ever(world: World, target: Target) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"), retry={"max_attempts": 1})
    ids = world.dispatched()
    for _ in range(MAX_EXCUSED):
        (claimed,) = world.claim(ids)
        world.executions.release([token(claimed)], delay=NO_GRACE)
    with running(world) as runner:
        runner.admit(ids)
        target.wait_for(lambda requests: len(requests) == 1)
    done = only_execution(world, job)
    assert (done.state, done.error_code, done.attempt) == (State.FAILED, "interrupted", MAX_EXCUSED + 1)


def test_at_most_once_call_that_is_broken_off_after_it_was_sent_ends_unknown(world: World, target: Target) -> None:
    target.on("/slow", hang())
    job = job_calling(world, target.url("/slow"), delivery="at_most_once")
    with running(world) as runner:
        runner.admit(world.dispatched())
        target.wait_for(lambda requests: len(requests) == 1)
    done = only_execution(world, job)
    assert (done.state, done.error_code) == (State.UNKNOWN, "interrupted")


def test_at_most_once_call_that_is_broken_off_before_it_was_sent_costs_nothing(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        for _ in range(3):  # who comes after these waits for a connection
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        job = job_calling(world, f"http://127.0.0.1:{deaf.getsockname()[1]}/", delivery="at_most_once")
        with running(world) as runner:
            runner.admit(world.dispatched())
            assert world.one("select effect_started_at from executions") is not None
    left = only_execution(world, job)
    assert (left.state, left.failures) == (State.PENDING, 0)
    assert world.one("select effect_started_at from executions") is None


def test_attempt_that_is_broken_off_before_its_first_step_leaves_nothing_behind(world: World, target: Target) -> None:
    job = job_calling(world, target.url("/hook"))
    loop, gate = uvloop.new_event_loop(), threading.Event()
    with running(world, new_loop=lambda: loop) as runner:
        loop.call_soon_threadsafe(gate.wait, 10)
        runner.admit(world.dispatched())  # it takes off when the gate opens
        world.sql("update executions set cancel_requested_at = now()")
        wait_until("the worker has heard of the cancellation", lambda: runner._flights.all()[0].abort is not None)
        gate.set()
        wait_for_state(world, job, State.CANCELLED)
        assert runner.in_flight == 0
    assert target.requests == ()


class HeldStore(PostgresExecutionStore):
    """The real store, with a gate before one verb. With `lose` the first reply to it is lost."""

    def __init__(self, world: World, verb: str, *, lose: bool = False) -> None:
        super().__init__(world.engine, instance=uuid4(), worker="held")
        self.reached, self.gate = threading.Event(), threading.Event()
        self._verb, self._lose = verb, lose

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        return self._held("claim", lambda: PostgresExecutionStore.claim(self, ids, delivery=delivery, lease=lease))

    def definitions(self, revisions: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], Definition]:
        return self._held("definitions", lambda: PostgresExecutionStore.definitions(self, revisions))

    def start(self, tokens: Collection[Token], *, delivery: UUID, margin: timedelta) -> set[UUID]:
        return self._held("start", lambda: PostgresExecutionStore.start(self, tokens, delivery=delivery, margin=margin))

    def _held(self, verb: str, ask: Callable[[], Answer]) -> Answer:
        if verb != self._verb:
            return ask()
        self.reached.set()
        assert self.gate.wait(20)
        answered = ask()
        if self._lose:
            self._lose = False
            raise Unavailable("the reply was lost")
        return answered


VERBS = ["claim", "definitions", "start"]


@contextmanager
def admitting(runner: Runner, ids: Sequence[UUID]) -> Iterator[None]:
    thread = threading.Thread(target=_admit, args=(runner, ids))
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def _admit(runner: Runner, ids: Sequence[UUID]) -> None:
    with contextlib.suppress(Unavailable):  # as the queue does
        runner.admit(ids)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("lose", [False, True])
def test_drain_waits_for_what_is_between_its_claim_and_its_call(
    world: World, target: Target, verb: str, lose: bool
) -> None:
    job = job_calling(world, target.url("/hook"), delivery="at_most_once")
    store = HeldStore(world, verb, lose=lose)
    with running(world, store=store) as runner, admitting(runner, world.dispatched()):
        assert store.reached.wait(10)
        draining = threading.Thread(target=runner.drain, args=(timedelta(seconds=15),))
        draining.start()
        wait_until("the drain has begun", lambda: runner._slots.closed)
        store.gate.set()
        draining.join(10)
        assert not draining.is_alive()
    done = only_execution(world, job)
    assert (done.state, done.attempt, len(target.requests)) == (State.SUCCEEDED, 1, 1)


@pytest.mark.parametrize(
    ("verb", "delivery", "lose"),
    [
        ("claim", "at_least_once", False),  # where that reply is lost nobody knows of the claim: it is rescued
        ("claim", "at_most_once", False),
        ("definitions", "at_least_once", False),
        ("definitions", "at_most_once", True),
        ("start", "at_most_once", False),
        ("start", "at_most_once", True),
    ],
)
def test_what_is_between_its_claim_and_its_call_when_the_grace_is_over_is_given_back(
    world: World, target: Target, verb: str, delivery: str, lose: bool
) -> None:
    job = job_calling(world, target.url("/hook"), delivery=delivery, retry={"max_attempts": 1})
    store = HeldStore(world, verb, lose=lose)
    with running(world, store=store) as runner, admitting(runner, world.dispatched()):
        assert store.reached.wait(10)
        draining = threading.Thread(target=runner.drain, args=(timedelta(seconds=0.1),))
        draining.start()
        wait_until("the grace is over", runner._grounded.is_set)
        store.gate.set()
        draining.join(10)
    left = only_execution(world, job)
    assert (left.state, left.failures) == (State.PENDING, 0)
    assert world.one("select effect_started_at from executions") is None
    assert target.requests == ()


def test_drain_while_the_database_is_away_ends_with_its_grace(
    world: World, target: Target, postgres: EmbeddedPostgres
) -> None:
    target.on("/slow", hang())
    job_calling(world, target.url("/slow"))
    ids = world.dispatched()
    with running(world) as runner:
        runner.admit(ids)
        target.wait_for(lambda requests: len(requests) == 1)
        postgres.kill()
        with admitting(runner, [uuid4()]):
            wait_until("it tries to claim", lambda: runner.in_flight == 2)
            started = time.monotonic()
            runner.drain(timedelta(seconds=4))
            assert time.monotonic() - started < 4 + Runner.FAREWELL_SECONDS
        postgres.start()


def test_execution_that_could_not_be_started_in_time_is_given_back(world: World, target: Target) -> None:
    job = job_calling(world, target.url("/hook"), delivery="at_most_once")
    store = HeldStore(world, "start")
    with running(world, store=store, lease=timedelta(seconds=2)) as runner, admitting(runner, world.dispatched()):
        assert store.reached.wait(10)
        wait_until(
            "half of the lease is over",
            lambda: world.one("select lease_expires_at < now() + interval '1 s' from executions"),
        )
        store.gate.set()
        wait_for_state(world, job, State.PENDING)
    assert only_execution(world, job).failures == 0
    assert target.requests == ()


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


@pytest.mark.parametrize(
    "definition",
    [
        '{"type": "a carrier pigeon", "interval_seconds": 60}',
        "[]",
        """{"type": "HTTP", "interval_seconds": 1, "timeout_seconds": 1e300, "http_job": {"url": "http://a/"}}""",
        """{"type": "HTTP", "interval_seconds": %s, "http_job": {"url": "http://a/"}}""" % ("9" * 5000),
        '{"type": ' + "[" * 3000 + "]" * 3000 + "}",
    ],
    ids=["unknown", "no object", "endless", "too many digits", "too deep"],
)
def test_no_definition_costs_the_executions_beside_it_theirs(world: World, target: Target, definition: str) -> None:
    jobs = [job_calling(world, target.url("/hook")) for _ in range(5)]
    world.sql(
        "update job_revisions set definition = cast(:definition as jsonb) where job_id = :id",
        id=jobs[2].id,
        definition=definition,
    )
    with running(world) as runner:
        runner.admit(world.dispatched())
        wait_until("all are over", lambda: world.one("select count(*) from executions where state = 'RUNNING'") == 0)
    ended = world.sql("select job_id, state, error_code from executions where state <> 'SUCCEEDED'")
    assert [tuple(row) for row in ended] == [(jobs[2].id, "FAILED", "definition_unreadable")]


class AwayStore(PostgresExecutionStore):
    """Nothing is claimed until `away_until` (seconds of the monotonic clock)."""

    away_until = 0.0

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        if time.monotonic() < self.away_until:
            raise Unavailable("away")
        return super().claim(ids, delivery=delivery, lease=lease)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_claim_that_waited_longer_than_its_lease_is_renewed_before_anything_is_sent(
    world: World, target: Target, delivery: str
) -> None:
    target.on("/hook", answer(delay=0.5))  # longer than it takes to notice a lease that is not trusted
    jobs = [job_calling(world, target.url("/hook"), delivery=delivery) for _ in range(10)]
    lease = timedelta(seconds=2)
    world.executions = AwayStore(world.engine, instance=uuid4(), worker="worker-1")
    world.executions.away_until = time.monotonic() + 1.1 * lease.total_seconds()
    with running(world, lease=lease) as runner:
        runner.admit(world.dispatched())
        for job in jobs:
            wait_for_state(world, job, State.SUCCEEDED)
    assert set(target.keys().values()) == {1}
    assert world.one("select max(attempt) from executions") == 1


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
