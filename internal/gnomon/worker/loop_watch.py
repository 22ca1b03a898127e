"""Notices an event loop that a handler blocks, and who it is."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

from gnomon.worker.flights import monotonic

log = logging.getLogger(__name__)


class LoopWatch:
    """A thread that looks after the loop it is made on. It ends with `stop`.

    `give_up` is called once, from this thread, when the loop has not moved for `patience`: nothing on it can end any
    more, neither by its timeout nor by a cancellation.
    """

    LOOK_SECONDS = 0.2
    SAY_SECONDS = 1.0

    def __init__(self, *, patience: timedelta, give_up: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._patience = patience.total_seconds()
        self._give_up = give_up
        self._moved_at = monotonic()
        self._said = False
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()

    def _run(self) -> None:
        looked_at = monotonic()
        while not self._stopping.wait(self.LOOK_SECONDS):
            now = monotonic()
            if now - looked_at > 5 * self.LOOK_SECONDS:
                self._moved_at = now  # this thread has not run either: the whole process stood still
            looked_at = now
            try:
                self._loop.call_soon_threadsafe(self._move)
            except RuntimeError:  # it is closed
                return
            if self._look(now - self._moved_at):
                return

    def _move(self) -> None:
        self._moved_at = monotonic()
        self._said = False

    def _look(self, seconds: float) -> bool:
        """Whether it has given up."""
        if seconds > self._patience:
            log.error(
                "%s has blocked the event loop for %.0f s, and with it all that runs here: this process ends, its"
                " executions are rescued when their leases end",
                self._culprit(),
                seconds,
            )
            self._give_up()
            return True
        if seconds > self.SAY_SECONDS and not self._said:
            self._said = True
            log.warning(
                "%s blocks the event loop (for %.1f s now), and with it all that runs here: let it await, or declare it"
                " with def",
                self._culprit(),
                seconds,
            )
        return False

    def _culprit(self) -> str:
        """The running task's name, and where it is."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread_id)
        place = f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        return f"{task.get_name() if task else 'something'}{place}"
