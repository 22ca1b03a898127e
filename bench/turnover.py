"""What executions cost at the product's own stores, one statement after the other, without processes or messages."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from support.world import World

from gnomon.job.model import Job, State
from gnomon.job.ports import Claimed, ExecutionQuery, JobQuery, Record, Token
from gnomon.scheduler.dispatch import plan_batch
from gnomon.scheduler.publish import Publisher
from gnomon.settings import Scheduler

Part = TypeVar("Part")

BATCH = 1_000  # as scheduler.max_concurrent_jobs
MESSAGE = 100
RECORDS = 200  # as the recorder's largest group
LEASE = timedelta(seconds=30)
PAGE = 50

INTERVAL = 30 * 86_400  # seconds: what has run is not due again by itself
# Jobs from all over the table: each index is met where a deployment would meet it.
MAKE_DUE = """
update jobs set next_run = now(), anchor_at = now() where id in (
    select (select id from jobs where id >= cast(md5(:seed || n) as uuid) and status = 'RUNNING' order by id limit 1)
    from generate_series(1, :count) as n
)
"""
SLOTS_OVER = "update executions set next_publish_at = now() where id = any(cast(:ids as uuid[]))"
LEASES_OVER = "update executions set lease_expires_at = now() - interval '10 s' where id = any(cast(:ids as uuid[]))"


def model(world: World) -> Job:
    """What the database's jobs are to be copies of."""
    return world.create(interval_seconds=INTERVAL, retry={"max_attempts": 10})


class Turnover:
    """Takes executions through their lives and keeps the time of each step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.scheduler(ahead=Scheduler().ahead)
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def figures(self) -> Mapping[str, float]:
        """Medians: microseconds per execution, or milliseconds of a question."""
        return {name: statistics.median(taken) for name, taken in self._seconds.items()}

    def make_due(self, batches: int) -> None:
        """Makes jobs due for so many times D, and all that was written for it old, as what falls due by itself is."""
        self._world.sql(MAKE_DUE, seed=str(uuid4()), count=batches * BATCH)
        self._world.sql("checkpoint")

    def dispatch(self) -> list[UUID]:
        """D, of a batch; none where nothing is due any more."""
        begun = time.perf_counter()
        dispatched = self._store.dispatch(plan_batch, limit=BATCH)
        taken = time.perf_counter() - begun
        if not dispatched.jobs:
            self._seconds["idle_scan_ms"].append(1e3 * taken)
            return []
        self._seconds["due_us"].append(1e6 * taken / dispatched.jobs)
        return [execution_id for part in dispatched.published.values() for execution_id in part]

    def republish(self, ids: Sequence[UUID]) -> None:
        """R1."""
        self._world.sql(SLOTS_OVER, ids=_array(ids))
        with self._per_execution("republish_us") as count:
            taken = self._store.republish(limit=Publisher.REPUBLISH_LIMIT)
            count(sum(map(len, taken.values())))

    def claim(self, ids: Sequence[UUID]) -> list[Claimed]:
        """C, message by message."""
        claimed: list[Claimed] = []
        for part in _parts(ids, MESSAGE):
            with self._per_execution("claim_us") as count:
                claimed += self._world.executions.claim(part, delivery=uuid4(), lease=LEASE)
                count(len(part))
        assert len(claimed) == len(ids), f"{len(ids) - len(claimed)} of {len(ids)} executions could not be claimed"
        return claimed

    def rescue(self, claimed: Sequence[Claimed]) -> None:
        """R2."""
        self._world.sql(LEASES_OVER, ids=_array([one.id for one in claimed]))
        with self._per_execution("rescue_us") as count:
            count(self._store.rescue(grace=timedelta(seconds=2), spare=None).requeued)

    def record(self, claimed: Sequence[Claimed]) -> None:
        """W, group by group."""
        for part in _parts(claimed, RECORDS):
            records = [_record(one) for one in part]
            with self._per_execution("record_us") as count:
                count(len(self._world.executions.record(records)))

    def ask(self) -> None:
        """What the API's lists cost, and a look of a scheduler that has nothing to do.

        The first look after a batch passes over what the batch left in the indexes, so one says little.
        """
        with self._whole("list_ms"):
            page = self._world.jobs.list(JobQuery(limit=PAGE))
        with self._whole("history_ms"):
            self._world.history.list(page.items[0].id, ExecutionQuery(limit=PAGE))
        with self._whole("horizon_ms"):
            self._store.horizon()
        assert not self.dispatch(), "jobs fell due by themselves"

    @contextmanager
    def _per_execution(self, name: str) -> Iterator[Callable[[int], None]]:
        counted: list[int] = []
        begun = time.perf_counter()
        yield counted.append
        taken = time.perf_counter() - begun
        (count,) = counted
        assert count, f"{name}: the step met no execution"
        self._seconds[name].append(1e6 * taken / count)

    @contextmanager
    def _whole(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._seconds[name].append(1e3 * (time.perf_counter() - begun))


def _parts(whole: Sequence[Part], size: int) -> Iterator[Sequence[Part]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _array(ids: Sequence[UUID]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"


def _record(claimed: Claimed) -> Record:
    return Record(
        token=Token(id=claimed.id, attempt=claimed.attempt),
        owner=uuid4(),
        state=State.SUCCEEDED,
        duration=timedelta(milliseconds=20),
        failed=False,
        response_status=200,
        response_excerpt="ok",
    )
