"""Time by hand: what a program registered, run moment by moment in a test, without waiting.

`pytest_plugins = ["gnomon.testing"]` in a conftest.py gives the fixture `gnomon_scheduler`. docs/library.md has more.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from gnomon.bootstrap.stores import Stores
from gnomon.job.model import Definition, Delivery, State
from gnomon.job.outcome import Failed, Outcome, Sent
from gnomon.job.ports import Claimed, Token
from gnomon.job.target import HandlerTarget
from gnomon.library.durations import Duration, read_duration
from gnomon.library.scheduler import Scheduler
from gnomon.scheduler.dispatch import plan_batch
from gnomon.worker.arguments import InvalidPayload
from gnomon.worker.executors import Call
from gnomon.worker.executors.python import context_of, failed, raised, returned
from gnomon.worker.handlers import Handler, declared_strategies
from gnomon.worker.verdict import Tried, judge

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
LEASE = timedelta(days=1)  # never lost: nothing runs while time passes
BATCH = 1_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt that was run by `advance`. `error` is what the handler raised; `result` the text that is kept.

    `state` is what became of the execution: PENDING where it is tried again later.
    """

    job: str
    execution_id: UUID
    scheduled_at: datetime
    at: datetime
    attempt: int
    state: State
    result: str | None
    error: BaseException | None


class ManualScheduler(Scheduler):
    """A Scheduler in memory whose time stands still until `advance`; it has no threads and needs no start.

    Handlers run in the caller's thread, one after the other, each at its own moment, and take no time; timeouts are
    not kept. Retries come after the whole pause of their policy, not shortened by chance.
    """

    def __init__(self, *, now: datetime = BEGINNING) -> None:
        """`now` is aware."""
        super().__init__("memory://")
        self._now = now
        self._clock = lambda: self._now

    @classmethod
    def of(cls, scheduler: Scheduler, *, now: datetime = BEGINNING) -> Self:
        """With all that is registered with another one, which is left as it is."""
        manual = cls(now=now)
        for registration in scheduler._registrations.values():
            manual._take(registration)
        return manual

    @property
    def now(self) -> datetime:
        """The time by the store's clock, in UTC."""
        return self._now

    def start(self) -> None:
        """Stores what is registered; what is due is run by `advance`."""
        self._service()

    def stop(self, *, grace: Duration | None = None) -> None:
        """There is nothing to stop."""

    def run(self) -> None:
        """Would wait for ever."""
        raise RuntimeError("the time of a ManualScheduler passes by advance() only")

    def advance(self, duration: Duration, *, reraise: bool = False) -> Sequence[Run]:
        """Lets so much time pass ("1h", 90, timedelta) and runs all that falls due, retries included, in order.

        `advance(0)` runs what is due now. Returns the attempts; with `reraise` the first error of a handler comes out
        instead, and time stands still at its moment.
        """
        end = self._now + read_duration(duration)
        runs: list[Run] = []
        for moment in self._moments(end):
            self._now = max(self._now, moment)
            for run in self._run_due():
                runs.append(run)
                if reraise and run.error is not None:
                    raise run.error
        self._now = end
        return runs

    def _moments(self, end: datetime) -> Iterable[datetime]:
        """Those at which something is due, up to `end`, the present first."""
        yield self._now
        with self._lock:
            stores = self._open()
        while (ahead := stores.dispatch.horizon()).at is not None and ahead.at <= end:
            yield ahead.at

    def _run_due(self) -> Iterable[Run]:
        """All that is due now, and what becomes due by its end."""
        with self._lock:
            stores = self._open()
        while True:
            done = stores.dispatch.dispatch(plan_batch, limit=BATCH)
            again = stores.dispatch.republish(limit=BATCH)
            ids = [one for published in (done.published, again) for ids in published.values() for one in ids]
            if not ids and not done.jobs:
                return
            for execution_id in sorted(ids, key=lambda one: self._order(stores, one)):
                yield from self._attempt(stores, execution_id)

    def _order(self, stores: Stores, execution_id: UUID) -> tuple[datetime, str]:
        """Ids of the same moment are in no order that a test could rely on; names are."""
        execution = stores.history.get(execution_id)
        return execution.scheduled_at, stores.jobs.get(execution.job_id).name or ""

    def _attempt(self, stores: Stores, execution_id: UUID) -> Iterable[Run]:
        delivery = uuid4()
        for claimed in stores.executions.claim([execution_id], delivery=delivery, lease=LEASE):
            key = (claimed.job_id, claimed.revision)
            definition = stores.executions.definitions([key])[key]
            if definition.delivery is Delivery.AT_MOST_ONCE:
                token = Token(id=claimed.id, attempt=claimed.attempt)
                stores.executions.start([token], delivery=delivery, margin=timedelta(0))
            outcome, error = self._call(definition, claimed)
            tried = Tried(claimed=claimed, owner=delivery, duration=timedelta(0), cancelled=False, rand=0.0)
            stores.executions.record([judge(definition, tried, outcome, declared_strategies())])
            yield Run(
                job=definition.name or "",
                execution_id=claimed.id,
                scheduled_at=claimed.scheduled_at,
                at=self._now,
                attempt=claimed.attempt,
                state=stores.history.get(claimed.id).state,
                result=None if isinstance(outcome, Failed) else outcome.response_excerpt,
                error=error,
            )

    def _call(self, definition: Definition, claimed: Claimed) -> tuple[Outcome, BaseException | None]:
        target = definition.target
        assert isinstance(target, HandlerTarget)  # the library makes no other
        handler = self._find(target.name)
        assert handler is not None  # a job that is removed has no executions left
        call = Call(
            execution_id=claimed.id,
            job_id=claimed.job_id,
            attempt=claimed.attempt,
            scheduled_at=claimed.scheduled_at,
            timeout=definition.timeout,
        )
        try:
            positional, named = handler.arguments.of(target.payload, context_of(call))
        except InvalidPayload as error:
            return failed("invalid_payload", str(error), Sent.NOT_SENT, permanent=True), error
        try:
            return returned(_result(handler, positional, named)), None
        except Exception as error:
            return raised(handler.name, claimed.id, error), error


def _result(handler: Handler, positional: Sequence[Any], named: dict[str, Any]) -> Any:
    result = handler.function(*positional, **named)
    return _finish(result) if inspect.iscoroutine(result) else result


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In this thread, unless it runs an event loop itself, as that of an async test does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


with contextlib.suppress(ImportError):  # the fixture is for those who have pytest
    import pytest

    @pytest.fixture
    def gnomon_scheduler() -> ManualScheduler:
        """A ManualScheduler of the test's own."""
        return ManualScheduler()
