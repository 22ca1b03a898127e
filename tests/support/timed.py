"""A scene whose clock a test moves, and calls that happen at once."""

import contextlib
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from gnomon.job.errors import Unavailable
from gnomon.job.model import Job
from gnomon.job.ports import DispatchStore
from support.world import Scene

Value = TypeVar("Value")
Names = Callable[[], Collection[str]] | None
START = datetime(2030, 1, 7, 12, tzinfo=UTC)
TICK = timedelta(milliseconds=1)


class TimedScene(Scene):
    """A scene in which time passes when a test says so."""

    def advance(self, time: timedelta) -> None:
        """Time passes for the whole store."""
        raise NotImplementedError

    def clear(self) -> None:
        """Empties the store."""
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
        self.advance(max(last + timedelta(seconds=ago) - self.now(), timedelta(0)))
        return last

    def due(self, **document: object) -> Job:
        """A job that is due now."""
        job = self.create(**document)
        self.make_due(job)
        return job


def insist(call: Callable[[], Value]) -> Value:
    """As a client does that is told to come again: a busy machine keeps locks for longer than a store waits."""
    while True:
        with contextlib.suppress(Unavailable):
            return call()


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
