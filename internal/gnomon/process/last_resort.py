"""A stop that ends, whatever hangs: a server that is frozen, not gone, can hold a call up for ever."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Protocol

_log = logging.getLogger(__name__)


class Stopping(Protocol):
    """What is needed of a StopSignal."""

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Calls `callback` at the stop."""


def end_within(limit: timedelta, stop: Stopping, *, end: Callable[[int], object] = os._exit) -> None:
    """Ends the process `limit` after the stop was asked for, with exit code 0, if it is still there.

    Nothing is lost by it: what was under way is found by its timestamps and taken up by others.
    """

    def give_up() -> None:
        _log.error("something still hangs %d s after the stop; the process ends without it", limit.total_seconds())
        end(os.EX_OK)

    def start() -> None:
        timer = threading.Timer(limit.total_seconds(), give_up)
        timer.daemon = True
        timer.start()

    stop.on_stop(start)


def end_at_sigterm() -> None:
    """For the time of imports and settings: nothing has begun, so a stop has nothing to wait for. Main thread only.

    The process's own handlers replace it.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(os.EX_OK)
