"""Attempts for executors under test, and their callers on each event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import uvloop

from gnomon.job.target import HttpTarget
from gnomon.worker.executors import Call

LOOPS = {"uvloop": uvloop.new_event_loop, "selector": asyncio.SelectorEventLoop}


class Closable(Protocol):
    """Whoever drives an executor on a loop of its own."""

    def close(self) -> None: ...


Caller = TypeVar("Caller", bound=Closable)


def make_call(**fields: Any) -> Call:
    """The first attempt of some execution."""
    defaults = {
        "execution_id": uuid4(),
        "job_id": uuid4(),
        "attempt": 1,
        "scheduled_at": datetime.now(UTC),
        "timeout": timedelta(seconds=20),
    }
    return Call(**{**defaults, **fields})


def unchecked(url: str) -> HttpTarget:
    """A target with a URL that no job could be given: what the executor must stand up to by itself."""
    target = HttpTarget(url="http://placeholder.example/")
    object.__setattr__(target, "url", url)
    return target


@contextlib.contextmanager
def callers(make: Callable[..., Caller]) -> Iterator[Callable[..., Caller]]:
    """As `make`, and closes all that it made at the end."""
    with contextlib.ExitStack() as stack:

        def make_closing(**settings: Any) -> Caller:
            caller = make(**settings)
            stack.callback(caller.close)
            return caller

        yield make_closing
