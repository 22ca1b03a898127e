"""D: what is due becomes executions, as the job's policies say."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.timed import TimedScene, together
from support.world import record

from gnomon.job.ids import scheduled_id
from gnomon.job.model import JobStatus, State, Trigger
from gnomon.job.plan import DueJob, Plan, plan_due
from gnomon.job.ports import Hold
from gnomon.scheduler.dispatch import plan_batch


def test_due_job_becomes_one_pending_execution_with_the_id_of_its_moment(world: TimedScene) -> None:
    job = world.create()
    moment = world.make_due(job)
    assert world.dispatched() == [scheduled_id(job.id, moment)]
    (execution,) = world.history_of(job)
    assert (execution.state, execution.trigger, execution.scheduled_at) == (State.PENDING, Trigger.SCHEDULE, moment)
    assert (execution.attempt, execution.failures, execution.max_attempts) == (0, 0, 4)
    assert execution.available_at == moment
    assert world.service.get(str(job.id)).next_run == moment + timedelta(hours=1)
    assert world.dispatched() == []


def test_job_that_is_not_due_stays_untouched(world: TimedScene) -> None:
    job = world.create()
    world.advance(timedelta(minutes=59))
    assert world.dispatched() == []
    assert world.service.get(str(job.id)).next_run == job.next_run


def test_one_off_job_is_completed_as_soon_as_its_execution_exists(world: TimedScene) -> None:
    job = world.create(delay_seconds=0)
    assert len(world.dispatched()) == 1
    after = world.service.get(str(job.id))
    assert (after.status, after.next_run) == (JobStatus.COMPLETED, None)
    assert world.dispatched() == []


def test_occurrence_is_skipped_while_another_is_unfinished(world: TimedScene) -> None:
    job = world.due(interval_seconds=10, overlap="skip")
    world.dispatched()
    moment = world.make_due(job)
    assert world.dispatched() == []
    assert world.states_of(job) == ["PENDING", "SKIPPED"]
    skipped = world.history_of(job)[0]
    assert (skipped.error_code, skipped.skipped_count, skipped.skipped_until) == ("overlap", 1, moment)
    assert skipped.finished_at is not None


def test_queueing_job_keeps_one_occurrence_waiting_and_skips_later_ones(world: TimedScene) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    first = world.dispatched()
    for _ in range(2):
        world.make_due(job)
        assert world.dispatched() == []
    assert world.states_of(job) == ["PENDING", "WAITING", "SKIPPED"]
    assert world.claim([execution.id for execution in world.history_of(job)[:2]]) == []
    world.executions.record([record(world.claim(first)[0])])
    assert world.states_of(job) == ["SUCCEEDED", "PENDING", "SKIPPED"]
    assert world.dispatch.republish(limit=10) == {"io": [world.history_of(job)[1].id]}


def test_overlapping_occurrences_run_side_by_side_where_the_job_allows_it(world: TimedScene) -> None:
    job = world.create(interval_seconds=10, overlap="allow")
    world.make_due(job, ago=25)
    assert len(world.dispatched()) == 3
    assert world.states_of(job) == ["PENDING"] * 3


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        # 45, 35, 25, 15 s ago are misfires: two run, two are skipped; that of 5 s ago meets the first
        ("skip", ["PENDING", "WAITING", "SKIPPED", "SKIPPED"]),
        ("queue", ["PENDING", "WAITING", "SKIPPED", "WAITING"]),
        ("allow", ["PENDING", "PENDING", "SKIPPED", "PENDING"]),
    ],
)
def test_made_up_misfires_run_one_after_the_other_oldest_first(
    world: TimedScene, overlap: str, states: list[str]
) -> None:
    policy = {"policy": "run_all", "grace_seconds": 8, "limit": 2}
    job = world.create(interval_seconds=10, misfire=policy, overlap=overlap)
    world.make_due(job, ago=45)
    first = world.dispatched()
    assert world.states_of(job) == states
    assert sum(execution.skipped_count or 1 for execution in world.history_of(job)) == 5
    if overlap != "allow":
        world.executions.record([record(world.claim(first)[0])])
        assert world.states_of(job)[:2] == ["SUCCEEDED", "PENDING"]


@pytest.mark.parametrize(
    ("policy", "ago", "states", "counts"),
    [
        # every 100 s; the newest is 70 s old, beyond the usual grace of 60
        ({"policy": "run_once"}, 100_070, ["SKIPPED", "PENDING"], [1000, 0]),
        ({"policy": "skip"}, 100_070, ["SKIPPED"], [1001]),
        ({"policy": "run_all", "limit": 2}, 100_070, ["PENDING", "WAITING", "SKIPPED"], [0, 0, 999]),
        ({"policy": "run_once", "grace_seconds": 20_000}, 9_970, ["PENDING"] + ["SKIPPED"] * 99, [0] + [1] * 99),
    ],
)
def test_executions_and_skips_add_up_to_the_moments_of_an_outage(
    world: TimedScene, policy: dict[str, Any], ago: float, states: list[str], counts: list[int]
) -> None:
    job = world.create(interval_seconds=100, misfire=policy)
    world.make_due(job, ago=ago)
    world.dispatched()
    assert world.states_of(job) == states
    assert [execution.skipped_count for execution in reversed(world.history_of(job))] == counts


def test_plans_that_stop_short_are_continued_and_keep_to_the_limit_of_misfires(world: TimedScene) -> None:
    policy = {"policy": "run_all", "grace_seconds": 60, "limit": 5}
    job = world.create(interval_seconds=100, misfire=policy, overlap="allow")
    world.make_due(job, ago=1000)

    def few(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        return [plan_due(job, now, 3) for job in jobs]

    rounds = 1
    while world.dispatch.dispatch(few, limit=10).behind:
        rounds += 1
    assert rounds > 1
    assert world.states_of(job).count("PENDING") == 6  # five misfires, and that within the grace
    assert sum(execution.skipped_count or 1 for execution in world.history_of(job)) == 11


def test_job_on_time_is_dispatched_before_one_that_is_behind(world: TimedScene) -> None:
    late, fresh = world.create(interval_seconds=3600), world.create(interval_seconds=86_400)
    world.make_due(fresh)
    batches: list[Sequence[DueJob]] = []

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        batches.append(jobs)
        return plan_batch(jobs, now)

    world.dispatch.dispatch(decide, limit=1000)
    assert [job.id for job in batches[0]] == [fresh.id, late.id]


def test_jobs_on_time_are_taken_in_order_of_their_moments(world: TimedScene) -> None:
    jobs = [world.create(interval_seconds=seconds) for seconds in (3620, 3600, 3610)]
    world.make_due(*jobs)
    order = [jobs[1].id, jobs[2].id, jobs[0].id]
    assert [world.history.get(ids[0]).job_id for ids in (world.dispatched(limit=1) for _ in jobs)] == order


def test_job_behind_gets_its_share_even_when_the_batch_is_full_of_jobs_on_time(world: TimedScene) -> None:
    late = world.create(interval_seconds=3600)
    world.make_due(*[world.create(interval_seconds=86_400) for _ in range(5)])
    world.dispatched(limit=3)
    assert world.states_of(late)


def test_those_that_fell_behind_are_taken_in_small_batches_that_follow_at_once(world: TimedScene) -> None:
    late = [world.create() for _ in range(5)]
    world.make_due(*late, ago=86_000)
    batches = []
    while (done := world.dispatch.dispatch(plan_batch, limit=20)).jobs:
        batches.append((done.jobs, done.full))
    assert batches == [(2, True), (2, True), (1, False)]


def test_job_whose_plan_raises_is_held_with_its_reason_for_an_hour_and_the_others_go_on(world: TimedScene) -> None:
    poison, healthy = world.create(interval_seconds=86_400), world.create(interval_seconds=86_400)
    world.make_due(poison, healthy)

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        plans = plan_batch(jobs, now)
        return [Hold(reason="boom") if job.id == poison.id else plan for job, plan in zip(jobs, plans, strict=True)]

    done = world.dispatch.dispatch(decide, limit=10)
    assert done.held == {poison.id: "boom"}
    held = world.service.get(str(poison.id))
    assert (held.hold_reason, held.next_run, held.status) == ("boom", poison.next_run, JobStatus.RUNNING)
    assert held.held_until is not None
    assert world.states_of(healthy) == ["PENDING"]
    assert world.dispatch.dispatch(decide, limit=10).jobs == 0  # held, though still due
    world.advance(timedelta(minutes=59))
    assert world.dispatched() == []
    world.advance(timedelta(minutes=2))
    assert len(world.dispatched()) == 1
    assert world.service.get(str(poison.id)).hold_reason is None


def test_edit_ends_a_hold(world: TimedScene) -> None:
    job = world.due()
    world.dispatch.dispatch(lambda jobs, now: [Hold(reason="boom")], limit=10)
    world.service.update(str(job.id), {"tags": ["mended"]})
    assert len(world.dispatched()) == 1


def test_nothing_is_booked_when_planning_fails(world: TimedScene) -> None:
    job = world.due()

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        world.dispatch.dispatch(decide, limit=10)
    assert world.states_of(job) == []
    assert len(world.dispatched()) == 1


def test_two_schedulers_share_many_due_jobs_and_each_runs_once(world: TimedScene) -> None:
    world.make_due(*[world.create() for _ in range(100)])
    published: list[object] = []

    def drain() -> None:
        store = world.scheduler()
        while (done := store.dispatch(plan_batch, limit=20)).full or done.jobs:
            published.extend(execution_id for ids in done.published.values() for execution_id in ids)

    together(drain, drain)
    world.dispatched()  # what each passed over because the other had it locked
    assert len(published) == len(set(published)) == 100


def test_horizon_is_the_earliest_of_next_run_the_end_of_a_pause_and_next_publish(world: TimedScene) -> None:
    assert world.dispatch.horizon().at is None
    later, job = world.create(interval_seconds=7200), world.create(interval_seconds=3600)
    assert world.dispatch.horizon().at == job.next_run
    end = world.now() + timedelta(minutes=10)
    world.service.pause(str(later.id), until=end.isoformat())
    assert world.dispatch.horizon().at == end
    world.service.pause(str(later.id))
    world.make_due(job)
    world.dispatched()
    ahead = world.dispatch.horizon()
    assert ahead.at is not None
    assert timedelta(seconds=10) < ahead.at - ahead.now <= timedelta(seconds=15)


def test_scheduler_for_some_names_leaves_other_jobs_to_others(world: TimedScene) -> None:
    names = {"mine"}
    mine = world.create(name="mine", interval_seconds=86_400)
    other = world.create(name="other", interval_seconds=86_400)
    unnamed = world.create(interval_seconds=86_400)
    store = world.scheduler(names=lambda: names)
    assert store.horizon().at == mine.next_run
    world.make_due(mine, other, unnamed)
    done = store.dispatch(plan_batch, limit=10)
    ((first,),) = done.published.values()
    assert (done.jobs, world.history.get(first).job_id) == (1, mine.id)
    assert store.dispatch(plan_batch, limit=10).jobs == 0
    assert (world.states_of(other), world.states_of(unnamed)) == ([], [])
    world.dispatched()
    world.advance(timedelta(minutes=1))
    assert store.republish(limit=10) == {"io": [first]}
    ahead = store.horizon()
    assert ahead.at is not None
    assert ahead.at > ahead.now  # what others have to publish is none of its business
    names.add("other")
    assert len(store.republish(limit=10)["io"]) == 1
    world.service.delete("name:other")
    names.clear()
    assert store.horizon().at is None
