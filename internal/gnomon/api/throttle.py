"""Counting what went wrong, by whom, in bounded memory."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED = 10_000


class Throttle:
    """At most `limit` failures of one name within `seconds`.

    It remembers the 10,000 names that failed last: whoever commands more addresses than that has a new one anyway, and
    nobody is mistaken for another. Safe in threads.
    """

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, and how many
        self._lock = threading.Lock()

    def wait(self, name: str) -> float:
        """Seconds until the name may try again; 0 when it may now."""
        with self._lock:
            since, count = self._counted(name)
        return 0.0 if count < self._limit else max(since + self._seconds - self._clock(), 0.0)

    def failed(self, name: str) -> None:
        """Counts a failure."""
        with self._lock:
            since, count = self._counted(name)
            self._failures[name] = (since, count + 1)
            self._failures.move_to_end(name)
            if len(self._failures) > REMEMBERED:
                self._failures.popitem(last=False)

    def _counted(self, name: str) -> tuple[float, int]:
        now = self._clock()
        since, count = self._failures.get(name, (now, 0))
        return (since, count) if now - since < self._seconds else (now, 0)
