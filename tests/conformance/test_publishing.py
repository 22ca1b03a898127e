"""R1: publish slots, and who may give them back or free them."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from support.timed import TICK, TimedScene
from support.world import record

from gnomon.job.model import State

SLOTS = (15, 30, 60, 120, 240, 480, 900, 900)
JITTER = 1.1


def until_next(world: TimedScene) -> float:
    """Seconds until the earliest publish; the jobs of these tests have nothing else ahead."""
    ahead = world.dispatch.horizon()
    assert ahead.at is not None
    return (ahead.at - ahead.now).total_seconds()


@pytest.fixture
def published(world: TimedScene) -> list[UUID]:
    """The only execution, of a job without further moments."""
    world.create(delay_seconds=0)
    return world.dispatched()


def test_published_execution_is_published_again_each_time_its_slot_has_passed(
    world: TimedScene, published: list[UUID]
) -> None:
    for number, seconds in enumerate(SLOTS):
        longest = seconds * (JITTER if number else 1)  # the first slot is D's, without jitter
        assert seconds - 2 <= until_next(world) <= longest
        world.advance(timedelta(seconds=until_next(world) - 2))
        assert world.dispatch.republish(limit=10) == {}
        world.advance(timedelta(seconds=4))
        assert world.dispatch.republish(limit=10) == {"io": published}
        assert world.dispatch.republish(limit=10) == {}


def test_those_that_waited_longest_are_published_first(world: TimedScene) -> None:
    first = world.service.run_now(str(world.create().id)).execution
    world.advance(timedelta(seconds=1))
    others = [world.service.run_now(str(world.create().id)).execution for _ in range(3)]
    assert world.dispatch.republish(limit=1) == {"io": [first.id]}
    assert sorted(world.dispatch.republish(limit=10)["io"]) == sorted(one.id for one in others)


def test_returned_slots_are_due_at_once_and_start_anew(world: TimedScene, published: list[UUID]) -> None:
    world.dispatch.return_slots(published)
    assert world.dispatch.republish(limit=10) == {"io": published}
    world.executions.return_slots([*published, uuid4()])
    assert world.dispatch.republish(limit=10) == {"io": published}
    assert until_next(world) <= 15 * JITTER


def test_slots_returned_with_a_delay_are_due_one_after_the_other(world: TimedScene) -> None:
    ids = sorted(world.service.run_now(str(world.create().id)).execution.id for _ in range(12))
    world.dispatch.republish(limit=100)
    world.executions.return_slots(ids, delay=timedelta(seconds=60), spread=timedelta(seconds=600))
    assert 58 < until_next(world) < 660
    world.advance(timedelta(seconds=58))
    assert world.dispatch.republish(limit=100) == {}
    world.advance(timedelta(seconds=302))
    soon = world.dispatch.republish(limit=100).get("io", ())
    assert len(soon) < 12  # 1 in 4,096 that all come in the first half
    world.advance(timedelta(seconds=302))
    late = world.dispatch.republish(limit=100)["io"]
    assert set(late) >= set(ids) - set(soon)


def test_returned_slot_is_not_due_before_the_execution_is(world: TimedScene, published: list[UUID]) -> None:
    (claimed,) = world.claim(published)
    world.executions.record([record(claimed, State.PENDING, delay=timedelta(hours=1))])
    world.executions.return_slots(published, delay=timedelta(seconds=60), spread=timedelta(seconds=60))
    assert until_next(world) > 3000


def test_pending_executions_are_shown_with_their_definitions_and_stay_so(
    world: TimedScene, published: list[UUID]
) -> None:
    (execution_id,) = published
    found = world.executions.pending([*published, uuid4()])
    ((job_id, revision),) = found.values()
    assert found.keys() == {execution_id}
    assert (job_id, revision) in world.executions.definitions([(job_id, revision)])
    (claimed,) = world.claim(published)
    assert (claimed.attempt, claimed.job_id, claimed.revision) == (1, job_id, revision)
    assert world.executions.pending(published) == {}


def test_returned_slot_of_what_is_not_pending_changes_nothing(world: TimedScene, published: list[UUID]) -> None:
    (claimed,) = world.claim(published)
    world.dispatch.return_slots(published)
    assert world.dispatch.republish(limit=10) == {}
    world.executions.record([record(claimed)])
    world.dispatch.return_slots(published)
    assert world.dispatch.republish(limit=10) == {}


def test_returned_slot_of_a_later_retry_is_not_due_before_it(world: TimedScene, published: list[UUID]) -> None:
    (claimed,) = world.claim(published)
    world.executions.record([record(claimed, State.PENDING, delay=timedelta(hours=1))])
    world.dispatch.return_slots(published)
    assert until_next(world) > 3000
    assert world.dispatch.republish(limit=10) == {}
    world.advance(timedelta(hours=1, seconds=5))
    assert world.dispatch.republish(limit=10) == {"io": published}


def test_freed_slots_are_due_at_once(world: TimedScene, published: list[UUID]) -> None:
    world.advance(TICK)
    assert world.dispatch.free_slots() == 1
    assert world.dispatch.free_slots() == 0  # due already
    assert world.dispatch.republish(limit=10) == {"io": published}
    world.advance(TICK)
    assert world.dispatch.free_slots() == 1  # published again, so lost again


def test_freeing_slots_leaves_alone_what_was_not_published(world: TimedScene, published: list[UUID]) -> None:
    (claimed,) = world.claim(published)
    world.executions.record([record(claimed, State.PENDING, delay=timedelta(hours=1))])
    world.advance(TICK)
    assert world.dispatch.free_slots() == 0
    assert world.dispatch.republish(limit=10) == {}


def test_claimed_executions_are_not_published(world: TimedScene, published: list[UUID]) -> None:
    world.claim(published, lease=timedelta(hours=1))
    world.advance(timedelta(minutes=30))
    assert world.dispatch.republish(limit=10) == {}


def test_overlooked_are_those_that_two_messages_did_not_get_claimed(world: TimedScene, published: list[UUID]) -> None:
    ages = {"oldest": timedelta(hours=1), "newest": timedelta(seconds=5)}
    world.advance(timedelta(seconds=6))
    assert world.executions.overlooked(["io"], **ages) == 0  # the first message may have been lost
    world.advance(timedelta(seconds=20))
    world.dispatch.republish(limit=10)
    assert world.executions.overlooked(["io"], **ages) == 0  # only just sent
    world.advance(timedelta(seconds=6))
    assert world.executions.overlooked(["io"], **ages) == 1
    assert world.executions.overlooked(["other"], **ages) == 0
    assert world.executions.overlooked(["io"], oldest=timedelta(seconds=5), newest=timedelta(0)) == 0
    world.advance(timedelta(minutes=5))
    assert world.executions.overlooked(["io"], **ages) == 0  # nobody publishes: the broker is away, or the schedulers
    world.dispatch.republish(limit=10)
    world.advance(timedelta(seconds=6))
    world.claim(published)
    assert world.executions.overlooked(["io"], **ages) == 0
