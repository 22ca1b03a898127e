"""Each kind of store as a scene whose clock a test moves. The clock stands still in between where the store allows it.

STORES is the table that tests/conformance runs through: a store is one line of it.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest

from gnomon.job.service import JobService
from gnomon.storage.memory.dispatch import MemoryDispatchStore
from gnomon.storage.memory.executions import MemoryExecutionStore
from gnomon.storage.memory.history import MemoryHistoryStore
from gnomon.storage.memory.jobs import MemoryJobStore
from gnomon.storage.memory.runs import MemoryRunStore
from gnomon.storage.memory.state import Memory
from gnomon.storage.postgres.dispatch import PostgresDispatchStore
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.storage.redis.dispatch import RedisDispatchStore
from gnomon.storage.redis.executions import RedisExecutionStore
from support.catalog import KnownCatalog
from support.keys import SEAL
from support.redis_world import RedisWorld
from support.timed import START, Names, TimedScene
from support.world import World


class MemoryScene(TimedScene):
    def __init__(self, *, history: int = 1_000) -> None:
        self._now = START
        self._history = history
        self.clear()

    def advance(self, time: timedelta) -> None:
        self._now += time

    def clear(self) -> None:
        self.memory = Memory(clock=lambda: self._now, history=self._history)
        self.dispatch = self.scheduler()
        self.executions = self.worker("worker-1")
        self.history = MemoryHistoryStore(self.memory)
        jobs, runs = MemoryJobStore(self.memory), MemoryRunStore(self.memory)
        self.service = JobService(jobs=jobs, runs=runs, history=self.history, catalog=KnownCatalog(), seal=SEAL)

    def worker(self, name: str) -> MemoryExecutionStore:
        return MemoryExecutionStore(self.memory, worker=name)

    def scheduler(self, *, names: Names = None) -> MemoryDispatchStore:
        return MemoryDispatchStore(self.memory, names=names)


class PostgresScene(TimedScene):
    """The sessions' search path leads to a `now()` of ours before the server's, so every statement is as it is."""

    def __init__(self, database_url: str) -> None:
        make_clock(database_url)
        self._world = World(database_url)
        self.service = self._world.service
        self.dispatch = self._world.dispatch
        self.executions = self._world.executions
        self.history = self._world.history

    def clear(self) -> None:
        self._world.sql("truncate jobs, job_revisions, job_events, executions, attempts, tallies, idempotency_keys")

    def advance(self, time: timedelta) -> None:
        self._world.sql("update clock.hands set at = at + :time", time=time)

    def close(self) -> None:
        self._world.close()

    def worker(self, name: str) -> PostgresExecutionStore:
        return self._world.worker(name)

    def scheduler(self, *, names: Names = None) -> PostgresDispatchStore:
        return self._world.scheduler(names=names)


def make_clock(database_url: str) -> None:
    """In a database that no session uses yet."""
    world = World(database_url)
    world.sql("create schema clock")
    world.sql("create table clock.hands (at timestamptz not null)")
    world.sql("insert into clock.hands values (:start)", start=START)
    for name in ("now", "clock_timestamp"):
        body = "language sql stable as 'select at from clock.hands'"
        world.sql(f"create function clock.{name}() returns timestamptz {body}")
    for column in ("executions.created_at", "job_events.at", "job_revisions.created_at"):
        table, _, name = column.partition(".")
        world.sql(f"alter table {table} alter column {name} set default clock.now()")
    world.sql(f"alter database {world.engine.url.database} set search_path = clock, pg_catalog, public")
    world.close()


class RedisScene(TimedScene):
    """Its clock is held. At the end its indices have to say what its rows say."""

    def __init__(self, url: str) -> None:
        self._world = RedisWorld(url)
        self._world.database.open()
        self.service = self._world.service
        self.dispatch = self._world.dispatch
        self.executions = self._world.executions
        self.history = self._world.history
        self._now = START
        self._world.hold_clock(START)

    def advance(self, time: timedelta) -> None:
        self._now += time
        self._world.hold_clock(self._now)

    def clear(self) -> None:
        assert self._world.problems() == []
        self._world.client.flushdb()
        self._world.database.open()
        self._world.hold_clock(self._now)

    def close(self) -> None:
        problems = self._world.problems()
        self._world.close()
        assert problems == []

    def worker(self, name: str) -> RedisExecutionStore:
        return self._world.worker(name)

    def scheduler(self, *, names: Names = None) -> RedisDispatchStore:
        return self._world.scheduler(names=names)


STORES: dict[str, Callable[[pytest.FixtureRequest], TimedScene]] = {
    "memory": lambda request: MemoryScene(),
    "redis": lambda request: RedisScene(request.getfixturevalue("redis_url")),
    "postgres": lambda request: PostgresScene(request.getfixturevalue("database_url")),
}
