"""C, S, W, L and the renewal of leases on a real Postgres."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from support.world import LEASE, World, record, token

from gnomon.job.errors import Unavailable
from gnomon.job.model import State
from gnomon.job.ports import Claimed, Unrecordable

NO_GRACE = timedelta(0)


@pytest.fixture
def claimed(world: World) -> Claimed:
    """The first attempt of the only execution."""
    world.due()
    return world.claim(world.dispatched())[0]


def test_execution_is_claimed_once_however_many_messages_name_it(world: World) -> None:
    world.due()
    ids = world.dispatched()
    first = world.claim([*ids, *ids])
    assert [one.attempt for one in first] == [1]
    assert world.claim(ids) == []


def test_many_workers_claim_each_execution_once(world: World) -> None:
    world.make_due(*[world.create() for _ in range(200)])
    ids = world.dispatched()
    taken: list[Claimed] = []
    threads = [threading.Thread(target=lambda: taken.extend(world.claim(ids))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.id for one in taken) == sorted(ids)


def test_claim_whose_reply_was_lost_is_recognised_by_its_delivery(world: World) -> None:
    world.due()
    ids, delivery = world.dispatched(), uuid4()
    first = world.claim(ids, delivery=delivery)
    assert world.claim(ids, delivery=delivery) == first
    assert world.one("select attempt from executions") == 1


def test_unknown_ids_are_dropped(world: World) -> None:
    assert world.claim([uuid4(), uuid4()]) == []


def test_nothing_is_claimed_before_it_is_available(world: World) -> None:
    world.due()
    ids = world.dispatched()
    world.sql("update executions set available_at = now() + interval '1 s'")
    assert world.claim(ids) == []


def test_definition_is_the_revision_the_execution_was_born_with(world: World, claimed: Claimed) -> None:
    world.service.update(str(claimed.job_id), {"http_job": {"url": "https://example.com/new"}})
    key = (claimed.job_id, claimed.revision)
    assert world.executions.definitions([key])[key].target.url == "http://127.0.0.1:9/hook"


def test_definition_that_can_not_be_read_is_left_out_and_named_in_the_log(
    world: World, claimed: Claimed, caplog: pytest.LogCaptureFixture
) -> None:
    world.sql("""update job_revisions set definition = '{"type": "HTTP"}'""")
    assert world.executions.definitions([(claimed.job_id, 1)]) == {}
    assert str(claimed.job_id) in caplog.text


def test_only_the_holder_of_the_lease_may_start_an_effect(world: World) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    start = world.executions.start
    assert start([token(claimed)], delivery=uuid4(), margin=NO_GRACE) == set()
    assert start([token(claimed)], delivery=delivery, margin=2 * LEASE) == set()
    assert start([token(claimed)], delivery=delivery, margin=NO_GRACE) == {claimed.id}


def test_outcome_of_an_attempt_that_was_taken_over_is_refused(world: World, claimed: Claimed) -> None:
    world.sql("update executions set lease_expires_at = now() - interval '1 s'")
    world.dispatch.rescue(grace=NO_GRACE, spare=None)
    (second,) = world.claim([claimed.id])
    assert world.executions.record([record(claimed)]) == set()
    assert world.executions.record([record(second)]) == {claimed.id}


def test_attempt_whose_lease_ended_still_tells_the_truth_unless_rescued(world: World, claimed: Claimed) -> None:
    world.sql("update executions set lease_expires_at = now() - interval '1 s'")
    assert world.executions.record([record(claimed)]) == {claimed.id}


def test_record_whose_reply_was_lost_is_recognised_by_its_owner(world: World) -> None:
    world.due()
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    outcome = record(claimed, owner=delivery)
    assert world.executions.record([outcome]) == {claimed.id}
    assert world.executions.record([outcome]) == set()
    assert world.executions.recorded_before([outcome]) == {claimed.id}
    assert world.executions.recorded_before([record(claimed, owner=uuid4())]) == set()


def test_failed_attempt_is_kept_and_the_execution_waits_for_its_next_try(world: World, claimed: Claimed) -> None:
    again = record(claimed, State.PENDING, delay=timedelta(seconds=60), error_code="http_status", response_status=500)
    world.executions.record([again])
    assert world.claim([claimed.id]) == []
    job = world.service.get(str(claimed.job_id))
    (execution,) = world.history_of(job)
    assert (execution.state, execution.failures) == (State.PENDING, 1)
    assert [(a.attempt, a.error_code, a.response_status) for a in execution.attempts] == [(1, "http_status", 500)]
    assert timedelta(seconds=59) < execution.available_at - execution.attempts[0].finished_at <= timedelta(seconds=60)


def test_failure_after_the_last_allowed_attempt_is_final_whatever_the_worker_thinks(world: World) -> None:
    job = world.due(retry={"max_attempts": 1})
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed, State.PENDING, error_code="timeout")])
    assert world.states_of(job) == ["FAILED"]


def test_retry_of_a_cancelled_execution_ends_cancelled(world: World, claimed: Claimed) -> None:
    world.sql("update executions set cancel_requested_at = now()")
    assert world.executions.cancel_requested([token(claimed)]) == {claimed.id}
    world.executions.record([record(claimed, State.PENDING)])
    assert world.one("select state from executions") == "CANCELLED"


def test_success_that_was_quicker_than_its_cancellation_stays_a_success(world: World, claimed: Claimed) -> None:
    world.sql("update executions set cancel_requested_at = now()")
    world.executions.record([record(claimed)])
    assert world.one("select state from executions") == "SUCCEEDED"


def test_deleted_job_gets_no_other_attempt(world: World, claimed: Claimed) -> None:
    world.service.delete(str(claimed.job_id))
    world.executions.record([record(claimed, State.PENDING, error_code="timeout")])
    assert world.one("select state from executions") == "FAILED"


def test_attempt_of_a_deleted_job_that_its_worker_breaks_off_gets_no_other(world: World, claimed: Claimed) -> None:
    world.service.delete(str(claimed.job_id))
    world.executions.record([replace(record(claimed, State.PENDING), failed=False)])
    assert world.one("select state from executions") == "FAILED"


def test_attempt_of_a_deleted_job_that_is_given_back_gets_no_other(world: World, claimed: Claimed) -> None:
    world.service.delete(str(claimed.job_id))
    assert world.executions.release([token(claimed)], delay=NO_GRACE) == {claimed.id}
    assert world.one("select state from executions") == "CANCELLED"
    assert world.one("select finished_at from executions") is not None


def test_deleting_a_job_cancels_what_has_not_started(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    world.dispatched()
    world.sql("update jobs set next_run = now()")
    world.dispatched()
    world.service.delete(str(job.id))
    assert world.states_of(job) == ["CANCELLED", "CANCELLED"]
    assert world.dispatched() == []


def test_recording_many_writes_all_in_one_statement(world: World) -> None:
    jobs = [world.create(interval_seconds=10, overlap="queue") for _ in range(50)]
    world.make_due(*jobs)
    ids = world.dispatched()
    world.sql("update jobs set next_run = now()")
    world.dispatched()
    claimed = world.claim(ids)
    written = world.executions.record([record(one) for one in claimed])
    assert written == set(ids)
    assert world.one("select count(*) from executions where state = 'SUCCEEDED'") == 50
    assert world.one("select count(*) from executions where state = 'PENDING'") == 50  # what waited is due


def test_texts_that_the_database_refuses_make_the_group_unrecordable(world: World, claimed: Claimed) -> None:
    poison = record(claimed, State.FAILED, error_code="x", error_message="half a pair: \ud800, and a NUL: \x00")
    with pytest.raises(Unrecordable):
        world.executions.record([poison])
    assert world.executions.record([poison.without_texts()]) == {claimed.id}
    assert world.one("select error_code from executions") == "unrecordable"


def test_lease_is_renewed_for_the_newest_attempt_only(world: World, claimed: Claimed) -> None:
    assert world.executions.renew([token(claimed)], lease=timedelta(hours=1)) == {claimed.id}
    assert world.one("select lease_expires_at > now() + interval '59 minutes' from executions")
    world.executions.record([record(claimed)])
    assert world.executions.renew([token(claimed)], lease=LEASE) == set()


def test_released_execution_is_due_again_and_counts_no_failure(world: World, claimed: Claimed) -> None:
    assert world.executions.release([token(claimed)], delay=timedelta(0)) == {claimed.id}
    (again,) = world.claim([claimed.id])
    assert (again.attempt, again.failures) == (2, 0)
    assert world.executions.release([token(claimed)], delay=timedelta(0)) == set()


def test_attempt_whose_effect_may_have_started_can_not_be_released(world: World) -> None:
    world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    world.executions.start([token(claimed)], delivery=delivery, margin=NO_GRACE)
    assert world.executions.release([token(claimed)], delay=timedelta(0)) == set()


def lose(world: World, ids: Sequence[UUID], *, worker: str, spread: timedelta = timedelta(seconds=30)) -> list[float]:
    """Loses an attempt of each; how many seconds until each may be claimed again."""
    claimed = world.worker(worker).claim(ids, delivery=uuid4(), lease=LEASE)
    assert len(claimed) == len(ids)
    world.sql("update executions set lease_expires_at = now() - interval '1 s' where state = 'RUNNING'")
    world.dispatch.rescue(grace=NO_GRACE, spare=None, spread=spread)
    rows = world.sql(
        "update executions e set available_at = now(), next_publish_at = now() from executions old "
        "where e.id = old.id and e.state = 'PENDING' returning old.available_at - now() as left, old.next_publish_at "
        "- now() as heard"
    )
    assert all(abs((row.left - row.heard).total_seconds()) < 0.001 for row in rows)
    return [max(0.0, row.left.total_seconds()) for row in rows]


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
    world: World, max_attempts: int, longest: list[int]
) -> None:
    world.make_due(*[world.create(retry={"max_attempts": max_attempts}) for _ in range(100)])
    ids = world.dispatched()
    for bound in longest:
        waits = lose(world, ids, worker="w")
        assert len(waits) == 100
        if bound:
            assert 0.8 * bound < max(waits) <= bound  # by chance less once in 5 billion
            assert sum(waits) / 100 == pytest.approx(bound / 2, rel=0.35)
        else:
            assert max(waits) == 0
    assert lose(world, ids, worker="w") == []
    assert world.one("select count(*) from executions where state = 'FAILED' and error_code = 'lost'") == 100


def test_failures_that_are_no_losses_do_not_delay_the_first_rescue(world: World) -> None:
    world.due(retry={"max_attempts": 5})
    (first,) = world.claim(world.dispatched())
    world.executions.record([record(first, State.PENDING, error_code="timeout")])
    assert lose(world, [first.id], worker="w") == [0]


def test_execution_that_was_lost_repeatedly_names_all_the_workers_it_was_lost_with(world: World) -> None:
    job = world.due(retry={"max_attempts": 3})
    ids = world.dispatched()
    for worker in ("one", "two", "three"):
        lose(world, ids, worker=worker)
    (execution,) = world.history_of(job)
    assert (execution.state, execution.error_code) == (State.FAILED, "lost")
    assert execution.error_message == "lost 3 times: the workers one, two, three did not renew their leases"


def test_workers_with_long_names_are_named_as_far_as_there_is_room(world: World) -> None:
    job = world.due(retry={"max_attempts": 20})
    ids = world.dispatched()
    for _ in range(5):
        lose(world, ids, worker="w" * 200)
    assert len(world.history_of(job)[0].error_message or "") == 500


def test_tallies_count_the_whole_fleet(world: World) -> None:
    world.make_due(*[world.create() for _ in range(4)])
    ids = world.dispatched()
    for name, part in (("a", ids[:2]), ("b", ids[2:])):
        store = world.worker(name)
        taken = store.claim(part, delivery=uuid4(), lease=LEASE)
        store.record([record(taken[0]), record(taken[1], State.PENDING)])
    tallies = {tally.outcome: tally for tally in world.history.tallies()}
    assert {outcome: tally.count for outcome, tally in tallies.items()} == {"SUCCEEDED": 2, "retried": 2, "started": 4}
    assert tallies["SUCCEEDED"].duration_sum == pytest.approx(0.04)
    assert sum(tallies["SUCCEEDED"].duration_buckets) == 2
    assert tallies["SUCCEEDED"].duration_buckets[2] == 2  # 0.01 s < 0.02 s <= 0.025 s


def test_store_without_its_server_is_unavailable_and_shows_no_password() -> None:
    absent = World("postgresql://someone:canary@127.0.0.1:1/none")
    with pytest.raises(Unavailable) as raised:
        absent.claim([uuid4()])
    assert "canary" not in str(raised.value)
    absent.close()
