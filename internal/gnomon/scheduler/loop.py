"""When a scheduler wakes and what it does then."""

import time
from collections.abc import Callable
from datetime import timedelta

from gnomon.job.errors import Contended, Unavailable
from gnomon.job.ports import DispatchStore, Horizon, Waker
from gnomon.scheduler.dispatch import Dispatcher
from gnomon.scheduler.publish import Publisher
from gnomon.scheduler.rescue import Rescuer

RESCUE_SECONDS = 1.0
RESCUED_AT_ONCE = 1_000  # at most, in one round: then there may be more
# While jobs keep falling due, R1 looks so often. What is due for it earlier ends the sleep at once, and then it looks.
REPUBLISH_SECONDS = 0.1
# What stays due after a turn is locked by another scheduler, or waits for the broker: look again, but not at once.
OVERDUE_PAUSE = timedelta(milliseconds=100)
# Where a turn found some, the others have just fallen due: one batch for what comes in that time.
TICK = timedelta(milliseconds=10)


class SchedulerLoop:
    """One turn: dispatch until nothing is due, rescue, sleep until the next moment or an announcement.

    `interval` is the longest sleep between scans; `stopping` is looked at between batches.
    """

    def __init__(
        self,
        *,
        store: DispatchStore,
        dispatcher: Dispatcher,
        publisher: Publisher,
        rescuer: Rescuer,
        waker: Waker,
        interval: timedelta,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._publisher = publisher
        self._rescuer = rescuer
        self._waker = waker
        self._interval = interval
        self._stopping = stopping
        self._next_rescue = self._next_republish = 0.0
        self._was_overdue = False

    def turn(self) -> None:
        """Raises Unavailable when the database does not answer; workers then get time to record before a rescue."""
        try:
            found_some = self._dispatch()
            ahead = self._store.horizon()
        except Contended:
            raise
        except Unavailable:
            self._rescuer.after_outage()
            raise
        if not self._stopping():
            self._sleep(ahead, found_some=found_some)

    def _dispatch(self) -> bool:
        """However much is due, what was lost has its turn in between. Whether any was."""
        found_some = False
        while True:
            done = self._dispatcher.run_once()
            self._republish(idle=not done.jobs)
            self._rescue()
            found_some = found_some or done.jobs > 0
            if not (done.full or done.behind) or self._stopping():
                return found_some

    def _republish(self, *, idle: bool) -> None:
        if idle or time.monotonic() >= self._next_republish:
            self._publisher.kick()
            self._next_republish = time.monotonic() + REPUBLISH_SECONDS

    def _rescue(self) -> None:
        if time.monotonic() >= self._next_rescue:
            rescued = self._rescuer.run_once()
            if rescued.total < RESCUED_AT_ONCE:
                self._next_rescue = time.monotonic() + RESCUE_SECONDS

    def _sleep(self, ahead: Horizon, *, found_some: bool) -> None:
        until = ahead.now + self._interval
        overdue = ahead.at is not None and ahead.at <= ahead.now
        if overdue and found_some:
            until = ahead.now + TICK
        elif overdue:
            until = ahead.now + OVERDUE_PAUSE if self._was_overdue else ahead.now
        elif ahead.at is not None:
            until = min(until, ahead.at)
        self._was_overdue = overdue and not found_some
        self._waker.wait(until - ahead.now, before=until)
