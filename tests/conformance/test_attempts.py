"""C, S, W, L and leases: who holds an attempt, and what becomes of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from support.timed import TICK, TimedScene, together
from support.world import LEASE, record, token

from gnomon.job.model import State
from gnomon.job.ports import Claimed, ExecutionQuery, Token, Unrecordable

NO_TIME = timedelta(0)


@pytest.fixture
def claimed(world: TimedScene) -> Claimed:
    """The first attempt of the only execution."""
    world.due()
    return world.claim(world.dispatched())[0]


def state_of(world: TimedScene, claimed: Claimed) -> State:
    return world.history.get(claimed.id).state


def test_execution_is_claimed_once_however_many_messages_name_it(world: TimedScene) -> None:
    job = world.due()
    ids = world.dispatched()
    (first,) = world.claim([*ids, *ids])
    (execution,) = world.history_of(job)
    assert (first.id, first.attempt, first.failures) == (ids[0], 1, 0)
    assert (first.job_id, first.revision, first.scheduled_at) == (job.id, 1, execution.scheduled_at)
    assert (execution.state, execution.attempt, execution.worker) == (State.RUNNING, 1, "worker-1")
    assert execution.first_started_at == execution.claimed_at
    assert execution.first_started_at is not None
    assert world.claim(ids) == []


def test_many_workers_claim_each_execution_once(world: TimedScene) -> None:
    world.make_due(*[world.create() for _ in range(100)])
    ids = world.dispatched()
    taken: list[Claimed] = []
    together(*[lambda: taken.extend(world.claim(ids))] * 6)
    assert sorted(one.id for one in taken) == sorted(ids)


def test_claim_whose_reply_was_lost_is_recognised_by_its_delivery(world: TimedScene) -> None:
    world.due()
    ids, delivery = world.dispatched(), uuid4()
    first = world.claim(ids, delivery=delivery)
    assert world.claim(ids, delivery=delivery) == first
    assert world.history.get(ids[0]).attempt == 1


def test_second_message_of_a_delivery_brings_what_is_new_and_what_was_claimed(world: TimedScene) -> None:
    world.make_due(*[world.create() for _ in range(2)])
    ids, delivery = world.dispatched(), uuid4()
    world.claim(ids[:1], delivery=delivery)
    both = world.claim(ids, delivery=delivery)
    assert sorted((one.id, one.attempt) for one in both) == sorted((one, 1) for one in ids)


def test_unknown_ids_are_dropped(world: TimedScene) -> None:
    assert world.claim([uuid4(), uuid4()]) == []
    assert world.claim([]) == []


def test_nothing_is_claimed_before_it_is_available(world: TimedScene, claimed: Claimed) -> None:
    world.executions.record([record(claimed, State.PENDING, delay=timedelta(seconds=60))])
    world.advance(timedelta(seconds=50))
    assert world.claim([claimed.id]) == []
    world.advance(timedelta(seconds=15))
    (again,) = world.claim([claimed.id])
    assert (again.attempt, again.failures) == (2, 1)


def test_definition_is_the_revision_the_execution_was_born_with(world: TimedScene, claimed: Claimed) -> None:
    world.service.update(str(claimed.job_id), {"http_job": {"url": "https://example.com/new"}})
    keys = [(claimed.job_id, 1), (claimed.job_id, 2), (claimed.job_id, 3), (uuid4(), 1)]
    found = world.executions.definitions(keys)
    assert {key: definition.target.url for key, definition in found.items()} == {
        keys[0]: "http://127.0.0.1:9/hook",
        keys[1]: "https://example.com/new",
    }


def test_definition_of_a_deleted_job_is_there_for_what_still_runs(world: TimedScene, claimed: Claimed) -> None:
    world.service.delete(str(claimed.job_id))
    assert world.executions.definitions([(claimed.job_id, 1)]).keys() == {(claimed.job_id, 1)}


def test_only_the_holder_of_the_lease_may_start_an_effect(world: TimedScene) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    start = world.executions.start
    assert start([token(claimed)], delivery=uuid4(), margin=NO_TIME) == set()
    assert start([token(claimed)], delivery=delivery, margin=2 * LEASE) == set()
    assert start([Token(id=claimed.id, attempt=2)], delivery=delivery, margin=NO_TIME) == set()
    assert start([token(claimed)], delivery=delivery, margin=LEASE / 2) == {claimed.id}
    world.advance(2 * LEASE)
    assert start([token(claimed)], delivery=delivery, margin=NO_TIME) == set()


def test_record_ends_the_execution_with_what_was_said(world: TimedScene, claimed: Claimed) -> None:
    world.advance(timedelta(seconds=3))
    said = record(
        claimed, State.FAILED, error_code="http_status", error_message="no", response_status=500, response_excerpt="é"
    )
    assert world.executions.record([said]) == {claimed.id}
    ended = world.history.get(claimed.id)
    assert (ended.state, ended.failures, ended.attempt, ended.attempts) == (State.FAILED, 1, 1, ())
    assert (ended.error_code, ended.error_message) == ("http_status", "no")
    assert (ended.response_status, ended.response_excerpt) == (500, "é")
    assert ended.duration is not None
    assert timedelta(seconds=2) < ended.duration < timedelta(seconds=10)


@pytest.mark.parametrize("final", [State.SUCCEEDED, State.FAILED, State.UNKNOWN, State.CANCELLED])
def test_final_state_never_changes_again(world: TimedScene, final: State) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    world.executions.record([record(claimed, final)])
    ended = world.history.get(claimed.id)
    assert ended.state is final
    for state in (State.SUCCEEDED, State.FAILED, State.PENDING):
        assert world.executions.record([record(claimed, state)]) == set()
    assert world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME) == set()
    assert world.executions.renew([token(claimed)], lease=LEASE) == set()
    assert world.executions.release([token(claimed)], delay=NO_TIME) == set()
    assert world.claim([claimed.id], delivery=delivery) == []
    world.advance(timedelta(minutes=10))
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).total == 0
    assert world.history.get(claimed.id) == ended


def test_outcome_of_what_nobody_claimed_is_refused(world: TimedScene) -> None:
    job = world.due()
    (execution_id,) = world.dispatched()
    never = Claimed(id=execution_id, attempt=0, job_id=job.id, revision=1, failures=0, scheduled_at=world.now())
    for attempt in (0, 1):
        stale = replace(never, attempt=attempt)
        assert world.executions.record([record(stale)]) == set()
        assert world.executions.release([token(stale)], delay=NO_TIME) == set()
        assert world.executions.renew([token(stale)], lease=LEASE) == set()
        assert world.executions.cancel_requested([token(stale)]) == set()
    assert world.states_of(job) == ["PENDING"]
    assert world.executions.record([record(replace(never, id=uuid4(), attempt=1))]) == set()


@pytest.mark.parametrize("ended_by", ["rescue", "release", "record"])
def test_token_of_an_attempt_that_was_followed_by_another_is_stale(
    world: TimedScene, claimed: Claimed, ended_by: str
) -> None:
    ends: dict[str, Callable[[], object]] = {
        "rescue": lambda: world.dispatch.rescue(grace=NO_TIME, spare=None),
        "release": lambda: world.executions.release([token(claimed)], delay=NO_TIME),
        "record": lambda: world.executions.record([record(claimed, State.PENDING)]),
    }
    world.advance(2 * LEASE)
    ends[ended_by]()
    delivery = uuid4()
    (second,) = world.claim([claimed.id], delivery=delivery)
    before = world.history.get(claimed.id)
    assert second.attempt == 2
    assert world.executions.record([record(claimed)]) == set()
    assert world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME) == set()
    assert world.executions.renew([token(claimed)], lease=LEASE) == set()
    assert world.executions.release([token(claimed)], delay=NO_TIME) == set()
    assert world.history.get(claimed.id) == before
    assert world.executions.record([record(second)]) == {claimed.id}


def test_attempt_whose_lease_ended_still_tells_the_truth_unless_rescued(world: TimedScene, claimed: Claimed) -> None:
    world.advance(2 * LEASE)
    assert world.executions.record([record(claimed)]) == {claimed.id}
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).total == 0


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.PENDING])
def test_record_whose_reply_was_lost_is_recognised_by_its_owner(world: TimedScene, state: State) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    outcome = record(claimed, state, owner=delivery)
    assert world.executions.recorded_before([outcome]) == set()
    assert world.executions.record([outcome]) == {claimed.id}
    assert world.executions.record([outcome]) == set()
    assert world.executions.recorded_before([outcome]) == {claimed.id}
    assert world.executions.recorded_before([record(claimed, owner=uuid4())]) == set()


@pytest.mark.parametrize("taken_over_by", ["rescue", "release"])
def test_outcome_that_came_too_late_is_not_mistaken_for_one_whose_reply_was_lost(
    world: TimedScene, taken_over_by: str
) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    if taken_over_by == "rescue":
        world.advance(2 * LEASE)
        world.dispatch.rescue(grace=NO_TIME, spare=None)
    else:
        world.executions.release([token(claimed)], delay=NO_TIME)
    outcome = record(claimed, owner=delivery)
    assert world.executions.record([outcome]) == set()
    assert world.executions.recorded_before([outcome]) == set()


def test_failed_attempt_is_kept_and_the_execution_waits_for_its_next_try(world: TimedScene, claimed: Claimed) -> None:
    again = record(claimed, State.PENDING, delay=timedelta(seconds=60), error_code="http_status", response_status=500)
    world.executions.record([again])
    execution = world.history.get(claimed.id)
    assert (execution.state, execution.failures, execution.finished_at) == (State.PENDING, 1, None)
    (attempt,) = execution.attempts
    assert (attempt.attempt, attempt.outcome, attempt.worker) == (1, "FAILED", "worker-1")
    assert (attempt.error_code, attempt.response_status) == ("http_status", 500)
    assert attempt.claimed_at == execution.claimed_at
    assert execution.available_at - attempt.finished_at == timedelta(seconds=60)


def test_failure_after_the_last_allowed_attempt_is_final_whatever_the_worker_thinks(world: TimedScene) -> None:
    job = world.due(retry={"max_attempts": 2})
    ids = world.dispatched()
    for state in ("PENDING", "FAILED"):
        (claimed,) = world.claim(ids)
        world.executions.record([record(claimed, State.PENDING, error_code="timeout")])
        assert world.states_of(job) == [state]


def test_attempt_that_is_broken_off_counts_no_failure(world: TimedScene, claimed: Claimed) -> None:
    world.executions.record([replace(record(claimed, State.PENDING), failed=False)])
    (again,) = world.claim([claimed.id])
    assert (again.attempt, again.failures) == (2, 0)


def test_retry_of_a_cancelled_execution_ends_cancelled(world: TimedScene, claimed: Claimed) -> None:
    world.service.cancel(str(claimed.id))
    assert world.executions.cancel_requested([token(claimed)]) == {claimed.id}
    assert world.executions.cancel_requested([Token(id=claimed.id, attempt=2)]) == set()
    world.executions.record([record(claimed, State.PENDING)])
    assert state_of(world, claimed) is State.CANCELLED


def test_success_that_was_quicker_than_its_cancellation_stays_a_success(world: TimedScene, claimed: Claimed) -> None:
    world.service.cancel(str(claimed.id))
    world.executions.record([record(claimed)])
    assert state_of(world, claimed) is State.SUCCEEDED


@pytest.mark.parametrize("failed", [True, False])
def test_attempt_of_a_deleted_job_gets_no_other(world: TimedScene, claimed: Claimed, failed: bool) -> None:
    world.service.delete(str(claimed.job_id))
    world.executions.record([replace(record(claimed, State.PENDING, error_code="timeout"), failed=failed)])
    assert state_of(world, claimed) is State.FAILED


def test_attempt_of_a_deleted_job_that_is_given_back_gets_no_other(world: TimedScene, claimed: Claimed) -> None:
    world.service.delete(str(claimed.job_id))
    assert world.executions.release([token(claimed)], delay=NO_TIME) == {claimed.id}
    ended = world.history.get(claimed.id)
    assert ended.state is State.CANCELLED
    assert ended.finished_at is not None


def test_attempt_that_was_to_be_cancelled_and_is_given_back_ends(world: TimedScene, claimed: Claimed) -> None:
    world.service.cancel(str(claimed.id))
    assert world.executions.release([token(claimed)], delay=NO_TIME) == {claimed.id}
    assert state_of(world, claimed) is State.CANCELLED


def test_recording_many_promotes_what_waits_behind_each(world: TimedScene) -> None:
    jobs = [world.create(interval_seconds=10, overlap="queue") for _ in range(50)]
    world.make_due(*jobs)
    ids = world.dispatched()
    world.make_due(*jobs)
    world.dispatched()
    written = world.executions.record([record(one) for one in world.claim(ids)])
    assert written == set(ids)
    query = ExecutionQuery(limit=200)
    assert sorted(one.state.value for one in world.history.list(None, query).items) == (
        ["PENDING"] * 50 + ["SUCCEEDED"] * 50
    )


def test_texts_that_a_store_refuses_do_not_stop_the_outcome(world: TimedScene, claimed: Claimed) -> None:
    poison = record(claimed, State.FAILED, error_code="x", error_message="half a pair: \ud800, and a NUL: \x00")
    try:
        written = world.executions.record([poison])
    except Unrecordable:
        assert state_of(world, claimed) is State.RUNNING
        written = world.executions.record([poison.without_texts()])
    assert written == {claimed.id}
    assert state_of(world, claimed) is State.FAILED


def test_lease_is_renewed_for_the_newest_attempt_only(world: TimedScene, claimed: Claimed) -> None:
    assert world.executions.renew([token(claimed)], lease=timedelta(hours=1)) == {claimed.id}
    world.advance(timedelta(minutes=59))
    assert world.dispatch.rescue(grace=NO_TIME, spare=None).total == 0
    job = world.service.get(str(claimed.job_id))
    assert job.locked_by == "worker-1"
    assert job.locked_until is not None
    assert timedelta(seconds=50) < job.locked_until - world.now() <= timedelta(seconds=70)
    world.executions.record([record(claimed)])
    assert world.executions.renew([token(claimed)], lease=LEASE) == set()
    after = world.service.get(str(claimed.job_id))
    assert (after.locked_by, after.locked_until, after.last_run) == (None, None, claimed.scheduled_at)


def test_released_execution_is_due_again_and_counts_no_failure(world: TimedScene, claimed: Claimed) -> None:
    assert world.executions.release([token(claimed)], delay=timedelta(seconds=30)) == {claimed.id}
    assert world.executions.release([token(claimed)], delay=NO_TIME) == set()
    assert world.dispatch.republish(limit=10) == {}
    assert world.claim([claimed.id]) == []
    world.advance(timedelta(seconds=35))
    assert world.dispatch.republish(limit=10) == {"io": [claimed.id]}
    (again,) = world.claim([claimed.id])
    assert (again.attempt, again.failures) == (2, 0)
    assert world.history.get(claimed.id).attempts == ()


def test_attempt_whose_effect_may_have_started_can_not_be_released(world: TimedScene) -> None:
    world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME)
    assert world.executions.release([token(claimed)], delay=NO_TIME) == set()


def test_attempt_after_one_that_had_started_has_not_started_yet(world: TimedScene) -> None:
    world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    world.executions.start([token(claimed)], delivery=delivery, margin=NO_TIME)
    world.executions.record([record(claimed, State.PENDING)])  # it is known that nothing was sent
    (again,) = world.claim([claimed.id])
    assert world.executions.release([token(again)], delay=NO_TIME) == {claimed.id}


def test_tallies_count_the_whole_fleet(world: TimedScene) -> None:
    world.make_due(*[world.create() for _ in range(4)])
    ids = world.dispatched()
    for name, part in (("a", ids[:2]), ("b", ids[2:])):
        store = world.worker(name)
        taken = store.claim(part, delivery=uuid4(), lease=LEASE)
        store.record([record(taken[0]), record(taken[1], State.PENDING)])
    world.advance(TICK)
    world.claim(ids)  # second attempts are not counted as started
    tallies = {tally.outcome: tally for tally in world.history.tallies()}
    assert {outcome: tally.count for outcome, tally in tallies.items()} == {"SUCCEEDED": 2, "retried": 2, "started": 4}
    assert {tally.kind for tally in tallies.values()} == {"HTTP"}
    assert tallies["SUCCEEDED"].duration_sum == pytest.approx(0.04)
    assert list(tallies["SUCCEEDED"].duration_buckets) == [0, 0, 2] + [0] * 13  # 0.01 s < 0.02 s <= 0.025 s
    assert sum(tallies["started"].duration_buckets) == 0
