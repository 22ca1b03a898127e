"""Waker in memory: a scheduler sleeps until a moment that another thread announced."""

import threading
from datetime import datetime, timedelta

from gnomon.storage.memory.state import Memory


class MemoryWaker:
    """Waker on a condition variable. `wait` measures real time, whatever the clock of the memory says."""

    def __init__(self, memory: Memory) -> None:
        # Its lock is reentrant: a signal may come, and `wake` be called, while this very thread holds it.
        self._condition = threading.Condition()
        self._woken = False
        self._earliest: datetime | None = None
        memory.listen(self)

    def wait(self, timeout: timedelta, *, before: datetime) -> None:
        """What was announced since the last wait counts too."""
        with self._condition:
            self._condition.wait_for(lambda: self._woken or self._is_early(before), timeout.total_seconds())
            self._woken, self._earliest = False, None

    def wake(self) -> None:
        """Safe in a signal handler."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def announce(self, moment: datetime) -> None:
        """Something is due then."""
        with self._condition:
            self._earliest = moment if self._earliest is None else min(self._earliest, moment)
            self._condition.notify_all()

    def _is_early(self, before: datetime) -> bool:
        return self._earliest is not None and self._earliest < before
