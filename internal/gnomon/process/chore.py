"""Work that a process repeats until it is told to stop, whatever fails in between."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from gnomon.job.errors import Unavailable
from gnomon.process.backoff import Backoff, draw
from gnomon.process.outage import Outage

_log = logging.getLogger(__name__)


class Stop(Protocol):
    """What a loop needs of a StopSignal."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleeps up to `timeout` seconds, or until the stop."""


def run_chore(
    name: str,
    step: Callable[[], timedelta | None],
    stop: Stop,
    *,
    backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    clock: Callable[[], float] = time.monotonic,
    rand: Callable[[], float] = draw,
) -> None:
    """Calls `step` until `stop`. It returns how long to sleep; None means it slept itself, or has more to do.

    Unavailable is told once an outage; any other exception each time, with its traceback. After both the chore waits
    as `backoff` says, which `stop` cuts short, and goes on.
    """
    outage = Outage(name, backoff=backoff, clock=clock, log=_log, rand=rand)
    while not stop.is_set():
        pause = _attempt(step, outage)
        if pause:
            stop.wait(pause.total_seconds())


def _attempt(step: Callable[[], timedelta | None], outage: Outage) -> timedelta | None:
    try:
        pause = step()
    except Unavailable as error:
        return outage.unavailable(error)
    except Exception:
        return outage.unexpected()
    outage.over()
    return pause
