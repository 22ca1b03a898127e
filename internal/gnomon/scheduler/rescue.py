"""R2: attempts whose lease ended go back to the queue, or end."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from gnomon.job.ports import DispatchStore, Rescued

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=2)
# After an outage of the database, and after its own start, a scheduler can't tell a dead worker from one that could not
# renew: for a while only leases that ended long ago are rescued, so that living workers record first.
SPARING = timedelta(seconds=15)
SPARED = timedelta(minutes=2)


class Rescuer:
    """Runs R2 and remembers outages. `spread` is how far apart executions are tried that were lost repeatedly.

    A lease is a good measure of it: a culprit strikes at most once in that time.
    """

    def __init__(
        self,
        store: DispatchStore,
        *,
        spread: timedelta = timedelta(seconds=30),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._spread = spread
        self._clock = clock
        self._sparing_until = clock() + SPARING.total_seconds()
        self._spared = SPARED
        self._last_round = clock()

    def after_outage(self) -> None:
        """The database was away, and nobody could renew since the last round."""
        now = self._clock()
        self._sparing_until = now + SPARING.total_seconds()
        self._spared = SPARED + timedelta(seconds=now - self._last_round)

    def run_once(self) -> Rescued:
        """One round."""
        now = self._clock()
        spare = self._spared if now < self._sparing_until else None
        rescued = self._store.rescue(grace=GRACE, spare=spare, spread=self._spread)
        self._last_round = now
        if rescued.requeued or rescued.failed or rescued.unknown:
            log.warning(
                "lost attempts: %s run again, %s failed for good, %s have an unknown outcome",
                rescued.requeued,
                rescued.failed,
                rescued.unknown,
            )
        return rescued
