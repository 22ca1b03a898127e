"""One host that hangs or is flooded, and the others: a runner over a real database, and what R1 would publish."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import uvloop
from servers.target import Target, answer, hang
from sqlalchemy import text
from support.cluster import wait_until
from support.gate import Gate
from support.world import World

from gnomon.job.address import EgressPolicy
from gnomon.job.errors import Unavailable
from gnomon.job.model import Job, State
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.worker.executors import Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.python import NoHandlers
from gnomon.worker.runner import Runner

NO_GRACE, GRACE = timedelta(0), timedelta(seconds=60)
MESSAGE = 100  # ids, as the scheduler sends them
ADMITTING = 8  # threads, as a worker has them

# Executions that are due and published, as many as are asked for, of a job that may overlap itself.
MANY = text("""
insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts, overlap,
    available_at, next_publish_at, publish_count, published_at)
select gen_random_uuid(), id, revision, type, queue, now(), 'MANUAL', 'PENDING', max_attempts, overlap,
    now(), now() + interval '1 hour', 1, now()
from jobs, generate_series(1, :count) where id = :id
returning id
""")
FACTS = text("""
select state, attempt, failures, effect_started_at is not null as started, first_started_at is not null as begun,
    extract(epoch from next_publish_at - now()) as due_in
from executions where job_id = :id
""")


@pytest.fixture
def other() -> Iterator[Target]:
    with Target() as started:
        yield started


@contextmanager
def running(world: World, *, per_host: int, concurrency: int = 64, **more: Any) -> Iterator[Runner]:
    policy = EgressPolicy.parse(["127.0.0.0/8"])
    runner = Runner(
        store=more.pop("store", world.executions),
        executors=lambda: Executors(
            http=HttpExecutor(policy=policy), amqp=AmqpExecutor(policy=policy), handlers=NoHandlers()
        ),
        new_loop=uvloop.new_event_loop,
        concurrency=concurrency,
        lease=timedelta(seconds=30),
        per_host=per_host,
        **more,
    )
    runner.start()
    try:
        yield runner
    finally:
        runner.drain(NO_GRACE)


def job_calling(world: World, url: str, **more: Any) -> Job:
    document = {"interval_seconds": 36_000, "overlap": "allow", "timeout_seconds": 300, **more}
    return world.create(http_job={"url": url, "body": "{}"}, **document)


def due(world: World, job: Job, count: int) -> list[UUID]:
    with world.engine.begin() as connection:
        return list(connection.execute(MANY, {"id": job.id, "count": count}).scalars())


def facts(world: World, job: Job) -> Sequence[Any]:
    with world.engine.connect() as connection:
        return connection.execute(FACTS, {"id": job.id}).all()


def states(world: World, job: Job) -> Counter[str]:
    return Counter(row.state for row in facts(world, job))


def admit_all(runner: Runner, ids: Sequence[UUID], *, size: int = MESSAGE) -> None:
    """As a worker does: message by message, some of them at once."""
    with ThreadPoolExecutor(ADMITTING) as pool:
        list(pool.map(runner.admit, [ids[place : place + size] for place in range(0, len(ids), size)]))


@contextmanager
def publishing(world: World, runner: Runner) -> Iterator[None]:
    """What is put off comes back, as R1 has it."""
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.05):
            for ids in world.dispatch.republish(limit=1000).values():
                admit_all(runner, ids)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        runner.drain(NO_GRACE)
        thread.join()


def test_others_are_finished_while_a_host_hangs_that_has_thousands(world: World, target: Target, other: Target) -> None:
    target.on("/hook", hang())
    stuck, well = job_calling(world, target.url("/hook")), job_calling(world, other.url("/hook"))
    hanging, quick = due(world, stuck, 2000), due(world, well, 200)
    with running(world, per_host=16) as runner, publishing(world, runner):
        admit_all(runner, [*hanging[:1900], *quick, *hanging[1900:]])
        wait_until("the others are finished", lambda: states(world, well) == {"SUCCEEDED": 200}, seconds=60)
        # none of the host that hangs is over: what it may have at once is under way, as many wait, others rest
        assert states(world, stuck) == {"RUNNING": 32, "PENDING": 1968}
        assert target.open_connections <= 16
        untouched = [row for row in facts(world, stuck) if row.state == "PENDING"]
        assert {(row.attempt, row.begun, row.failures) for row in untouched} == {(0, False, 0)}
        assert all(row.due_in < 130 for row in untouched)  # and they come back
    assert states(world, stuck) == {"PENDING": 2000}
    assert {row.failures for row in facts(world, stuck)} == {0}
    assert Counter(other.keys().values()) == {1: 200}


def test_all_that_was_put_off_is_called_once_when_the_host_answers_again(world: World, target: Target) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    job = job_calling(world, target.url("/hook"))
    with running(world, per_host=8) as runner, publishing(world, runner):
        admit_all(runner, due(world, job, 300))
        wait_until("places are taken", lambda: states(world, job)["RUNNING"] == 16)
        gate.open.set()
        wait_until("all are finished", lambda: states(world, job) == {"SUCCEEDED": 300}, seconds=60)
    assert set(target.keys().values()) == {1}
    assert gate.most == 8
    assert {(row.attempt, row.failures) for row in facts(world, job)} == {(1, 0)}


def test_small_messages_at_once_claim_nothing_that_has_no_place(world: World, target: Target) -> None:
    target.on("/hook", answer(delay=0.05))
    job = job_calling(world, target.url("/hook"))
    with running(world, per_host=12) as runner, publishing(world, runner):
        admit_all(runner, due(world, job, 300), size=10)
        wait_until("all are finished", lambda: states(world, job) == {"SUCCEEDED": 300}, seconds=60)
    assert {(row.attempt, row.failures) for row in facts(world, job)} == {(1, 0)}


def test_at_most_once_waits_unmarked_and_is_sent_once(world: World, target: Target) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    job = job_calling(world, target.url("/hook"), delivery="at_most_once")
    with running(world, per_host=3) as runner:
        admit_all(runner, due(world, job, 6))
        wait_until("three are called", lambda: gate.inside == 3)
        marks = Counter(row.started for row in facts(world, job) if row.state == "RUNNING")
        assert marks == {True: 3, False: 3}
        gate.open.set()
        wait_until("all are finished", lambda: states(world, job) == {"SUCCEEDED": 6})
    assert set(target.keys().values()) == {1}
    assert all(row.started for row in facts(world, job))


def test_stop_gives_back_at_once_what_waits_and_lets_the_others_finish(world: World, target: Target) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    job = job_calling(world, target.url("/hook"))
    with running(world, per_host=5) as runner:
        admit_all(runner, due(world, job, 10))
        wait_until("five are called", lambda: gate.inside == 5)
        assert states(world, job) == {"RUNNING": 10}
        stopping = threading.Thread(target=runner.drain, args=[GRACE])
        stopping.start()
        wait_until("those that wait are given back", lambda: states(world, job) == {"RUNNING": 5, "PENDING": 5})
        given_back = [row for row in facts(world, job) if row.state == "PENDING"]
        assert {(row.failures, row.due_in <= 0) for row in given_back} == {(0, True)}
        assert gate.inside == 5
        gate.open.set()
        stopping.join()
    assert states(world, job) == {"SUCCEEDED": 5, "PENDING": 5}
    assert len(target.requests) == 5


def test_what_waits_can_be_cancelled(world: World, target: Target) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    first, second = job_calling(world, target.url("/hook")), job_calling(world, target.url("/hook"))
    with running(world, per_host=1) as runner:
        runner.admit(due(world, first, 1))
        wait_until("one is called", lambda: gate.inside == 1)
        (waiting,) = due(world, second, 1)
        runner.admit([waiting])
        wait_until("the other waits", lambda: states(world, second) == {"RUNNING": 1})
        world.service.cancel(str(waiting))
        wait_until("it is cancelled", lambda: states(world, second) == {"CANCELLED": 1})
        gate.open.set()
        wait_until("the first is finished", lambda: states(world, first) == {"SUCCEEDED": 1})
        runner.admit(due(world, first, 1))
        wait_until("its place is free again", lambda: states(world, first) == {"SUCCEEDED": 2})
    assert target.keys()[str(waiting)] == 0


def test_what_waits_for_too_long_goes_to_whoever_is_free(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "LONGEST_WAIT_SECONDS", 0.5)
    target.on("/hook", hang())
    job = job_calling(world, target.url("/hook"))
    with running(world, per_host=2) as runner:
        admit_all(runner, due(world, job, 4))
        wait_until("those that waited are given back", lambda: states(world, job) == {"RUNNING": 2, "PENDING": 2})
        assert runner.in_flight == 2
    assert {row.failures for row in facts(world, job)} == {0}


class Away(PostgresExecutionStore):
    """A store whose looks ahead fail as often as told."""

    failures = 3

    def pending(self, ids: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        return super().pending(ids)

    def return_slots(self, *_: Any, **__: Any) -> None:
        raise Unavailable("away")


def test_store_that_is_away_loses_nothing_and_takes_no_slot(world: World, target: Target) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    job = job_calling(world, target.url("/hook"))
    store = Away(world.engine, instance=uuid4(), worker="w")
    with running(world, per_host=2, concurrency=10, store=store) as runner:
        runner.admit(due(world, job, 10))
        wait_until("places are taken", lambda: states(world, job) == {"RUNNING": 4, "PENDING": 6})
        wait_until("no more slots than calls", lambda: runner.in_flight == 2)
        gate.open.set()
        wait_until("they are finished", lambda: states(world, job)["SUCCEEDED"] == 4)
        wait_until("all slots are free", lambda: runner.in_flight == 0)


def test_put_off_executions_are_counted(world: World, target: Target) -> None:
    target.on("/hook", hang())
    job = job_calling(world, target.url("/hook"))
    with running(world, per_host=2) as runner:
        runner.admit(due(world, job, 50))
    tallies = {(tally.kind, tally.outcome): tally.count for tally in world.history.tallies()}
    assert tallies["HTTP", "put_off"] == 46
    assert tallies["HTTP", "started"] == 4


def test_many_hosts_share_the_slots_as_before(world: World, target: Target, other: Target) -> None:
    jobs = [job_calling(world, place.url(f"/{number}")) for number, place in enumerate((target, other))]
    with running(world, per_host=4, concurrency=8) as runner, publishing(world, runner):
        admit_all(runner, [execution_id for job in jobs for execution_id in due(world, job, 100)])
        for job in jobs:
            wait_until("all are finished", lambda job=job: states(world, job)[State.SUCCEEDED] == 100, seconds=60)
    assert set(target.keys().values()) | set(other.keys().values()) == {1}
