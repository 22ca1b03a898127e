"""Run now, retry, backfill and cancel: what people ask for beside the schedule."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from support.timed import TimedScene, insist, together
from support.world import LEASE, record, token

from gnomon.job.errors import Conflict, InvalidJob, KeyReused, NotFound, Overlapping
from gnomon.job.model import Execution, Job, JobStatus, State, Trigger


def state_of(world: TimedScene, execution: Execution) -> State:
    return world.history.get(execution.id).state


def running(world: TimedScene, job: Job) -> Execution:
    """The job's execution, claimed."""
    (claimed,) = world.claim(world.dispatched())
    return world.history.get(claimed.id)


class TestRunNow:
    def test_execution_is_due_at_once_beside_the_schedule(self, world: TimedScene) -> None:
        job = world.create()
        asked = world.service.run_now(str(job.id))
        assert (asked.execution.trigger, asked.execution.state, asked.replayed) == (
            Trigger.MANUAL,
            State.PENDING,
            False,
        )
        assert world.dispatch.republish(limit=10) == {"io": [asked.execution.id]}
        assert world.service.get(str(job.id)).next_run == job.next_run

    @pytest.mark.parametrize("overlap", ["skip", "queue"])
    def test_unfinished_execution_is_in_the_way_and_named(self, world: TimedScene, overlap: str) -> None:
        job = world.due(overlap=overlap)
        active = running(world, job)
        with pytest.raises(Overlapping, match=str(active.id)):
            world.service.run_now(str(job.id))
        assert len(world.history_of(job)) == 1

    @pytest.mark.parametrize("overlap", ["skip", "queue"])
    def test_asked_to_wait_it_runs_when_the_unfinished_one_has_ended(self, world: TimedScene, overlap: str) -> None:
        job = world.due(overlap=overlap)
        (claimed,) = world.claim(world.dispatched())
        asked = [world.service.run_now(str(job.id), may_wait=True).execution for _ in range(2)]
        assert [state_of(world, one) for one in asked] == [State.WAITING, State.WAITING]
        world.executions.record([record(claimed)])
        assert sorted(state_of(world, one) for one in asked) == [State.PENDING, State.WAITING]

    def test_job_that_may_overlap_itself_runs_at_once(self, world: TimedScene) -> None:
        job = world.due(overlap="allow")
        running(world, job)
        assert world.service.run_now(str(job.id)).execution.state is State.PENDING

    def test_paused_and_completed_jobs_can_be_run(self, world: TimedScene) -> None:
        paused, once = world.create(), world.create(interval_seconds=None, delay_seconds=0)
        world.service.pause(str(paused.id))
        (ran,) = world.claim(world.dispatched())
        world.executions.record([record(ran)])
        assert world.service.get(str(once.id)).status is JobStatus.COMPLETED
        for job in (paused, once):
            assert world.service.run_now(str(job.id)).execution.state is State.PENDING

    def test_same_key_again_gives_the_same_execution(self, world: TimedScene) -> None:
        job = world.create(overlap="allow")
        first = world.service.run_now(str(job.id), key="click")
        again = world.service.run_now(str(job.id), key="click")
        assert (again.execution.id, again.replayed) == (first.execution.id, True)
        assert world.service.run_now(str(job.id), key="other").execution.id != first.execution.id

    def test_key_of_another_request_is_refused(self, world: TimedScene) -> None:
        job, other = world.create(), world.create()
        world.service.run_now(str(job.id), key="click")
        with pytest.raises(KeyReused, match="click"):
            world.service.run_now(str(other.id), key="click")
        assert world.history_of(other) == []

    def test_key_is_free_again_after_a_day(self, world: TimedScene) -> None:
        job = world.create(overlap="allow")
        first = world.service.run_now(str(job.id), key="click")
        world.advance(timedelta(hours=24))
        assert world.service.run_now(str(job.id), key="click").execution.id != first.execution.id

    def test_refused_request_does_not_use_up_its_key(self, world: TimedScene) -> None:
        job = world.due()
        (claimed,) = world.claim(world.dispatched())
        with pytest.raises(Overlapping):
            world.service.run_now(str(job.id), key="click")
        world.executions.record([record(claimed)])
        assert not world.service.run_now(str(job.id), key="click").replayed

    def test_twenty_clicks_at_once_are_one_execution(self, world: TimedScene) -> None:
        job = world.create(overlap="allow")
        seen: list[UUID] = []

        def click() -> None:
            seen.append(insist(lambda: world.service.run_now(str(job.id), key="k")).execution.id)

        together(*[click] * 20)
        assert len(seen) == 20
        assert len(set(seen)) == len(world.history_of(job)) == 1

    def test_deleted_job_can_not_be_run(self, world: TimedScene) -> None:
        job = world.create()
        world.service.delete(str(job.id))
        with pytest.raises(NotFound):
            world.service.run_now(str(job.id))


class TestRetry:
    @staticmethod
    def failed(world: TimedScene, state: State = State.FAILED, **more: Any) -> Execution:
        world.due(**more)
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, state)])
        return world.history.get(claimed.id)

    @pytest.mark.parametrize("state", [State.FAILED, State.UNKNOWN, State.CANCELLED])
    def test_execution_that_failed_is_tried_again_as_another_one_that_names_it(
        self, world: TimedScene, state: State
    ) -> None:
        failed = self.failed(world, state)
        again = world.service.retry(str(failed.id)).execution
        assert (again.trigger, again.repeats, again.state) == (Trigger.RETRY_OF, failed.id, State.PENDING)
        assert world.history.get(failed.id) == failed
        assert world.dispatch.republish(limit=10) == {"io": [again.id]}

    def test_execution_that_succeeded_or_goes_on_is_a_conflict(self, world: TimedScene) -> None:
        done = self.failed(world, State.SUCCEEDED)
        pending = world.service.run_now(str(world.create().id)).execution
        for execution in (done, pending):
            with pytest.raises(Conflict, match=str(execution.state)):
                world.service.retry(str(execution.id))

    def test_it_is_what_the_job_says_now_or_said_then(self, world: TimedScene) -> None:
        failed = self.failed(world, overlap="allow", retry={"max_attempts": 2})
        world.service.update(str(failed.job_id), {"retry": {"max_attempts": 7}})
        now = world.service.retry(str(failed.id)).execution
        then = world.service.retry(str(failed.id), same_revision=True).execution
        assert (now.revision, now.max_attempts) == (2, 7)
        assert (then.revision, then.max_attempts) == (1, 2)

    def test_overlap_and_keys_hold_as_for_a_run(self, world: TimedScene) -> None:
        failed = self.failed(world)
        first = world.service.retry(str(failed.id), key="k")
        assert world.service.retry(str(failed.id), key="k") == replace(first, replayed=True)
        with pytest.raises(Overlapping, match=str(first.execution.id)):
            world.service.retry(str(failed.id))
        assert world.service.retry(str(failed.id), may_wait=True).execution.state is State.WAITING
        with pytest.raises(KeyReused):
            world.service.run_now(str(failed.job_id), key="k")

    def test_execution_of_a_deleted_job_can_not_be_tried_again(self, world: TimedScene) -> None:
        failed = self.failed(world)
        world.service.delete(str(failed.job_id))
        with pytest.raises(NotFound):
            world.service.retry(str(failed.id))


class TestBackfill:
    @staticmethod
    def missed(world: TimedScene, **more: Any) -> tuple[Job, list[datetime]]:
        """An hourly job that skipped its first four moments, and these."""
        job = world.create(cron_schedule="0 * * * *", misfire={"policy": "skip"}, **more)
        assert job.next_run is not None
        moments = [job.next_run + timedelta(hours=number) for number in range(4)]
        world.make_due(job, ago=3 * 3600 + 600)
        world.dispatched()
        assert world.states_of(job) == ["SKIPPED"]
        return job, moments

    def backfill(self, world: TimedScene, job: Job, moments: list[datetime], **more: Any) -> list[datetime]:
        since, until = moments[0].isoformat(), moments[-1].isoformat()
        return list(world.service.backfill(str(job.id), since=since, until=until, **more))

    def test_dry_run_tells_what_would_run_and_creates_nothing(self, world: TimedScene) -> None:
        job, moments = self.missed(world)
        before = world.states_of(job)
        assert self.backfill(world, job, moments, dry_run=True) == moments
        assert world.states_of(job) == before

    def test_skipped_moments_run_one_after_the_other_oldest_first(self, world: TimedScene) -> None:
        job, moments = self.missed(world)
        assert self.backfill(world, job, moments) == moments
        ran = []
        while due := world.dispatch.republish(limit=10):
            (claimed,) = world.claim(due["io"])
            ran.append(claimed.scheduled_at)
            world.executions.record([record(claimed)])
        assert ran == moments
        made = [execution for execution in world.history_of(job) if execution.trigger is Trigger.BACKFILL]
        assert {execution.state for execution in made} == {State.SUCCEEDED}

    def test_moments_of_a_job_that_may_overlap_are_paced(self, world: TimedScene) -> None:
        job, moments = self.missed(world, overlap="allow")
        self.backfill(world, job, moments)
        made = [one for one in reversed(world.history_of(job)) if one.trigger is Trigger.BACKFILL]
        assert {one.state for one in made} == {State.PENDING}
        steps = [later.available_at - one.available_at for one, later in pairwise(made)]
        assert steps == [timedelta(milliseconds=100)] * 3

    def test_moment_that_has_an_execution_is_left_alone(self, world: TimedScene) -> None:
        job, moments = self.missed(world)
        assert self.backfill(world, job, moments[:2]) == moments[:2]
        assert self.backfill(world, job, moments) == moments[2:]
        assert self.backfill(world, job, moments) == []

    def test_repeated_request_has_no_second_effect(self, world: TimedScene) -> None:
        job, moments = self.missed(world)
        self.backfill(world, job, moments, key="mend")
        self.backfill(world, job, moments, key="mend")
        assert [one.trigger for one in world.history_of(job)].count(Trigger.BACKFILL) == 4

    def test_what_the_schedule_still_owes_is_not_made_up_for(self, world: TimedScene) -> None:
        job = world.create(interval_seconds=60)
        assert self.backfill(world, job, [job.created_at, job.created_at + timedelta(hours=5)]) == []

    @pytest.mark.parametrize(
        ("since", "until", "pointer"),
        [
            ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
            ("2026-01-01", "2026-01-01T00:00:00Z", "/from"),
            ("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
        ],
        ids=["backwards", "no offset", "too many"],
    )
    def test_range_that_makes_no_sense_is_refused(
        self, world: TimedScene, since: str, until: str, pointer: str
    ) -> None:
        job = world.create(cron_schedule="* * * * *")
        with pytest.raises(InvalidJob) as raised:
            world.service.backfill(str(job.id), since=since, until=until)
        assert raised.value.errors[0].pointer == pointer


class TestCancel:
    def test_pending_execution_ends_at_once_and_is_not_claimed(self, world: TimedScene) -> None:
        world.due()
        ids = world.dispatched()
        cancelled = world.service.cancel(str(ids[0]))
        assert (cancelled.state, cancelled.error_code) == (State.CANCELLED, "cancelled")
        assert world.claim(ids) == []

    def test_running_execution_is_marked_for_its_worker_and_not_tried_again(self, world: TimedScene) -> None:
        world.due()
        (claimed,) = world.claim(world.dispatched())
        assert world.service.cancel(str(claimed.id)).state is State.RUNNING
        assert world.executions.cancel_requested([token(claimed)]) == {claimed.id}
        world.executions.record([record(claimed, State.PENDING)])
        assert world.history.get(claimed.id).state is State.CANCELLED

    def test_success_that_was_quicker_stays_a_success(self, world: TimedScene) -> None:
        world.due()
        (claimed,) = world.claim(world.dispatched())
        world.service.cancel(str(claimed.id))
        world.executions.record([record(claimed)])
        assert world.history.get(claimed.id).state is State.SUCCEEDED

    def test_cancelling_twice_changes_nothing(self, world: TimedScene) -> None:
        world.due()
        (execution_id,) = world.dispatched()
        first = world.service.cancel(str(execution_id))
        assert world.service.cancel(str(execution_id)) == first

    def test_ended_execution_is_a_conflict_that_says_how_it_ended(self, world: TimedScene) -> None:
        world.due()
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed)])
        with pytest.raises(Conflict, match="SUCCEEDED"):
            world.service.cancel(str(claimed.id))

    def test_cancelled_execution_makes_way_for_the_one_that_waits(self, world: TimedScene) -> None:
        job = world.due(overlap="queue")
        (active,) = world.dispatched()
        waiting = world.service.run_now(str(job.id), may_wait=True).execution
        world.service.cancel(str(active))
        assert state_of(world, waiting) is State.PENDING

    def test_cancelled_waiting_one_lets_nobody_pass_the_active_one(self, world: TimedScene) -> None:
        job = world.due(overlap="queue")
        (active,) = world.claim(world.dispatched())
        first, second = (world.service.run_now(str(job.id), may_wait=True).execution for _ in range(2))
        world.service.cancel(str(first.id))
        assert state_of(world, second) is State.WAITING
        world.executions.record([record(active)])
        assert state_of(world, second) is State.PENDING

    def test_execution_of_a_deleted_job_can_be_cancelled(self, world: TimedScene) -> None:
        job = world.due()
        (claimed,) = world.claim(world.dispatched())
        world.service.delete(str(job.id))
        assert world.service.cancel(str(claimed.id)).cancel_requested_at is not None

    @pytest.mark.parametrize("unknown", ["018f0000-0000-7000-8000-000000000000", "nonsense"])
    def test_unknown_execution_is_not_found(self, world: TimedScene, unknown: str) -> None:
        for ask in (world.service.cancel, world.service.execution):
            with pytest.raises(NotFound, match=unknown):
                ask(unknown)


def test_end_of_an_overlapping_execution_does_not_push_the_active_one_aside(world: TimedScene) -> None:
    """A job whose policy was changed from `allow`: its old executions are in nobody's way, and make way for nobody."""
    job = world.due(overlap="allow")
    (old,) = world.claim(world.dispatched())
    world.service.update(str(job.id), {"overlap": "queue"})
    (active,) = world.claim([world.service.run_now(str(job.id)).execution.id])
    waiting = world.service.run_now(str(job.id), may_wait=True).execution
    assert world.executions.record([record(old)]) == {old.id}
    assert state_of(world, waiting) is State.WAITING
    world.executions.record([record(active)])
    assert state_of(world, waiting) is State.PENDING


def test_loss_of_an_overlapping_execution_does_not_push_the_active_one_aside(world: TimedScene) -> None:
    """Nor does it stop the rescue of anything else, which is one statement for all that is lost."""
    job = world.due(overlap="allow", retry={"max_attempts": 1})
    (old,) = world.claim(world.dispatched())
    world.service.update(str(job.id), {"overlap": "queue", "retry": {"max_attempts": 2}})
    (active,) = world.claim([world.service.run_now(str(job.id)).execution.id])
    waiting = world.service.run_now(str(job.id), may_wait=True).execution
    world.advance(2 * LEASE)
    rescued = world.dispatch.rescue(grace=timedelta(0), spare=None)
    assert (rescued.failed, rescued.requeued, rescued.promoted) == (1, 1, 0)
    assert [world.history.get(one.id).state for one in (old, active)] == [State.FAILED, State.PENDING]
    assert state_of(world, waiting) is State.WAITING


def test_overlapping_execution_given_back_and_cancelled_does_not_push_the_active_one_aside(world: TimedScene) -> None:
    job = world.due(overlap="allow")
    (old,) = world.claim(world.dispatched())
    world.service.update(str(job.id), {"overlap": "queue"})
    world.service.run_now(str(job.id))
    waiting = world.service.run_now(str(job.id), may_wait=True).execution
    world.service.cancel(str(old.id))
    assert world.executions.release([token(old)], delay=timedelta(0)) == {old.id}
    assert state_of(world, waiting) is State.WAITING
