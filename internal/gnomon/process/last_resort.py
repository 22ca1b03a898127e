"""A stop that ends, whatever hangs: a server that is frozen, not gone, can hold a call up for ever.

And the end of a process that can't go on as it is, so that its supervisor starts it again.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Protocol

EXIT_CODE = os.EX_SOFTWARE
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


def end_process(stop: Callable[[], None], *, within: timedelta) -> None:
    """Asks for an orderly end by `stop`; ends the process as it is when that takes longer. Does not return.

    Called in a daemon thread, because the main thread may be the one that hangs. The orderly end has to see to the exit
    code itself: EXIT_CODE.
    """
    stop()
    time.sleep(within.total_seconds())
    _log.error("the orderly end takes longer than %g s: this process ends as it is", within.total_seconds())
    logging.shutdown()
    os._exit(EXIT_CODE)


@contextmanager
def stoppable() -> Iterator[None]:
    """Around all that a service does, until it exits. Main thread only.

    During imports and the reading of settings nothing has begun, so a stop ends the process, until its own handlers
    take over. Nor do signals change anything once it is on its way out: Python gives up its handlers before the end.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(os.EX_OK)
