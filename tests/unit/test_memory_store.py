"""What only the store in memory has: bounds on what it keeps, and its waker."""

import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from support.cluster import wait_until
from support.stores import MemoryScene
from support.world import record, token

from gnomon.job.errors import NotFound
from gnomon.job.model import State
from gnomon.job.ports import ExecutionQuery
from gnomon.storage.memory import state as state_module
from gnomon.storage.memory.agenda import Agenda
from gnomon.storage.memory.state import Memory
from gnomon.storage.memory.waker import MemoryWaker

LONG = timedelta(seconds=20)
NO_TIME = timedelta(0)


def finished(world: MemoryScene, job_id: str) -> None:
    (claimed,) = world.claim([world.service.run_now(job_id).execution.id])
    world.executions.record([record(claimed)])
    world.advance(timedelta(seconds=1))


class TestHistory:
    def test_newest_ended_executions_of_each_job_are_kept(self) -> None:
        world = MemoryScene(history=3)
        one, other = world.create(), world.create()
        for job in (one, other):
            for _ in range(5):
                finished(world, str(job.id))
        kept = world.history_of(one)
        assert len(kept) == len(world.history_of(other)) == 3
        assert len(world.memory.rows) == 6
        assert min(kept, key=lambda execution: execution.id).scheduled_at == kept[0].scheduled_at - timedelta(seconds=2)
        assert world.service.get(str(one.id)).last_run == kept[0].scheduled_at

    def test_what_has_not_ended_is_kept_however_old(self) -> None:
        world = MemoryScene(history=2)
        job = world.create(overlap="allow")
        pending = [world.service.run_now(str(job.id)).execution.id for _ in range(3)]
        for _ in range(4):
            world.advance(timedelta(seconds=1))
            finished(world, str(job.id))
        assert [world.history.get(one).state for one in pending] == [State.PENDING] * 3
        assert len(world.history_of(job)) == 5

    def test_skips_count_too(self) -> None:
        world = MemoryScene(history=2)
        job = world.create(interval_seconds=10)
        for _ in range(5):
            world.make_due(job)
            world.dispatched()
        assert world.states_of(job) == ["PENDING", "SKIPPED", "SKIPPED"]

    def test_moments_that_are_no_longer_known_are_not_backfilled(self) -> None:
        world = MemoryScene(history=2)
        job = world.create(interval_seconds=60)
        since = world.make_due(job).isoformat()
        for _ in range(5):
            (claimed,) = world.claim(world.dispatched())
            world.executions.record([record(claimed)])
            world.make_due(job)
        world.dispatched()
        until = world.now().isoformat()
        assert world.service.backfill(str(job.id), since=since, until=until, dry_run=True) == []

    def test_what_a_key_stands_for_is_kept_as_long_as_the_key(self) -> None:
        world = MemoryScene(history=1)
        job = world.create(overlap="allow")
        asked = world.service.run_now(str(job.id), key="click").execution
        world.executions.record([record(one) for one in world.claim([asked.id])])
        world.advance(timedelta(seconds=1))
        for _ in range(2):
            finished(world, str(job.id))
        again = world.service.run_now(str(job.id), key="click")
        assert (again.execution.id, again.replayed) == (asked.id, True)
        world.advance(timedelta(hours=24))
        assert world.service.run_now(str(job.id), key="click").execution.id != asked.id
        for _ in range(2):
            finished(world, str(job.id))
        with pytest.raises(NotFound, match=str(asked.id)):
            world.history.get(asked.id)

    def test_a_tenth_more_may_be_kept_for_a_while(self) -> None:
        world = MemoryScene(history=20)
        job = world.create()
        kept = []
        for _ in range(30):
            finished(world, str(job.id))
            kept.append(len(world.history_of(job)))
        assert kept[:22] == list(range(1, 23))
        assert kept[22:25] == [20, 21, 22]

    def test_revisions_that_no_execution_is_of_are_dropped(self) -> None:
        world = MemoryScene(history=1)
        job = world.create()
        (running,) = world.claim([world.service.run_now(str(job.id)).execution.id])
        for timeout in range(1, 5):
            world.service.update(str(job.id), {"timeout_seconds": timeout})
        assert world.memory.jobs[job.id].revisions.keys() == {1, 5}
        world.executions.record([record(running)])
        world.advance(timedelta(seconds=1))
        finished(world, str(job.id))
        assert world.memory.jobs[job.id].revisions.keys() == {5}

    def test_deleted_jobs_are_forgotten_when_there_are_many_and_they_have_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "DELETED_JOBS", 2)
        world = MemoryScene()
        running = world.create()
        (claimed,) = world.claim([world.service.run_now(str(running.id)).execution.id])
        jobs = [world.create() for _ in range(3)]
        for job in (running, *jobs):
            world.service.delete(str(job.id))
        with pytest.raises(NotFound):
            world.history_of(jobs[0])
        assert world.history_of(jobs[1]) == []
        world.executions.record([record(claimed)])
        assert world.states_of(running) == ["SUCCEEDED"]
        assert len(world.memory.jobs) == 2
        assert len(list(world.history.list(None, ExecutionQuery()).items)) == 1

    def test_keys_that_are_over_are_forgotten(self) -> None:
        world = MemoryScene()
        job = world.create(overlap="allow")
        for number in range(5):
            world.service.run_now(str(job.id), key=f"old-{number}")
        world.advance(timedelta(hours=24))
        world.service.run_now(str(job.id), key="new")
        assert list(world.memory.keys) == ["new"]


def test_arrow_that_is_not_in_the_state_machine_is_refused() -> None:
    world = MemoryScene()
    world.due()
    (claimed,) = world.claim(world.dispatched())
    world.executions.release([token(claimed)], delay=NO_TIME)
    row = world.memory.rows[claimed.id]
    with pytest.raises(RuntimeError, match="PENDING can not become SUCCEEDED"):
        world.memory.move(row, State.SUCCEEDED)
    assert row.state is State.PENDING


def test_what_is_stored_is_not_shared_with_whoever_gave_it() -> None:
    world = MemoryScene()
    headers = {"X-One": "1"}
    job = world.create(http_job={"url": "http://127.0.0.1:9/", "headers": headers})
    headers["X-One"] = "2"
    stored = world.service.get(str(job.id)).definition
    assert stored is not None
    assert dict(stored.target.headers) == {"X-One": "1"}


class TestAgenda:
    def test_keys_come_in_order_of_their_moments_and_within_bounds(self) -> None:
        agenda, start = Agenda(), datetime(2030, 1, 1, tzinfo=UTC)
        keys = sorted(uuid4() for _ in range(6))
        for key, seconds in zip(keys, (5, 1, 3, 3, 9, 2), strict=True):
            agenda.set(key, start + timedelta(seconds=seconds))
        agenda.set(keys[1], None)
        agenda.set(keys[4], start)
        assert agenda.earliest() == start
        assert agenda.up_to(start + timedelta(seconds=3)) == [keys[4], keys[5], keys[2], keys[3]]
        assert agenda.up_to(start + timedelta(seconds=3), after=start, limit=2) == [keys[5], keys[2]]
        assert agenda.later_than(start + timedelta(seconds=3)) == [keys[0]]
        assert agenda.up_to(start - timedelta(seconds=1)) == []


class TestWaker:
    @staticmethod
    def slept(waker: MemoryWaker, timeout: timedelta, *, before: datetime | None = None) -> float:
        started = time.monotonic()
        waker.wait(timeout, before=before or datetime.now(UTC) + timeout)
        return time.monotonic() - started

    def test_wait_ends_at_its_time(self) -> None:
        assert self.slept(MemoryWaker(Memory()), timedelta(milliseconds=50)) >= 0.05

    def test_new_job_wakes_a_scheduler_that_waits_for_a_later_moment(self) -> None:
        world = MemoryScene()
        waker = MemoryWaker(world.memory)
        before, ended = world.now() + LONG, threading.Event()

        def wait() -> None:
            waker.wait(3 * LONG, before=before)
            ended.set()

        threading.Thread(target=wait, daemon=True).start()
        world.create(delay_seconds=3600)
        assert not ended.wait(0.2)  # later than what it waits for
        world.create(delay_seconds=5)
        wait_until("the wait ends", ended.is_set)

    def test_what_was_announced_before_the_wait_counts(self) -> None:
        world = MemoryScene()
        waker = MemoryWaker(world.memory)
        job = world.create(delay_seconds=5)
        assert self.slept(waker, LONG, before=world.now() + LONG) < 10
        assert job.next_run is not None
        assert self.slept(waker, timedelta(milliseconds=50), before=world.now() + LONG) >= 0.05

    @pytest.mark.parametrize("how", ["record", "release", "run", "cancel", "rescue"])
    def test_whatever_becomes_due_is_announced(self, how: str) -> None:
        world = MemoryScene()
        job = world.due(overlap="queue")
        (claimed,) = world.claim(world.dispatched())
        if how == "cancel":
            world.executions.release([token(claimed)], delay=NO_TIME)
        waiting = [world.service.run_now(str(job.id), may_wait=True) for _ in range(how == "cancel")]
        waker = MemoryWaker(world.memory)
        world.advance(LONG * 3)
        {
            "record": lambda: world.executions.record([record(claimed, State.PENDING)]),
            "release": lambda: world.executions.release([token(claimed)], delay=NO_TIME),
            "run": lambda: world.service.run_now(str(world.create().id)),
            "cancel": lambda: world.service.cancel(str(claimed.id)),
            "rescue": lambda: world.dispatch.rescue(grace=NO_TIME, spare=None),
        }[how]()
        assert self.slept(waker, LONG, before=world.now() + timedelta(seconds=1)) < 10
        assert [world.history.get(one.execution.id).state for one in waiting] == [State.PENDING] * len(waiting)

    def test_wake_ends_the_wait_at_once(self) -> None:
        waker = MemoryWaker(Memory())
        waker.wake()
        assert self.slept(waker, LONG) < 10
