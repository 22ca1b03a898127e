"""A on Postgres: what is dispatched ahead of its moment, what is left for it, and what an edit takes back."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from support.aging import let_pass
from support.books import unbalanced_moments
from support.cluster import wait_until
from support.world import HTTP_JOB, World, record

from gnomon.job.errors import Conflict
from gnomon.job.ids import scheduled_id
from gnomon.job.model import Job, JobStatus, State
from gnomon.job.ports import RepeatQuery
from gnomon.job.repeats import How
from gnomon.scheduler.dispatch import plan_batch

AHEAD = timedelta(seconds=5)
SOON = -3.0  # seconds ago: the moment is still to come
LATER = timedelta(seconds=4)


@pytest.fixture
def world(world: World) -> World:
    world.dispatch = world.scheduler(ahead=AHEAD)
    return world


def soon(world: World, seconds: float = 3.0, **document: object) -> Job:
    """A job whose first moment lies within the look-ahead."""
    at: datetime = world.one("select now() + make_interval(secs => :seconds)", seconds=seconds)
    return world.create(starts_at=at.isoformat(), **document)


def one_shot(world: World, **document: object) -> Job:
    at: datetime = world.one("select now() + interval '3 seconds'")
    return world.create(execute_at=at.isoformat(), **document)


def next_run(world: World, job: Job) -> datetime:
    moment = world.service.get(str(job.id)).next_run
    assert moment is not None
    return moment


def balanced(world: World, job: Job) -> bool:
    return unbalanced_moments(world, job.id) == {}


def test_moment_to_come_is_dispatched_and_published_and_can_not_be_claimed(world: World) -> None:
    job = soon(world)
    assert job.next_run is not None
    ids = world.dispatched()
    assert ids == [scheduled_id(job.id, job.next_run)]
    (execution,) = world.history_of(job)
    assert (execution.state, execution.available_at) == (State.PENDING, job.next_run)
    assert next_run(world, job) == job.next_run + timedelta(hours=1)
    assert world.claim(ids) == []
    let_pass(world, LATER)
    assert [one.id for one in world.claim([row.id for row in world.sql("select id from executions")])]
    assert balanced(world, job)


def test_what_is_further_away_is_not_looked_at(world: World) -> None:
    job = world.create()
    world.make_due(job, ago=-10.0)
    assert world.dispatched() == []


def test_one_moment_of_a_job_is_taken_at_a_time_and_each_only_once(world: World) -> None:
    job = soon(world, interval_seconds=1, overlap="allow")
    rounds = [len(world.dispatched()) for _ in range(6)]
    assert rounds[0] == 1
    assert set(rounds) <= {0, 1}
    moments = [execution.scheduled_at for execution in world.history_of(job)]
    assert len(moments) == len(set(moments)) == sum(rounds)
    assert balanced(world, job)


def test_slot_begins_at_the_moment_and_nothing_is_published_again_before(world: World) -> None:
    job = soon(world)
    ids = world.dispatched()
    slot = world.one("select extract(epoch from next_publish_at - scheduled_at)::float from executions")
    assert slot == pytest.approx(15)
    world.executions.return_slots(ids)
    assert world.one("select next_publish_at from executions") == job.next_run
    assert world.dispatch.republish(limit=10) == {}


def test_slots_that_a_broker_has_lost_are_free_at_the_moment(world: World) -> None:
    job = soon(world)
    world.dispatched()
    assert world.dispatch.free_slots() == 1
    assert world.one("select next_publish_at from executions") == job.next_run
    assert world.dispatch.horizon().at == job.next_run


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_what_overlap_refuses_is_left_for_its_moment(world: World, overlap: str) -> None:
    job = world.due(interval_seconds=3600, overlap=overlap)
    (running,) = world.claim(world.dispatched())
    world.make_due(job, ago=SOON)
    moment = next_run(world, job)
    assert world.dispatched() == []
    assert world.dispatched() == []
    assert world.states_of(job) == ["RUNNING"]
    assert next_run(world, job) == moment
    assert world.dispatch.horizon().at == moment
    world.executions.record([record(running)])
    let_pass(world, LATER)
    assert len(world.dispatched()) == 1
    assert world.states_of(job) == ["SUCCEEDED", "PENDING"]


@pytest.mark.parametrize(("overlap", "verdict"), [("skip", "SKIPPED"), ("queue", "WAITING")])
def test_what_is_in_the_way_at_the_moment_is_judged_then(world: World, overlap: str, verdict: str) -> None:
    job = world.due(interval_seconds=3600, overlap=overlap)
    world.claim(world.dispatched())
    world.make_due(job, ago=SOON)
    world.dispatched()
    let_pass(world, LATER)
    assert world.dispatched() == []
    assert world.states_of(job) == ["RUNNING", verdict]


def test_job_that_is_left_for_its_moment_does_not_look_held(world: World) -> None:
    job = world.due(interval_seconds=3600, overlap="skip")
    world.claim(world.dispatched())
    world.make_due(job, ago=SOON)
    world.dispatched()
    assert world.one("select held_until = next_run from jobs")
    assert world.service.get(str(job.id)).held_until is None
    assert world.overview.stats(timedelta(hours=1)).held == 0


@pytest.mark.parametrize(("overlap", "verdict"), [("skip", "SKIPPED"), ("queue", "WAITING")])
def test_run_that_is_asked_for_goes_before_what_is_ahead(world: World, overlap: str, verdict: str) -> None:
    job = soon(world, overlap=overlap)
    moment = next_run(world, job)
    world.dispatched()
    asked_for = world.service.run_now(str(job.id)).execution.id
    assert [(one.id, one.state) for one in world.history_of(job)] == [(asked_for, State.PENDING)]
    assert next_run(world, job) == moment
    assert world.dispatched() == []
    world.claim([asked_for])
    assert world.dispatch.horizon().at == moment
    let_pass(world, LATER)
    assert world.dispatched() == []
    assert sorted(world.states_of(job)) == sorted(["RUNNING", verdict])
    assert balanced(world, job)


def test_run_that_is_over_by_then_is_in_no_moments_way(world: World) -> None:
    job = one_shot(world)
    world.dispatched()
    asked_for = world.service.run_now(str(job.id)).execution.id
    world.executions.record([record(one) for one in world.claim([asked_for])])
    let_pass(world, LATER)
    assert len(world.dispatched()) == 1
    assert sorted(world.states_of(job)) == ["PENDING", "SUCCEEDED"]
    assert world.service.get(str(job.id)).status is JobStatus.COMPLETED
    assert balanced(world, job)


def test_backfill_begins_at_once_although_a_moment_is_ahead(world: World) -> None:
    at: datetime = world.one("select now() + interval '3 seconds'")
    hour = timedelta(hours=1)
    job = world.create(starts_at=(at - 2 * hour).isoformat(), interval_seconds=3600, overlap="skip")
    assert job.next_run == at
    world.dispatched()
    world.service.backfill(str(job.id), since=(at - 2 * hour).isoformat(), until=(at - hour).isoformat())
    assert sorted(world.states_of(job)) == ["PENDING", "WAITING"]
    assert next_run(world, job) == at


def test_retry_of_many_goes_before_what_is_ahead(world: World) -> None:
    job = world.due(interval_seconds=3600, overlap="skip", retry={"max_attempts": 1})
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed, State.FAILED)])
    world.make_due(job, ago=SOON)
    moment = next_run(world, job)
    assert len(world.dispatched()) == 1
    repeated = world.repeats.repeat(RepeatQuery(states=[State.FAILED], job_id=job.id), How())
    assert (len(repeated.created), repeated.refused) == (1, [])
    assert sorted(world.states_of(job)) == ["FAILED", "PENDING"]
    assert next_run(world, job) == moment


def test_last_moment_is_dispatched_ahead_and_the_job_completed_when_it_has_come(world: World) -> None:
    job = one_shot(world)
    ids = world.dispatched()
    assert len(ids) == 1
    assert world.dispatched() == []
    assert world.service.get(str(job.id)).status is JobStatus.RUNNING
    assert balanced(world, job)
    let_pass(world, LATER)
    assert world.dispatched() == []
    assert world.service.get(str(job.id)).status is JobStatus.COMPLETED
    assert world.states_of(job) == ["PENDING"]
    assert balanced(world, job)


def test_schedule_that_can_not_be_computed_is_held_ahead_too(world: World) -> None:
    job = soon(world)
    world.sql("update jobs set cron_schedule = 'nonsense', interval_seconds = null")
    assert list(world.dispatch.dispatch(plan_batch, limit=10).held) == [job.id]
    assert world.service.get(str(job.id)).hold_reason is not None


def test_round_takes_what_is_due_first(world: World) -> None:
    late, early = soon(world), world.due()
    assert world.dispatched(limit=1) == [world.history_of(early)[0].id]
    assert world.history_of(late) == []


def test_wakes_when_something_comes_into_the_look_ahead_but_no_sooner_than_a_tick_later(world: World) -> None:
    job = world.create()
    world.make_due(job, ago=-8.0)
    assert world.dispatch.horizon().at == next_run(world, job) - AHEAD
    world.make_due(job, ago=SOON)
    horizon = world.dispatch.horizon()
    assert horizon.at == horizon.now + AHEAD / 4
    world.make_due(job, ago=-0.5)
    assert world.dispatch.horizon().at == next_run(world, job)


# taken back


def _edit(world: World, job: Job) -> None:
    world.service.update(str(job.id), {"interval_seconds": 1800})


def _retag(world: World, job: Job) -> None:
    world.service.update(str(job.id), {"tags": ["x"]})


def _put(world: World, job: Job) -> None:
    document = {"type": "HTTP", "http_job": HTTP_JOB, "interval_seconds": 1800}
    world.service.put("nightly", document)


def _import(world: World, job: Job) -> None:
    document = {"type": "HTTP", "http_job": HTTP_JOB, "interval_seconds": 1800, "name": "nightly"}
    world.imports.put([world.imports.step(document)], dry_run=False)


def _pause(world: World, job: Job) -> None:
    world.service.pause(str(job.id))


def _delete(world: World, job: Job) -> None:
    world.service.delete(str(job.id))


CHANGES: list[Callable[[World, Job], None]] = [_edit, _retag, _put, _import, _pause, _delete]


@pytest.mark.parametrize("change", CHANGES)
def test_change_takes_back_what_is_ahead(world: World, change: Callable[[World, Job], None]) -> None:
    job = soon(world, name="nightly", interval_seconds=1, overlap="allow")
    for _ in range(2):
        assert len(world.dispatched()) == 1
    change(world, job)
    assert world.history_of(job) == []
    assert balanced(world, job)
    let_pass(world, timedelta(seconds=10))
    while world.dispatched():
        pass
    assert balanced(world, job)


def test_edit_takes_the_moment_to_come_into_the_new_revision(world: World) -> None:
    job = soon(world)
    (before,) = world.dispatched()
    world.service.update(str(job.id), {"http_job": {"url": "http://127.0.0.1:9/other"}})
    assert next_run(world, job) == job.next_run
    assert world.dispatched() == [before]
    assert world.one("select revision from executions") == 2


def test_pause_and_resume_before_the_moment_lose_nothing(world: World) -> None:
    job = soon(world)
    ids = world.dispatched()
    world.service.pause(str(job.id))
    assert world.claim(ids) == []
    world.service.resume(str(job.id))
    assert next_run(world, job) == job.next_run
    assert world.dispatched() == ids
    assert balanced(world, job)


def test_last_moment_that_is_taken_back_is_next_again(world: World) -> None:
    job = one_shot(world)
    ids = world.dispatched()
    world.service.update(str(job.id), {"tags": ["x"]})
    assert world.service.get(str(job.id)).status is JobStatus.RUNNING
    assert world.dispatched() == ids
    world.service.pause(str(job.id))
    assert world.service.get(str(job.id)).status is JobStatus.STOPPED
    assert world.history_of(job) == []
    assert balanced(world, job)


def test_edit_after_the_last_moment_finds_the_job_completed(world: World) -> None:
    job = one_shot(world)
    world.dispatched()
    let_pass(world, LATER)
    world.service.update(str(job.id), {"tags": ["x"]})
    assert world.service.get(str(job.id)).status is JobStatus.COMPLETED
    with pytest.raises(Conflict):
        world.service.pause(str(job.id))
    assert world.states_of(job) == ["PENDING"]
    assert balanced(world, job)


@pytest.mark.parametrize(
    "ask",
    [
        lambda world, document: world.service.update("name:nightly", {}),
        lambda world, document: world.service.put("nightly", document),
        lambda world, document: world.imports.put([world.imports.step(document)], dry_run=False),
    ],
    ids=["patch", "put", "import"],
)
def test_request_that_changes_nothing_takes_nothing_back(
    world: World, ask: Callable[[World, dict[str, Any]], object]
) -> None:
    job = soon(world, name="nightly", interval_seconds=1800)
    assert job.next_run is not None
    ids = world.dispatched()
    whole = {"type": "HTTP", "http_job": HTTP_JOB, "interval_seconds": 1800, "starts_at": job.next_run.isoformat()}
    ask(world, {**whole, "name": "nightly"})
    assert [execution.id for execution in world.history_of(job)] == ids
    assert world.service.get(str(job.id)).revision == 1
    assert balanced(world, job)


def test_refused_request_takes_nothing_back(world: World) -> None:
    job = soon(world)
    ids = world.dispatched()
    with pytest.raises(Conflict):
        world.service.pause(str(job.id), if_revision=7)
    assert [execution.id for execution in world.history_of(job)] == ids


def test_what_has_come_is_not_taken_back(world: World) -> None:
    job = soon(world, interval_seconds=3600, overlap="allow")
    world.dispatched()
    let_pass(world, LATER)
    ids = [row.id for row in world.sql("select id from executions")]
    _edit(world, job)
    assert len(world.claim(ids)) == 1
    assert balanced(world, job)


def test_what_was_cancelled_ahead_of_its_moment_stays_cancelled(world: World) -> None:
    job = soon(world)
    (execution_id,) = world.dispatched()
    world.service.cancel(str(execution_id))
    _edit(world, job)
    assert world.dispatched() == []
    assert world.states_of(job) == ["CANCELLED"]
    assert balanced(world, job)


@pytest.mark.parametrize("change", CHANGES)
def test_books_have_no_gap_before_what_was_cancelled(world: World, change: Callable[[World, Job], None]) -> None:
    """The first of three stays with the second, which was cancelled; the third is taken back."""
    job = soon(world, 1.0, name="nightly", interval_seconds=1, overlap="allow")
    ids = [world.dispatched()[0] for _ in range(3)]
    world.service.cancel(str(ids[1]))
    change(world, job)
    left: list[UUID] = [execution.id for execution in reversed(world.history_of(job))]
    assert left == ids[:2]
    assert balanced(world, job)
    if change is _pause:
        world.service.resume(str(job.id))
    let_pass(world, timedelta(seconds=10))
    while world.dispatched():
        pass
    assert balanced(world, job)


def test_claim_that_met_the_lock_of_an_edit_finds_it_later(world: World) -> None:
    job = soon(world, overlap="allow")
    ids = world.dispatched()
    wait_until("its moment", lambda: world.one("select now() > :at", at=job.next_run))
    with world.engine.begin() as other:
        other.exec_driver_sql(f"select 1 from executions where id = '{ids[0]}' for update")
        assert world.claim(ids) == []
    assert len(world.claim(ids)) == 1
