"""R2: what becomes of attempts whose worker is gone."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from support.timed import TimedScene
from support.world import LEASE, record, token

from gnomon.job.model import Execution, State

NO_TIME = timedelta(0)


def lost(world: TimedScene, ids: Sequence[UUID], *, worker: str = "w", spread: timedelta = LEASE) -> list[Execution]:
    """Claims each, lets the leases end, and rescues."""
    claimed = world.worker(worker).claim(ids, delivery=uuid4(), lease=LEASE)
    assert len(claimed) == len(ids)
    world.advance(LEASE + timedelta(seconds=1))
    world.dispatch.rescue(grace=NO_TIME, spare=None, spread=spread)
    return [world.history.get(execution_id) for execution_id in ids]


def waits(world: TimedScene, executions: Sequence[Execution]) -> list[float]:
    """Seconds from their loss until they are available."""
    pending = [execution for execution in executions if execution.state is State.PENDING]
    return [(one.available_at - one.attempts[-1].finished_at).total_seconds() for one in pending]


def test_lost_attempt_is_requeued_with_a_failure_counted(world: TimedScene) -> None:
    world.due()
    ids = world.dispatched()
    (execution,) = lost(world, ids)
    assert (execution.state, execution.attempt, execution.failures) == (State.PENDING, 1, 1)
    assert (execution.error_code, execution.error_message) == ("lost", "the worker w did not renew its lease")
    (attempt,) = execution.attempts
    assert (attempt.attempt, attempt.outcome, attempt.worker) == (1, "LOST", "w")
    assert world.dispatch.republish(limit=10) == {"io": ids}
    (again,) = world.claim(ids)
    assert (again.attempt, again.failures) == (2, 1)


def test_lease_within_its_grace_is_not_rescued(world: TimedScene) -> None:
    job = world.due()
    world.claim(world.dispatched())
    world.advance(LEASE - timedelta(seconds=1))
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).total == 0
    world.advance(timedelta(seconds=6))
    assert world.dispatch.rescue(grace=timedelta(seconds=10), spare=None).total == 0
    assert world.states_of(job) == ["RUNNING"]
    world.advance(timedelta(seconds=6))
    assert world.dispatch.rescue(grace=timedelta(seconds=10), spare=None).requeued == 1


def test_recent_lease_is_spared_after_an_outage(world: TimedScene) -> None:
    world.due()
    world.claim(world.dispatched())
    world.advance(LEASE + timedelta(minutes=1))
    assert world.dispatch.rescue(grace=NO_TIME, spare=timedelta(minutes=2)).total == 0
    world.advance(timedelta(minutes=2))
    assert world.dispatch.rescue(grace=NO_TIME, spare=timedelta(minutes=2)).requeued == 1


def test_lost_attempt_whose_effect_may_have_happened_is_unknown(world: TimedScene) -> None:
    job = world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    assert world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME) == {claimed.id}
    world.advance(2 * LEASE)
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).unknown == 1
    (execution,) = world.history_of(job)
    assert (execution.state, execution.failures, execution.attempts) == (State.UNKNOWN, 1, ())
    assert execution.finished_at is not None


def test_lost_attempt_that_was_to_be_cancelled_is_cancelled(world: TimedScene) -> None:
    job = world.due()
    (claimed,) = world.claim(world.dispatched())
    world.service.cancel(str(claimed.id))
    world.advance(2 * LEASE)
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).cancelled == 1
    assert world.states_of(job) == ["CANCELLED"]


def test_lost_attempt_that_was_to_be_cancelled_and_may_have_had_its_effect_is_unknown(world: TimedScene) -> None:
    job = world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME)
    world.service.cancel(str(claimed.id))
    world.advance(2 * LEASE)
    rescued = world.dispatch.rescue(grace=NO_TIME, spare=None)
    assert (rescued.unknown, rescued.cancelled) == (1, 0)
    assert world.states_of(job) == ["UNKNOWN"]


def test_lost_attempt_of_a_deleted_job_fails(world: TimedScene) -> None:
    job = world.due()
    world.claim(world.dispatched())
    world.service.delete(str(job.id))
    world.advance(2 * LEASE)
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).failed == 1
    assert world.states_of(job) == ["FAILED"]


def test_rescue_that_ends_an_execution_promotes_the_one_that_waits(world: TimedScene) -> None:
    job = world.due(interval_seconds=100, overlap="queue", retry={"max_attempts": 1})
    ids = world.dispatched()
    world.claim(ids, lease=timedelta(seconds=150))
    world.make_due(job)
    world.dispatched()
    assert world.states_of(job) == ["RUNNING", "WAITING"]
    world.advance(timedelta(seconds=55))
    rescued = world.dispatch.rescue(grace=NO_TIME, spare=None)
    assert (rescued.failed, rescued.promoted, rescued.total) == (1, 1, 2)
    assert world.states_of(job) == ["FAILED", "PENDING"]


@pytest.mark.parametrize(
    ("max_attempts", "longest"),
    [
        (1, []),
        (2, [30]),  # the last attempt: no other chance to get past a neighbour that ends its workers
        (3, [0, 90]),
        (4, [0, 30, 270]),
        (6, [0, 30, 90, 270, 900]),  # 2430, but for the limit
    ],
)
def test_losses_are_spread_ever_wider_until_the_attempts_are_used_up(
    world: TimedScene, max_attempts: int, longest: list[int]
) -> None:
    world.make_due(*[world.create(interval_seconds=86_400, retry={"max_attempts": max_attempts}) for _ in range(100)])
    ids = world.dispatched()
    for bound in longest:
        waited = waits(world, lost(world, ids))
        assert len(waited) == 100
        if bound:
            assert 0.8 * bound < max(waited) <= bound  # by chance less once in 5 billion
            assert sum(waited) / 100 == pytest.approx(bound / 2, rel=0.35)
        else:
            assert max(waited) == 0
        world.advance(timedelta(seconds=bound + 1))
    ended = lost(world, ids)
    assert {(one.state, one.error_code, one.failures) for one in ended} == {(State.FAILED, "lost", max_attempts)}


def test_execution_is_not_published_before_its_spread_has_passed(world: TimedScene) -> None:
    world.due(interval_seconds=86_400, retry={"max_attempts": 2})
    ids = world.dispatched()
    (execution,) = lost(world, ids, spread=timedelta(minutes=10))
    ahead: datetime | None = world.dispatch.horizon().at
    assert ahead is not None
    assert abs((ahead - execution.available_at).total_seconds()) < 0.001
    world.advance(timedelta(minutes=10))
    assert world.dispatch.republish(limit=10) == {"io": ids}


def test_failures_that_are_no_losses_do_not_delay_the_first_rescue(world: TimedScene) -> None:
    world.due(retry={"max_attempts": 5})
    (first,) = world.claim(world.dispatched())
    world.executions.record([record(first, State.PENDING, error_code="timeout")])
    assert waits(world, lost(world, [first.id])) == [0]


def test_execution_that_was_lost_repeatedly_names_all_the_workers_it_was_lost_with(world: TimedScene) -> None:
    world.due(retry={"max_attempts": 3})
    ids = world.dispatched()
    for worker in ("one", "two", "three"):
        (execution,) = lost(world, ids, worker=worker)
        world.advance(timedelta(minutes=5))
    assert (execution.state, execution.error_code) == (State.FAILED, "lost")
    assert execution.error_message == "lost 3 times: the workers one, two, three did not renew their leases"


def test_workers_with_long_names_are_named_as_far_as_there_is_room(world: TimedScene) -> None:
    world.due(retry={"max_attempts": 20})
    ids = world.dispatched()
    for _ in range(5):
        (execution,) = lost(world, ids, worker="w" * 200)
        world.advance(timedelta(minutes=16))
    assert len(execution.error_message or "") == 500


def test_losses_are_tallied(world: TimedScene) -> None:
    world.due(retry={"max_attempts": 2})
    ids = world.dispatched()
    lost(world, ids)
    world.advance(timedelta(minutes=5))
    lost(world, ids)
    tallies = {tally.outcome: tally for tally in world.history.tallies()}
    assert {outcome: tally.count for outcome, tally in tallies.items()} == {"FAILED": 1, "lost": 1, "started": 1}
    assert tallies["lost"].duration_buckets[12] == 1  # 30 s < 31 s <= 60 s
