"""Finding out that a worker is deaf: connected, and yet no message arrives that was sent.

Each known way to become deaf is prevented where it arises (transport.py, consumer.py). This is for those not known yet:
whoever hears nothing can't tell silence from deafness, but the store can.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from gnomon.job.errors import Unavailable

log = logging.getLogger(__name__)

LIMIT = timedelta(seconds=60)
LOOKS = 20  # in the time of the limit
# A message that was sent a moment ago may still be under way. Less than the first publish slot (15 s) would do as well;
# more would leave no moment to see an execution in between two messages.
UNDER_WAY = 0.25  # of the limit


class Overlooked(Protocol):
    """ExecutionStore.overlooked, for the queues of this worker."""

    def __call__(self, *, oldest: timedelta, newest: timedelta) -> int: ...


class ConsumeWatchdog:
    """Asks the store, once nothing has been heard for `limit`, whether something should have been.

    Time counts as silent only while this worker is connected and has nothing to do. It starts anew with each message
    that arrives, of whatever kind; while the broker or the store is away, because then nothing is sent; and after the
    process itself stood still (SIGSTOP, a frozen VM), because then messages wait to be read. So neither an outage nor a
    burst that waits its turn, neither other workers that died with messages in their hands nor executions that no
    message can bring to a claim look like deafness.
    """

    def __init__(
        self,
        *,
        overlooked: Overlooked,
        is_busy: Callable[[], bool],
        limit: timedelta = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_busy`: whether anything is in flight. It and `overlooked` are called by the thread that calls `look`."""
        self.limit = limit
        self._overlooked = overlooked
        self._is_busy = is_busy
        self._clock = clock
        self._last_look = self._silent_since = clock()

    @property
    def pause(self) -> timedelta:
        """Between two looks."""
        return self.limit / LOOKS

    def heard(self) -> None:
        """A message has arrived; from any thread."""
        self._silent_since = self._clock()

    def look(self, *, connected: bool) -> int:
        """How many executions were overlooked; 0 unless this worker is deaf. `connected`: as far as it knows."""
        now = self._clock()
        stood_still = now - self._last_look > 5 * self.pause.total_seconds()
        self._last_look = now
        if stood_still or not connected or self._is_busy():
            self._silent_since = now
            return 0
        silent_since = self._silent_since
        if now - silent_since < self.limit.total_seconds():
            return 0
        overlooked = self._ask(timedelta(seconds=now - silent_since))
        return overlooked if silent_since == self._silent_since and not self._is_busy() else 0

    def _ask(self, silent: timedelta) -> int:
        try:
            return self._overlooked(oldest=silent, newest=UNDER_WAY * self.limit)
        except Unavailable:
            self._silent_since = self._clock()
            return 0
