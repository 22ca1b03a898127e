"""One thread for what a worker says to the database after the claim: outcomes in groups, leases, cancellations."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from gnomon.job.errors import Unavailable
from gnomon.job.ports import ExecutionStore, Record, Unrecordable
from gnomon.worker.flights import Abort, Flight, Flights, monotonic, trusted_until

log = logging.getLogger(__name__)


class Recorder:
    """Group commit of outcomes (W) and renewal of leases. No outcome and no outage can end its thread.

    `abort` is called, from this thread, with each flight to break off and the reason.
    """

    FLUSH_SECONDS = 0.02
    GROUP = 200
    RENEW_CHECK_SECONDS = 1.0
    CANCEL_CHECK_SECONDS = 2.0
    RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

    def __init__(
        self, store: ExecutionStore, flights: Flights, *, lease: timedelta, abort: Callable[[Flight, Abort], None]
    ) -> None:
        self._store = store
        self._flights = flights
        self._lease = lease
        self._abort = abort
        self._outcomes: deque[Record] = deque()
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._next_renewal = self._next_cancel = 0.0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, *records: Record) -> None:
        """Takes outcomes; from any thread, at once."""
        self._outcomes.extend(records)
        if not self._arrived.is_set():  # it is cleared before the outcomes are looked at
            self._arrived.set()

    def stop(self, timeout: timedelta) -> int:
        """Writes what is left and ends the thread; the number of outcomes that could not be written in time.

        Those executions are rescued when their leases end.
        """
        self._stopping.set()
        self._arrived.set()
        self._thread.join(timeout.total_seconds())
        return len(self._outcomes)

    def _run(self) -> None:
        while not (self._stopping.is_set() and not self._outcomes):
            try:
                self._turn()
            except Exception:
                log.exception("the recorder met an unexpected error; it goes on")
                self._stopping.wait(self.RETRY_SECONDS[-1])

    def _turn(self) -> None:
        self._arrived.wait(self.RENEW_CHECK_SECONDS / 4)
        if len(self._outcomes) < self.GROUP:
            self._stopping.wait(self.FLUSH_SECONDS)
        self._arrived.clear()
        while self._outcomes:
            self._flush(min(self.GROUP, len(self._outcomes)))
            self._look_after_leases()
        self._look_after_leases()

    def _flush(self, count: int) -> None:
        # an outcome leaves the deque only once it is written, so that nothing on the way can lose it
        group = [self._outcomes[index] for index in range(count)]
        self._write(group)
        for _ in range(count):
            self._outcomes.popleft()

    def _write(self, group: Sequence[Record]) -> None:
        try:
            self._write_whole(group)
        except Exception as error:
            if not isinstance(error, Unrecordable):
                log.exception("%s outcomes met an unexpected error; each is tried by itself", len(group))
            if len(group) > 1:
                half = len(group) // 2
                self._write(group[:half])
                self._write(group[half:])
            else:
                self._write_bare(group[0])

    def _write_bare(self, record: Record) -> None:
        try:
            self._write_whole([record.without_texts()])
        except Exception:  # it must not stand in the way of those behind it
            log.exception(
                "execution %s: its outcome can't be stored; it is rescued when its lease ends",
                record.token.id,
                extra={"execution_id": str(record.token.id)},
            )

    def _write_whole(self, group: Sequence[Record]) -> None:
        for tries in itertools.count():
            try:
                missing = self._missing(group, self._store.record(group), repeated=tries > 0)
            except Unavailable as error:
                if tries == 0:
                    log.warning("%s outcomes wait to be recorded: %s", len(self._outcomes), error)
                time.sleep(self.RETRY_SECONDS[min(tries, len(self.RETRY_SECONDS) - 1)])  # a stop waits for it
                self._look_after_leases()
                continue
            for record in missing:
                log.warning(
                    "execution %s: attempt %s was taken over, so its outcome (%s) is dropped",
                    record.token.id,
                    record.token.attempt,
                    record.state.value,
                    extra={"execution_id": str(record.token.id)},
                )
            return

    def _missing(self, group: Sequence[Record], written: set[UUID], *, repeated: bool) -> list[Record]:
        missing = [record for record in group if record.token.id not in written]
        if missing and repeated:
            before = self._store.recorded_before(missing)
            missing = [record for record in missing if record.token.id not in before]
        return missing

    def _look_after_leases(self) -> None:
        now = monotonic()
        try:
            if now >= self._next_renewal:
                self._next_renewal = now + self.RENEW_CHECK_SECONDS
                self._renew(now)
            if now >= self._next_cancel:
                self._next_cancel = now + self.CANCEL_CHECK_SECONDS
                self._ask_for_cancellations()
        except Unavailable as error:
            log.warning("leases can't be renewed now: %s", error)

    def _renew(self, now: float) -> None:
        old = [f for f in self._flights.all() if now - f.renewed_at > self._lease.total_seconds() / 3]
        if not old:
            return
        sent_at = monotonic()
        kept = self._store.renew([flight.token for flight in old], lease=self._lease)
        for flight in old:
            if flight.token.id in kept:
                flight.renewed_at = sent_at
                flight.trusted_until = trusted_until(sent_at, self._lease)
            else:
                self._abort(flight, Abort.LEASE_LOST)

    def _ask_for_cancellations(self) -> None:
        flights = {flight.token.id: flight for flight in self._flights.all()}
        if flights:
            for execution_id in self._store.cancel_requested([flight.token for flight in flights.values()]):
                self._abort(flights[execution_id], Abort.CANCELLED)
