"""Workers and what was dispatched ahead of its moment: held, called at the moment and once, given back at the end."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
import uvloop
from servers.target import Target
from support.cluster import wait_until
from support.world import World

from gnomon.job.address import EgressPolicy
from gnomon.job.model import Job
from gnomon.job.ports import Claimed
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.worker.executors import Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.python import NoHandlers
from gnomon.worker.runner import Runner


@pytest.fixture
def world(world: World) -> World:
    world.dispatch = world.scheduler(ahead=timedelta(seconds=5))
    return world


@contextmanager
def running(
    world: World,
    *,
    store: PostgresExecutionStore | None = None,
    clock: Callable[[], datetime] | None = None,
    hold: int = 100,
) -> Iterator[Runner]:
    def executors() -> Executors:
        policy = EgressPolicy.parse(["127.0.0.0/8"])
        return Executors(http=HttpExecutor(policy=policy), amqp=AmqpExecutor(policy=policy), handlers=NoHandlers())

    used = store or world.worker("worker-1")
    runner = Runner(
        store=used,
        executors=executors,
        new_loop=uvloop.new_event_loop,
        concurrency=50,
        lease=timedelta(seconds=30),
        clock=clock or used.clock,
        hold=hold,
    )
    runner.start()
    try:
        yield runner
    finally:
        runner.drain(timedelta(seconds=5))


def soon(world: World, target: Target, seconds: float = 1.0, *, count: int = 1) -> list[Job]:
    """Jobs of one moment that is still to come."""
    at: datetime = world.one("select now() + make_interval(secs => :seconds)", seconds=seconds)
    call = {"url": target.url("/hook"), "method": "POST", "body": "{}"}
    return [world.create(execute_at=at.isoformat(), http_job=call) for _ in range(count)]


def all_succeeded(world: World, count: int) -> bool:
    return bool(world.one("select count(*) from executions where state = 'SUCCEEDED'") == count)


def begun_early(world: World) -> int:
    return int(world.one("select count(*) from executions where first_started_at < scheduled_at"))


class CountedClaims(PostgresExecutionStore):
    claims = 0

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        claimed = super().claim(ids, delivery=delivery, lease=lease)
        self.claims += 1
        return claimed


def counted(world: World) -> CountedClaims:
    return CountedClaims(world.by_index, instance=uuid4(), worker="worker-1")


def test_calls_are_made_at_their_moment_and_once_and_claimed_together(world: World, target: Target) -> None:
    soon(world, target, 3.0, count=20)
    ids = world.dispatched()
    store = counted(world)
    with running(world, store=store) as runner:
        for execution_id in ids:
            runner.admit([execution_id])
        assert not target.requests
        wait_until("all have run", lambda: all_succeeded(world, 20))
    assert begun_early(world) == 0
    assert sorted(request.key or "" for request in target.requests) == sorted(map(str, ids))
    assert store.claims == 1


def test_what_is_held_at_the_stop_is_given_back_for_its_moment(world: World, target: Target) -> None:
    soon(world, target, 4.0, count=3)
    with running(world) as runner:
        runner.admit(world.dispatched())
    assert not target.requests
    assert {
        (row.state, row.publish_count, row.next_publish_at == row.scheduled_at)
        for row in world.sql("select * from executions")
    } == {("PENDING", 0, True)}


def test_what_is_given_back_is_run_by_another_worker(world: World, target: Target) -> None:
    soon(world, target, 2.0)
    with running(world) as runner:
        runner.admit(world.dispatched())
    wait_until("it is published again", lambda: bool(published := _republished(world)) and not _admit(world, published))
    wait_until("it has run", lambda: all_succeeded(world, 1))
    assert begun_early(world) == 0


def _republished(world: World) -> Sequence[UUID]:
    return world.dispatch.republish(limit=10).get("io", ())


def _admit(world: World, ids: Sequence[UUID]) -> None:
    with running(world) as runner:
        runner.admit(ids)


@pytest.mark.parametrize(
    "change",
    [
        lambda world, job: world.service.pause(str(job.id)),
        lambda world, job: world.service.delete(str(job.id)),
        lambda world, job: world.service.cancel(str(world.history_of(job)[0].id)),
    ],
    ids=["pause", "delete", "cancel"],
)
def test_what_is_withdrawn_while_it_is_held_is_not_called(
    world: World, target: Target, change: Callable[[World, Job], object]
) -> None:
    (withdrawn,), (after,) = soon(world, target, 1.5), soon(world, target, 2.0)
    with running(world) as runner:
        runner.admit(world.dispatched())
        change(world, withdrawn)
        wait_until("the other has run", lambda: world.states_of(after) == ["SUCCEEDED"])
    (request,) = target.requests
    assert request.key == str(world.history_of(after)[0].id)


def test_edit_while_it_is_held_holds_for_it(world: World, target: Target) -> None:
    (job,) = soon(world, target, 2.0)
    with running(world) as runner:
        runner.admit(world.dispatched())
        world.service.update(str(job.id), {"http_job": {"url": target.url("/edited")}})
        runner.admit(world.dispatched())
        wait_until("it has run", lambda: all_succeeded(world, 1))
    assert [request.path for request in target.requests] == ["/edited"]


def test_claim_that_comes_too_early_is_made_again(world: World, target: Target) -> None:
    soon(world, target, 1.0)
    store = world.worker("worker-1")
    with running(world, store=store, clock=lambda: store.clock() + timedelta(milliseconds=300)) as runner:
        runner.admit(world.dispatched())
        wait_until("it has run", lambda: all_succeeded(world, 1))
    assert begun_early(world) == 0
    assert len(target.requests) == 1


def test_claim_that_met_a_lock_is_made_again(world: World, target: Target) -> None:
    soon(world, target, 1.0)
    store = counted(world)
    with running(world, store=store) as runner:
        ids = world.dispatched()
        with world.engine.begin() as other:
            other.exec_driver_sql(f"select 1 from executions where id = '{ids[0]}' for update")
            runner.admit(ids)
            wait_until("a claim", lambda: store.claims > 0)
        wait_until("it has run", lambda: all_succeeded(world, 1))
    assert len(target.requests) == 1


def test_more_than_the_room_holds_are_run_at_their_moment_too(world: World, target: Target) -> None:
    soon(world, target, 2.0, count=30)
    with running(world, hold=10) as runner:
        runner.admit(world.dispatched())
        wait_until("all have run", lambda: all_succeeded(world, 30))
    assert begun_early(world) == 0
    assert len(target.requests) == 30
