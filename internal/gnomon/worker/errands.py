"""What the event loop has to ask the store for, in a thread of its own: the loop itself must never wait."""

import logging
import queue
import threading
from collections.abc import Callable
from datetime import timedelta

log = logging.getLogger(__name__)


class Errands:
    """Runs them one after the other. No error ends the thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="errands", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, errand: Callable[[], None]) -> None:
        """From any thread, at once."""
        self._queue.put(errand)

    def stop(self, timeout: timedelta) -> None:
        """Runs what was added before, as far as the time is enough."""
        self._queue.put(None)
        self._thread.join(timeout.total_seconds())

    def _run(self) -> None:
        while (errand := self._queue.get()) is not None:
            try:
                errand()
            except Exception:
                log.exception("an errand met an unexpected error; what it was for is rescued when its lease ends")
