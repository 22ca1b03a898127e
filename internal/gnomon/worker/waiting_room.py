"""Where ids wait that were dispatched ahead of their moment (A): nobody can claim them before it has come.

An id begins with its moment, and the store's clock decides. When it has come, ids are admitted together with those of
the following few milliseconds: a claim costs much the same whatever its size.
"""

import heapq
import logging
import math
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.errors import Unavailable
from gnomon.job.ids import EPOCH
from gnomon.worker.flights import monotonic

log = logging.getLogger(__name__)

Admit = Callable[[Sequence[UUID]], None]
MILLISECOND = timedelta(milliseconds=1)


class StoreClock:
    """What the store's clock shows, at least. It is asked again after a while: two clocks drift apart."""

    ASK_AGAIN_SECONDS = 5.0
    TRY_AGAIN_SECONDS = 1.0

    def __init__(self, ask: Callable[[], datetime]) -> None:
        self._ask = ask
        self._ahead = math.inf  # of our own
        self._ask_at = -math.inf
        self._lock = threading.Lock()

    def millis(self) -> float:
        """Since the epoch; infinite before the first answer: then nothing waits here."""
        with self._lock:
            if monotonic() >= self._ask_at:
                self._look()
            return self._ahead + 1_000 * monotonic()

    def _look(self) -> None:
        try:
            shown = (self._ask() - EPOCH) / MILLISECOND
        except Unavailable:  # what is asked of the store next insists
            self._ask_at = monotonic() + self.TRY_AGAIN_SECONDS
            return
        now = monotonic()  # it showed that no later than now
        self._ahead, self._ask_at = shown - 1_000 * now, now + self.ASK_AGAIN_SECONDS


class WaitingRoom:
    """Admits ids when their moment has come; safe from many threads. Without a clock that is at once.

    It holds up to `places` ids. Whoever brings more waits until there is room: the rest is left to other workers.
    """

    GATHER_MILLIS = 5.0
    # Twice the longest look-ahead. What is further away bears the time of a clock that is wrong: the claim decides.
    FARTHEST_MILLIS = 10_000.0
    # After the moment, of what a claim did not get: it may have met the lock of an edit that came to nothing, or the
    # store's clock was set back. Each costs a look at the row; what is not there any more is forgotten then.
    AGAIN_MILLIS = (100.0, 1_000.0)

    def __init__(self, admit: Admit, *, prepare: Admit, ask: Callable[[], datetime] | None, places: int) -> None:
        """`prepare` is called with what was taken in, by whoever brought it."""
        self._admit = admit
        self._prepare = prepare
        self._clock = None if ask is None else StoreClock(ask)
        self._places = places
        self._held: list[tuple[float, UUID]] = []  # a heap
        self._due: list[UUID] = []
        self._due_since = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="waiting-room", daemon=True)

    def start(self) -> None:
        """From now on what is held is admitted."""
        if self._clock is not None:
            self._thread.start()

    def admit(self, ids: Sequence[UUID]) -> None:
        """Returns when all are admitted, or held."""
        left = ids
        while left:
            now = self._now()
            with self._changed:
                due, held, left = self._sort(left, now)
                if left and not due and not held:
                    self._changed.wait((_ready(min(left)) - now) / 1_000)
            if due:
                self._admit(due)
            if held:
                self._prepare(held)

    def look_again(self, ids: Collection[UUID]) -> None:
        """What a claim did not get, where it may have been for the moment only."""
        now = self._now()
        with self._changed:
            for execution_id in ids:
                ready = _ready(execution_id)
                again = next((ready + after for after in self.AGAIN_MILLIS if now < ready + after), None)
                if again is not None and ready <= now + self.FARTHEST_MILLIS and not self._closed:
                    heapq.heappush(self._held, (again, execution_id))
            self._changed.notify_all()

    def close(self) -> list[UUID]:
        """Holds nothing any more; returns what was held."""
        with self._changed:
            self._closed = True
            left = [*self._due, *(execution_id for _, execution_id in self._held)]
            self._due, self._held = [], []
            self._changed.notify_all()
        return left

    def _now(self) -> float:
        return math.inf if self._clock is None else self._clock.millis()

    def _sort(self, ids: Sequence[UUID], now: float) -> tuple[list[UUID], list[UUID], list[UUID]]:
        """Those that are due, those that it holds from now on, and those for which there is no room."""
        due: list[UUID] = []
        held: list[UUID] = []
        left: list[UUID] = []
        for execution_id in ids:
            ready = _ready(execution_id)
            if self._closed or not now < ready <= now + self.FARTHEST_MILLIS:
                due.append(execution_id)
            elif len(self._held) + len(self._due) < self._places:
                heapq.heappush(self._held, (ready, execution_id))
                held.append(execution_id)
            else:
                left.append(execution_id)
        if held:
            self._changed.notify_all()
        return due, held, left

    def _run(self) -> None:
        while not self._closed:
            now = self._now()
            with self._changed:
                gathered = self._gathered(now)
                if not gathered and not self._closed:
                    self._changed.wait((self._held[0][0] - now) / 1_000 if self._held else None)
            if gathered:
                self._send(gathered)

    def _gathered(self, now: float) -> list[UUID]:
        """What has come, unless more follows in a moment."""
        if not self._due and self._held:
            self._due_since = self._held[0][0]
        while self._held and self._held[0][0] <= now:
            self._due.append(heapq.heappop(self._held)[1])
        more_follows = self._held and self._held[0][0] <= self._due_since + self.GATHER_MILLIS
        if not self._due or more_follows:
            return []
        gathered, self._due = self._due, []
        self._changed.notify_all()
        return gathered

    def _send(self, ids: Sequence[UUID]) -> None:
        try:
            self._admit(ids)
        except Unavailable as error:
            log.warning("%s executions were not admitted (%s); they are published again", len(ids), error)
        except Exception:
            log.exception("%s executions were not admitted; they are published again", len(ids))


def _ready(execution_id: UUID) -> float:
    """Milliseconds since the epoch: an id's moment is cut off there."""
    return (execution_id.int >> 80) + 1.0
