"""D, R1 and R2 on a real Postgres."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from support.world import World, record, token

from gnomon.job.errors import Contended
from gnomon.job.ids import scheduled_id
from gnomon.job.model import State, Trigger
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Hold
from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.postgres import dispatch as dispatch_module
from gnomon.storage.postgres.births import insert_executions
from gnomon.storage.postgres.dispatch import PostgresDispatchStore

NO_GRACE = timedelta(0)
SHORT = timedelta(seconds=-1)  # a lease that has ended already


def test_due_job_becomes_one_pending_execution_with_the_id_of_its_moment(world: World) -> None:
    job = world.create()
    moment = world.make_due(job)
    assert world.dispatched() == [scheduled_id(job.id, moment)]
    assert world.states_of(job) == ["PENDING"]
    assert world.service.get(str(job.id)).next_run == moment + timedelta(hours=1)


def test_job_that_is_not_due_stays_untouched(world: World) -> None:
    job = world.create()
    assert world.dispatched() == []
    assert world.service.get(str(job.id)).next_run == job.next_run


def test_one_off_job_is_completed_as_soon_as_its_execution_exists(world: World) -> None:
    job = world.create(delay_seconds=0)
    assert len(world.dispatched()) == 1
    after = world.service.get(str(job.id))
    assert (after.status.value, after.next_run) == ("COMPLETED", None)


def test_occurrence_is_skipped_while_another_is_unfinished(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="skip")
    world.dispatched()
    world.sql("update jobs set next_run = now()")
    assert world.dispatched() == []
    assert world.states_of(job) == ["PENDING", "SKIPPED"]
    skipped = world.history_of(job)[0]
    assert (skipped.error_code, skipped.skipped_count, skipped.skipped_until) == ("overlap", 1, skipped.scheduled_at)


def test_queueing_job_keeps_one_occurrence_waiting_and_skips_later_ones(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    first = world.dispatched()
    for _ in range(2):
        world.sql("update jobs set next_run = now()")
        assert world.dispatched() == []
    assert world.states_of(job) == ["PENDING", "WAITING", "SKIPPED"]
    world.executions.record([record(world.claim(first)[0])])
    assert world.states_of(job) == ["SUCCEEDED", "PENDING", "SKIPPED"]


def test_overlapping_occurrences_run_side_by_side_where_the_job_allows_it(world: World) -> None:
    job = world.create(interval_seconds=10, overlap="allow")
    world.make_due(job, ago=25)
    assert len(world.dispatched()) == 3
    assert world.states_of(job) == ["PENDING"] * 3


def test_made_up_misfires_run_one_after_the_other_oldest_first(world: World) -> None:
    policy = {"policy": "run_all", "grace_seconds": 8, "limit": 2}
    job = world.create(interval_seconds=10, misfire=policy)
    world.make_due(job, ago=45)  # 45, 35, 25, 15 s are misfires: two run, two are skipped; 5 s ago overlaps
    first = world.dispatched()
    assert world.states_of(job) == ["PENDING", "WAITING", "SKIPPED", "SKIPPED"]
    assert [e.skipped_count for e in reversed(world.history_of(job))] == [0, 0, 2, 1]
    world.executions.record([record(world.claim(first)[0])])
    assert world.states_of(job)[:2] == ["SUCCEEDED", "PENDING"]


def test_executions_and_skips_add_up_to_the_moments_of_an_outage(world: World) -> None:
    job = world.create(interval_seconds=10)
    world.make_due(job, ago=10_000)
    world.dispatched()
    history = world.history_of(job)
    assert sum(e.skipped_count or 1 for e in history) == 1001  # 0, 10, …, 10,000 s ago


def test_job_on_time_is_dispatched_before_one_that_is_behind(world: World) -> None:
    late, fresh = world.create(), world.create()
    world.make_due(late, ago=86_400)
    world.make_due(fresh)
    batches: list[Sequence[DueJob]] = []

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        batches.append(jobs)
        return plan_batch(jobs, now)

    world.dispatch.dispatch(decide, limit=1000)
    assert [job.id for job in batches[0]] == [fresh.id, late.id]


def test_job_behind_gets_its_share_even_when_the_batch_is_full_of_jobs_on_time(world: World) -> None:
    late = world.create()
    world.make_due(late, ago=86_400)
    world.make_due(*[world.create() for _ in range(5)])
    world.dispatched(limit=3)
    assert world.states_of(late)


def test_those_that_fell_behind_are_taken_in_small_batches_that_follow_at_once(world: World) -> None:
    late = [world.create() for _ in range(5)]
    world.make_due(*late, ago=86_400)
    batches = []
    while (done := world.dispatch.dispatch(plan_batch, limit=20)).jobs:
        batches.append((done.jobs, done.full))
    assert batches == [(2, True), (2, True), (1, False)]


def test_job_whose_plan_raises_is_held_with_its_reason_and_the_others_go_on(world: World) -> None:
    poison, healthy = world.due(), world.due()

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        plans = plan_batch(jobs, now)
        return [Hold(reason="boom") if job.id == poison.id else plan for job, plan in zip(jobs, plans, strict=True)]

    done = world.dispatch.dispatch(decide, limit=10)
    assert done.held == {poison.id: "boom"}
    held = world.service.get(str(poison.id))
    assert held.hold_reason == "boom"
    assert held.held_until is not None
    assert world.states_of(healthy) == ["PENDING"]
    assert world.dispatch.dispatch(decide, limit=10).jobs == 0  # held, though still due


def test_row_that_can_not_even_be_read_is_held(world: World) -> None:
    poison, healthy = world.due(), world.due()
    world.sql("update jobs set cron_schedule = 'nonsense', interval_seconds = null where id = :id", id=poison.id)
    done = world.dispatch.dispatch(plan_batch, limit=10)
    assert list(done.held) == [poison.id]
    assert world.states_of(healthy) == ["PENDING"]


def test_two_schedulers_share_many_due_jobs_and_each_runs_once(world: World) -> None:
    jobs = [world.create() for _ in range(300)]
    world.make_due(*jobs)
    others = [PostgresDispatchStore(world.engine, instance=uuid4()) for _ in range(2)]
    published: list[object] = []

    def drain(store: PostgresDispatchStore) -> None:
        while (done := store.dispatch(plan_batch, limit=20)).jobs:
            published.extend(execution_id for ids in done.published.values() for execution_id in ids)

    threads = [threading.Thread(target=drain, args=(store,)) for store in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(published) == len(set(published)) == 300
    assert world.one("select count(*) from executions") == 300


def test_nothing_is_booked_when_the_transaction_fails(world: World) -> None:
    job = world.due()

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        world.dispatch.dispatch(decide, limit=10)
    assert world.states_of(job) == []
    assert len(world.dispatched()) == 1


def test_published_execution_is_published_again_when_its_slot_has_passed(world: World) -> None:
    world.due()
    ids = world.dispatched()
    assert world.dispatch.republish(limit=10) == {}
    world.sql("update executions set next_publish_at = now() - interval '1 s'")
    assert world.dispatch.republish(limit=10) == {"io": ids}
    seconds = world.one("select extract(epoch from next_publish_at - now()) from executions")
    assert 29 <= seconds <= 34  # the second slot: 15 s x 2, and up to a tenth of jitter


def test_publish_slots_grow_to_a_quarter_of_an_hour_and_no_further(world: World) -> None:
    world.due()
    world.dispatched()
    world.sql("update executions set next_publish_at = now() - interval '1 s', publish_count = 100")
    world.dispatch.republish(limit=10)
    assert 890 <= world.one("select extract(epoch from next_publish_at - now()) from executions") <= 991


def test_returned_slots_are_due_at_once(world: World) -> None:
    world.due()
    ids = world.dispatched()
    world.dispatch.return_slots(ids)
    assert world.dispatch.republish(limit=10) == {"io": ids}


def test_freed_slots_are_due_at_once(world: World) -> None:
    world.due()
    ids = world.dispatched()
    assert world.dispatch.free_slots() == 1
    assert world.dispatch.republish(limit=10) == {"io": ids}
    assert world.dispatch.free_slots() == 1  # published again, so lost again


def test_slots_are_freed_in_parts_until_all_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "FREED_AT_ONCE", 2)
    world.make_due(*[world.create() for _ in range(5)])
    ids = world.dispatched()
    assert world.dispatch.free_slots() == 5
    assert sorted(world.dispatch.republish(limit=10)["io"]) == sorted(ids)


def test_returned_slot_of_a_later_retry_is_not_due_before_it(world: World) -> None:
    world.due()
    ids = world.dispatched()
    (claimed,) = world.claim(ids)
    world.executions.record([record(claimed, State.PENDING, delay=timedelta(hours=1))])
    world.dispatch.return_slots(ids)
    ahead = world.dispatch.horizon()
    assert ahead.at is not None
    assert ahead.at > ahead.now + timedelta(minutes=30)


def test_lost_attempt_is_requeued_with_a_failure_counted(world: World) -> None:
    job = world.due()
    world.claim(world.dispatched(), lease=SHORT)
    assert world.dispatch.rescue(grace=NO_GRACE, spare=None).requeued == 1
    (execution,) = world.history_of(job)
    assert (execution.state, execution.attempt, execution.failures) == (State.PENDING, 1, 1)
    assert [(a.attempt, a.outcome) for a in execution.attempts] == [(1, "LOST")]


def test_lease_within_its_grace_is_not_rescued(world: World) -> None:
    job = world.due()
    world.claim(world.dispatched(), lease=SHORT)
    assert world.dispatch.rescue(grace=timedelta(seconds=10), spare=None).total == 0
    assert world.states_of(job) == ["RUNNING"]


def test_recent_lease_is_spared_after_an_outage(world: World) -> None:
    world.due()
    world.claim(world.dispatched(), lease=SHORT)
    assert world.dispatch.rescue(grace=NO_GRACE, spare=timedelta(minutes=2)).total == 0
    world.sql("update executions set lease_expires_at = now() - interval '3 minutes'")
    assert world.dispatch.rescue(grace=NO_GRACE, spare=timedelta(minutes=2)).requeued == 1


def test_execution_lost_as_often_as_it_may_be_tried_fails_for_good(world: World) -> None:
    job = world.due(retry={"max_attempts": 2})
    ids = world.dispatched()
    for _ in range(2):
        world.claim(ids, lease=SHORT)
        world.dispatch.rescue(grace=NO_GRACE, spare=None, spread=timedelta(0))
    (execution,) = world.history_of(job)
    assert (execution.state, execution.failures, execution.error_code) == (State.FAILED, 2, "lost")


def test_lost_attempt_whose_effect_may_have_happened_is_unknown(world: World) -> None:
    job = world.due(delivery="at_most_once")
    delivery = uuid4()
    (claimed,) = world.claim(world.dispatched(), delivery=delivery)
    assert world.executions.start([token(claimed)], delivery=delivery, margin=NO_GRACE) == {claimed.id}
    world.sql("update executions set lease_expires_at = now() - interval '1 s'")
    assert world.dispatch.rescue(grace=NO_GRACE, spare=None).unknown == 1
    assert world.states_of(job) == ["UNKNOWN"]


def test_lost_attempt_that_was_to_be_cancelled_is_cancelled(world: World) -> None:
    job = world.due()
    world.claim(world.dispatched(), lease=SHORT)
    world.sql("update executions set cancel_requested_at = now()")
    assert world.dispatch.rescue(grace=NO_GRACE, spare=None).cancelled == 1
    assert world.states_of(job) == ["CANCELLED"]


def test_rescue_that_ends_an_execution_promotes_the_one_that_waits(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="queue", retry={"max_attempts": 1})
    ids = world.dispatched()
    world.sql("update jobs set next_run = now()")
    world.dispatched()
    world.claim(ids, lease=SHORT)
    rescued = world.dispatch.rescue(grace=NO_GRACE, spare=None)
    assert (rescued.failed, rescued.promoted) == (1, 1)
    assert world.states_of(job) == ["FAILED", "PENDING"]


def test_waiting_execution_of_an_idle_job_is_promoted(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    ids = world.dispatched()
    world.sql("update jobs set next_run = now()")
    world.dispatched()
    world.sql("delete from executions where id = :id", id=ids[0])
    assert world.dispatch.rescue(grace=NO_GRACE, spare=None).promoted == 1
    assert world.states_of(job) == ["PENDING"]


def test_horizon_is_the_earliest_of_next_run_and_next_publish(world: World) -> None:
    assert world.dispatch.horizon().at is None
    job = world.create(interval_seconds=100)
    assert world.dispatch.horizon().at == job.next_run
    world.make_due(job)
    world.dispatched()
    ahead = world.dispatch.horizon()
    assert ahead.at is not None
    assert timedelta(seconds=14) < ahead.at - ahead.now <= timedelta(seconds=15)


def test_dispatch_that_waits_for_a_lock_says_that_it_is_contended(world: World) -> None:
    job = world.due(overlap="skip")
    with world.engine.begin() as other:
        other.exec_driver_sql("lock table executions in access exclusive mode")
        with pytest.raises(Contended):
            world.dispatched()
    assert len(world.dispatched()) == 1
    assert world.states_of(job) == ["PENDING"]


def test_locked_job_is_passed_over(world: World) -> None:
    locked, free = world.due(), world.due()
    with world.engine.begin() as other:
        other.exec_driver_sql(f"select 1 from jobs where id = '{locked.id}' for update")
        assert len(world.dispatched()) == 1
    assert world.states_of(free) == ["PENDING"]
    assert len(world.dispatched()) == 1


def test_illegal_transition_is_refused_by_the_database_itself(world: World) -> None:
    world.due()
    ids = world.dispatched()
    for statement, reason in (
        ("update executions set state = 'SUCCEEDED'", "PENDING can not become SUCCEEDED"),
        ("update executions set attempt = 5", "only a claim raises the attempt"),
        ("update executions set state = 'RUNNING', lease_expires_at = now()", "only a claim raises the attempt"),
    ):
        with pytest.raises(Exception, match=reason):
            world.sql(statement)
    world.executions.record([record(world.claim(ids)[0])])
    with pytest.raises(Exception, match="SUCCEEDED can not become PENDING"):
        world.sql("update executions set state = 'PENDING', next_publish_at = now()")


def test_ids_sort_by_moment_and_differ_by_job() -> None:
    job, moment = uuid4(), datetime(2030, 1, 1, tzinfo=UTC)
    ids = [scheduled_id(job, moment + timedelta(milliseconds=step)) for step in range(50)]
    assert ids == sorted(ids)
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    assert Counter([*ids, scheduled_id(uuid4(), moment)]).most_common(1)[0][1] == 1


def test_idle_execution_whose_job_is_being_dispatched_is_promoted_later(world: World) -> None:
    job = world.due(overlap="queue")
    (active,) = world.claim(world.dispatched())
    waiting = world.service.run_now(str(job.id), may_wait=True).execution
    world.sql("update executions set state = 'SUCCEEDED' where id = :id", id=active.id)  # as after a crossing
    with world.engine.connect() as connection, connection.begin() as transaction:
        birth = {"id": uuid4(), "job_id": job.id, "scheduled_at": datetime.now(UTC), "serial": False}
        insert_executions(connection, [birth], State.PENDING, trigger=Trigger.SCHEDULE, slot=15)
        assert world.dispatch.rescue(grace=timedelta(0), spare=None).promoted == 0
        transaction.rollback()
    assert world.dispatch.rescue(grace=timedelta(0), spare=None).promoted == 1
    assert world.history.get(waiting.id).state is State.PENDING
