"""A scheduler that can only run jobs of some names, on a real Postgres: it leaves the others to those who can."""

from datetime import timedelta
from uuid import uuid4

import pytest
from support.world import World

from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.postgres.dispatch import PostgresDispatchStore

NO_GRACE = timedelta(0)
SHORT = timedelta(seconds=-1)  # a lease that has ended already


@pytest.fixture
def names() -> list[str]:
    """What the store's process can run; changed by the tests."""
    return ["mine"]


@pytest.fixture
def store(world: World, names: list[str]) -> PostgresDispatchStore:
    return PostgresDispatchStore(world.engine, instance=uuid4(), names=lambda: names)


def test_only_jobs_of_its_names_are_dispatched(world: World, store: PostgresDispatchStore) -> None:
    mine, other, nameless = world.due(name="mine"), world.due(name="other"), world.due()
    assert store.dispatch(plan_batch, limit=10).jobs == 1
    assert [world.states_of(job) for job in (mine, other, nameless)] == [["PENDING"], [], []]


def test_jobs_that_fell_behind_are_chosen_by_name_too(world: World, store: PostgresDispatchStore) -> None:
    mine, other = world.create(name="mine"), world.create(name="other")
    world.make_due(mine, other, ago=600)
    assert store.dispatch(plan_batch, limit=10).jobs == 1
    assert world.states_of(other) == []


def test_names_are_asked_for_at_each_call(world: World, store: PostgresDispatchStore, names: list[str]) -> None:
    world.due(name="other")
    assert store.dispatch(plan_batch, limit=10).jobs == 0
    names.append("other")
    assert store.dispatch(plan_batch, limit=10).jobs == 1


def test_what_is_due_of_other_names_does_not_wake_it(
    world: World, store: PostgresDispatchStore, names: list[str]
) -> None:
    mine, other = world.create(name="mine"), world.due(name="other")
    assert store.horizon().at == mine.next_run
    world.dispatched()
    world.sql("update executions set next_publish_at = now()")
    assert store.horizon().at == mine.next_run
    names.append("other")
    ahead = store.horizon()
    assert ahead.at is not None
    assert ahead.at <= ahead.now
    assert world.states_of(other) == ["PENDING"]


def test_only_executions_of_its_names_are_published_again(
    world: World, store: PostgresDispatchStore, names: list[str]
) -> None:
    world.due(name="other")
    mine = world.due(name="mine")
    world.dispatched()
    world.sql("update executions set next_publish_at = now()")
    assert store.republish(limit=10) == {"io": [world.history_of(mine)[0].id]}
    names[:] = ["other"]
    assert len(store.republish(limit=10)["io"]) == 1


def test_what_another_lost_is_rescued_whatever_its_name(world: World, store: PostgresDispatchStore) -> None:
    other = world.due(name="other")
    world.claim(world.dispatched(), lease=SHORT)
    assert store.rescue(grace=NO_GRACE, spare=None).requeued == 1
    assert world.states_of(other) == ["PENDING"]
