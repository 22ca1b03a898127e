"""A time limit for a whole call of the broker, kept by a thread that is not the one that calls.

Each wait of a driver has a limit of its own; this is for a broker that answers slowly for ever, and for a driver that
hangs where there is no limit.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from gnomon.job.ports import ExecutionQueue

log = logging.getLogger(__name__)

LIMIT = timedelta(seconds=30)
LAST_LIMIT = timedelta(seconds=60)


class SendWatchdog:
    """Breaks off a call that takes longer than `limit`; calls `give_up` when even that does not end it in `last_limit`.

    `give_up` is called in the watchdog's thread, once.
    """

    def __init__(
        self,
        broker: ExecutionQueue,
        *,
        give_up: Callable[[], None],
        limit: timedelta = LIMIT,
        last_limit: timedelta = LAST_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._give_up = give_up
        self._limit = limit.total_seconds()
        self._last_limit = last_limit.total_seconds()
        self._clock = clock
        self._began: float | None = None
        self._broke_off: float | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish-watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; never waits."""
        self._stopping.set()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around the one call that is under way."""
        with self._lock:
            self._began, self._broke_off = self._clock(), None
        try:
            yield
        finally:
            with self._lock:
                self._began = None

    def look(self) -> bool:
        """False when it is of no use to look again."""
        with self._lock:  # so that a call that has just ended leaves its successor alone
            if self._began is None:
                return True
            now = self._clock()
            if self._broke_off is None:
                if now - self._began > self._limit:
                    self._broke_off = now
                    self._break_off(now - self._began)
                return True
            if now - self._broke_off <= self._last_limit:
                return True
        log.error(
            "publishing hangs where it can't be broken off: this process ends for its supervisor to start it again; "
            "what is due is published by another scheduler, or then"
        )
        self._give_up()
        return False

    def _break_off(self, waited: float) -> None:
        log.warning(
            "the broker has kept a call for %.0f s: its connection is dropped; what was being sent is published again",
            waited,
        )
        self._broker.break_off()

    def _run(self) -> None:
        pause = min(1.0, self._limit / 10)
        while not self._stopping.wait(pause):
            try:
                if not self.look():
                    return
            except Exception:
                log.exception("watching over the publisher met an unexpected error; it goes on")
