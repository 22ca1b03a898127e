"""Schedulers and workers at once: each execution is published, claimed and recorded by one of them."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from support.timed import TimedScene, insist, together
from support.world import LEASE, record, token

from gnomon.job.model import Job, State
from gnomon.job.ports import DispatchStore, ExecutionQuery, ExecutionStore
from gnomon.scheduler.dispatch import plan_batch

JOBS, MOMENTS = 50, 40
PART = 50


def test_two_schedulers_and_four_workers_share_two_thousand_executions(world: TimedScene) -> None:
    jobs = [world.create(interval_seconds=10, overlap="allow", misfire={"grace_seconds": 3600}) for _ in range(JOBS)]
    world.make_due(*jobs, ago=(MOMENTS - 1) * 10)
    messages: list[UUID] = []
    claimed: Counter[tuple[UUID, int]] = Counter()
    written: Counter[UUID] = Counter()
    lock = threading.Lock()
    done = threading.Event()

    def schedule() -> None:
        """Until nothing is due; what the other has locked is left to it."""
        store = world.scheduler()
        while is_due(store):
            batch = insist(lambda: store.dispatch(plan_batch, limit=10))
            with lock:
                for ids in batch.published.values():
                    messages.extend([*ids, *ids])  # a broker may repeat

    def is_due(store: DispatchStore) -> bool:
        now = insist(store.horizon).now
        return any(job.next_run is not None and job.next_run <= now for job in map(read, jobs))

    def read(job: Job) -> Job:
        return insist(lambda: world.service.get(str(job.id)))

    def work(number: int) -> None:
        store = world.worker(f"worker-{number}")
        while not (done.is_set() and not messages):
            with lock:
                part = [messages.pop() for _ in range(min(PART, len(messages)))]
            if part:
                attempt(store, part)

    def attempt(store: ExecutionStore, part: Sequence[UUID]) -> None:
        """What a worker does: the same delivery asks again, and so does the same record."""
        delivery = uuid4()
        taken = insist(lambda: store.claim(part, delivery=delivery, lease=LEASE))
        records = [record(one, owner=delivery) for one in taken]
        recorded = insist(lambda: store.record(records) | store.recorded_before(records)) if records else set()
        with lock:
            claimed.update((one.id, one.attempt) for one in taken)
            written.update(recorded)

    def all_schedule() -> None:
        together(schedule, schedule)
        done.set()

    together(all_schedule, *[lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
    assert len(claimed) == len(written) == JOBS * MOMENTS
    assert set(claimed.values()) == set(written.values()) == {1}
    assert {attempt for _, attempt in claimed} == {1}
    states = Counter(one.state for one in world.history.list(None, ExecutionQuery(limit=5_000)).items)
    assert states == {State.SUCCEEDED: JOBS * MOMENTS}


def test_each_attempt_is_ended_by_one_of_those_that_try(world: TimedScene) -> None:
    """A worker records, another gives back and a scheduler rescues, all at once: one of them is believed."""
    world.make_due(*[world.create(interval_seconds=86_400) for _ in range(60)])
    taken = world.claim(world.dispatched())
    world.advance(LEASE + timedelta(seconds=1))
    recorded: set[UUID] = set()
    released: set[UUID] = set()
    rescued: list[int] = []

    def write() -> None:
        for one in taken:
            recorded.update(insist(partial(world.executions.record, [record(one)])))

    def give_back() -> None:
        for one in taken:
            released.update(insist(partial(world.executions.release, [token(one)], delay=timedelta(0))))

    def rescue() -> None:
        store = world.scheduler()
        once = partial(store.rescue, grace=timedelta(0), spare=None)
        rescued.extend(insist(once).requeued for _ in range(10))

    together(write, give_back, rescue)
    assert not recorded & released
    assert len(recorded) + len(released) + sum(rescued) == len(taken)
    succeeded = world.history.list(None, ExecutionQuery(limit=100, states=[State.SUCCEEDED])).items
    assert {one.id for one in succeeded} == recorded
