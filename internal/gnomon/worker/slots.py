"""How many executions a worker process may have in flight: the only back-pressure there is."""

import threading


class Slots:
    """A counting semaphore that hands out as many as are free, up to what is wanted."""

    # One claim costs the database a round trip whatever its size, so it pays to wait a moment for company.
    GATHER_SECONDS = 0.005

    def __init__(self, capacity: int) -> None:
        self._free = self._capacity = capacity
        self._closed = False
        self._changed = threading.Condition()
        self._needed = 1  # by whoever takes now

    def take(self, wanted: int) -> int:
        """Waits until at least one is free and takes up to `wanted`; 0 once closed.

        For one caller after the other: several at once would share what is free, and make small claims of it.
        """
        with self._changed:
            while not self._closed:
                self._await(1, None)
                self._await(min(wanted, self._capacity), self.GATHER_SECONDS)
                taken = min(wanted, self._free)
                if taken > 0 and not self._closed:
                    self._free -= taken
                    return taken
            return 0

    def give(self, count: int) -> None:
        """Gives taken slots back."""
        with self._changed:
            self._free += count
            if self._free >= min(self._needed, self._capacity):
                self._changed.notify_all()

    def keep(self) -> None:
        """Takes one without waiting, even where none is free: for what holds on after its own was given back."""
        with self._changed:
            self._free -= 1

    def close(self) -> None:
        """Hands out no more; whoever waits gets 0."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def in_use(self) -> int:
        """How many are taken now."""
        return self._capacity - self._free

    def wait_until_idle(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until none is taken; tells whether that happened."""
        with self._changed:
            return self._changed.wait_for(lambda: self._free == self._capacity, timeout)

    def _await(self, needed: int, timeout: float | None) -> None:
        self._needed = needed
        self._changed.wait_for(lambda: self._free >= needed or self._closed, timeout)
