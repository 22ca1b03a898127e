"""R1 and the sending of messages, in a thread of its own: a broker that hangs must not hold up dispatch."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from gnomon.job.errors import Unavailable
from gnomon.job.ports import DispatchStore, ExecutionQueue
from gnomon.scheduler.watchdog import SendWatchdog

log = logging.getLogger(__name__)

Parcel = tuple[str, Sequence[UUID]]


class Publisher:
    """Sends what it is given and, when kicked, what is due to be sent again.

    While the broker is away it gives publish slots back and takes none, until a probe succeeds. `watchdog` bounds each
    call of the broker; a queue that can't hang needs none.
    """

    WAITING = 256
    REPUBLISH_LIMIT = 10_000
    # Ids in one call, so that a slow broker gets through it well within the watchdog's time.
    CALL_LIMIT = 1_000
    LOSS_CHECK_SECONDS = 1.0
    PROBE_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

    def __init__(self, store: DispatchStore, broker: ExecutionQueue, watchdog: SendWatchdog | None) -> None:
        self._store = store
        self._broker = broker
        self._watchdog = watchdog
        self._parcels: queue.Queue[Parcel | None] = queue.Queue(maxsize=self.WAITING)
        self._kicked = threading.Event()
        self._stopping = threading.Event()
        self._failures = 0
        self._lost = False
        self._next_loss_check = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Starts the thread, and the watch over it."""
        self._thread.start()
        if self._watchdog is not None:
            self._watchdog.start()

    def submit(self, to: str, ids: Sequence[UUID]) -> None:
        """Queues ids for sending; never waits. What finds no room is published again by R1."""
        try:
            self._parcels.put_nowait((to, ids))
        except queue.Full:
            log.warning("%s executions wait for their next publish slot: the broker is too slow", len(ids))

    def kick(self) -> None:
        """Asks for a look at what is due to be published again; never waits."""
        self._kicked.set()
        if self._parcels.empty():
            self._put_marker()

    def stop(self, timeout: timedelta) -> None:
        """Sends what is queued, as far as the time allows."""
        self._stopping.set()
        self._put_marker()
        self._thread.join(timeout.total_seconds())
        if self._watchdog is not None:
            self._watchdog.stop()

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._watchdog is None else self._watchdog.watched()

    def _put_marker(self) -> None:
        try:
            self._parcels.put_nowait(None)
        except queue.Full:
            return  # the thread is busy and will look at the flags when it is through

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._parcels.empty()):
            try:
                self._turn(self._parcels.get())
            except Unavailable as error:
                log.warning("publishing waits for the database: %s", error)
                self._stopping.wait(1.0)
            except Exception:
                log.exception("publishing met an unexpected error; it goes on")
                self._stopping.wait(1.0)

    def _turn(self, parcel: Parcel | None) -> None:
        if parcel is not None:
            self._send(*parcel)
        if self._failures and not self._probe():
            return
        if self._kicked.is_set():
            self._kicked.clear()
            self._republish()

    def _send(self, to: str, ids: Sequence[UUID]) -> None:
        for start in range(0, len(ids), self.CALL_LIMIT):
            self._send_part(to, ids[start : start + self.CALL_LIMIT])

    def _send_part(self, to: str, ids: Sequence[UUID]) -> None:
        if self._failures:
            self._store.return_slots(ids)
            return
        try:
            with self._watched():
                self._broker.publish(to, ids)
        except Unavailable as error:
            self._failures = 1
            log.warning("the broker does not take messages (%s): executions wait and are published when it does", error)
            self._store.return_slots(ids)

    def _probe(self) -> bool:
        if self._stopping.is_set():
            return False
        self._stopping.wait(self.PROBE_SECONDS[min(self._failures, len(self.PROBE_SECONDS)) - 1])
        try:
            with self._watched():
                self._broker.probe()
        except Unavailable:
            self._failures += 1
            self.kick()
            return False
        log.info("the broker takes messages again")
        self._failures = 0
        self._kicked.set()
        return True

    def _republish(self) -> None:
        self._look_for_loss()
        while not self._stopping.is_set() and not self._failures:
            due = self._store.republish(limit=self.REPUBLISH_LIMIT)
            for to, ids in due.items():
                self._send(to, ids)
            if sum(map(len, due.values())) < self.REPUBLISH_LIMIT:
                return

    def _look_for_loss(self) -> None:
        if time.monotonic() < self._next_loss_check:
            return
        self._next_loss_check = time.monotonic() + self.LOSS_CHECK_SECONDS
        try:
            with self._watched():
                self._lost = self._broker.lost_messages() or self._lost
        except Unavailable as error:
            self._failures = 1
            log.warning("the broker does not answer: %s", error)
            return
        if self._lost:
            freed = self._store.free_slots()
            self._lost = False  # not before: the broker tells of each loss once
            if freed:
                log.warning("the broker may have lost its messages: %s executions are published again", freed)
