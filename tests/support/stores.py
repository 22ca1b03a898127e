"""Each kind of store as a scene whose clock a test moves. The clock stands still in between where the store allows it.

STORES is the table that tests/conformance runs through: a store is one line of it.
"""

import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

import pytest

from gnomon.job.model import Job
from gnomon.job.ports import DispatchStore
from gnomon.job.service import JobService
from gnomon.storage.memory.dispatch import MemoryDispatchStore
from gnomon.storage.memory.executions import MemoryExecutionStore
from gnomon.storage.memory.history import MemoryHistoryStore
from gnomon.storage.memory.jobs import MemoryJobStore
from gnomon.storage.memory.runs import MemoryRunStore
from gnomon.storage.memory.state import Memory
from gnomon.storage.postgres.dispatch import PostgresDispatchStore
from gnomon.storage.postgres.executions import PostgresExecutionStore
from support.catalog import KnownCatalog
from support.world import Scene, World

Names = Callable[[], Collection[str]] | None
START = datetime(2030, 1, 7, 12, tzinfo=UTC)
TICK = timedelta(milliseconds=1)


class TimedScene(Scene):
    """A scene in which time passes when a test says so."""

    def advance(self, time: timedelta) -> None:
        """Time passes for the whole store."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what the store holds."""

    def scheduler(self, *, names: Names = None) -> DispatchStore:
        """That of another process, for jobs of these names only, if there are any."""
        raise NotImplementedError

    def now(self) -> datetime:
        return self.dispatch.horizon().now

    def make_due(self, *jobs: Job, ago: float = 0.0) -> datetime:
        """Waits until the next moment of the last of these jobs was due `ago` seconds ago; that moment."""
        moments = [self.service.get(str(job.id)).next_run for job in jobs]
        last = max(moment for moment in moments if moment is not None)
        self.advance(last + timedelta(seconds=ago) - self.now())
        return last

    def due(self, **document: object) -> Job:
        """A job that is due now."""
        job = self.create(**document)
        self.make_due(job)
        return job


class MemoryScene(TimedScene):
    def __init__(self, *, history: int = 1_000) -> None:
        self._now = START
        self.memory = Memory(clock=lambda: self._now, history=history)
        self.dispatch = self.scheduler()
        self.executions = self.worker("worker-1")
        self.history = MemoryHistoryStore(self.memory)
        jobs, runs = MemoryJobStore(self.memory), MemoryRunStore(self.memory)
        self.service = JobService(jobs=jobs, runs=runs, history=self.history, catalog=KnownCatalog())

    def advance(self, time: timedelta) -> None:
        self._now += time

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


STORES: dict[str, Callable[[pytest.FixtureRequest], TimedScene]] = {
    "memory": lambda request: MemoryScene(),
    "postgres": lambda request: PostgresScene(request.getfixturevalue("database_url")),
}


def together(*calls: Callable[[], object]) -> None:
    """Calls them at the same time, each in a thread of its own, and raises what one of them raised."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
