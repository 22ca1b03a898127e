"""Turns a message into outcomes: lets what Boarding has claimed fly. Knows neither Celery nor Postgres."""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from gnomon.job.errors import Unavailable
from gnomon.job.model import Delivery
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Claimed, ExecutionStore, Record
from gnomon.job.sealing import Open, no_open
from gnomon.job.target import Target
from gnomon.worker.boarding import Boarding
from gnomon.worker.defects import log_defect
from gnomon.worker.errands import Errands
from gnomon.worker.executors import BrokenOff, Call, Executor
from gnomon.worker.flights import Abort, Flight, Flights, monotonic
from gnomon.worker.recorder import Recorder
from gnomon.worker.slots import Slots
from gnomon.worker.turns import At, Place, Turns
from gnomon.worker.verdict import NO_STRATEGIES, Interrupted, Strategies, Tried, judge
from gnomon.worker.waiting_room import WaitingRoom

log = logging.getLogger(__name__)

CONSEQUENCES = {
    Abort.LEASE_LOST: "its lease ended; a scheduler gives it to another worker",
    Abort.CANCELLED: "it was cancelled",
    Abort.SHUTDOWN: "this worker stops; another tries it again at once, unless it may have been sent at most once",
}


class Runner:
    """Runs executions on one event loop, in a thread of its own.

    `admit` is called by many threads at once and returns when the last id has been claimed and handed to the loop (or
    dropped): the slots are the only back-pressure, so a slow target holds up nothing but itself.

    No host gets more than `per_host` slots, unless it is quick and fewer than `most_per_host` are taken in all. Beyond
    these as many executions as `per_host` wait here, claimed and without a slot; the rest is put off before the claim.
    """

    TRUST_CHECK_SECONDS = 0.25
    FAREWELL_SECONDS = 2.0  # of the grace, for breaking off what is late and recording it
    LONGEST_WAIT_SECONDS = 60.0  # for its turn; then another worker may be free for it

    def __init__(
        self,
        *,
        store: ExecutionStore,
        executors: Callable[[], Executor[Target]],
        new_loop: Callable[[], asyncio.AbstractEventLoop],
        concurrency: int,
        lease: timedelta,
        strategies: Strategies = NO_STRATEGIES,
        knows: Callable[[Target], bool] = lambda _: True,
        unseal: Open = no_open,
        per_host: int | None = None,
        most_per_host: int | None = None,
        clock: Callable[[], datetime] | None = None,
        hold: int = 0,
    ) -> None:
        """`knows`: what this worker can run; the rest is given back, for another that can. `unseal` opens secrets.

        `clock` asks the store for the time; with it, up to `hold` ids whose moment is still to come wait here for it.
        """
        self._strategies = strategies
        self._make_executors = executors
        self._loop = new_loop()
        self._slots = Slots(concurrency)
        self._turns = Turns(per_host, most=most_per_host)
        self._taking_room = threading.Lock()
        self._errands = Errands()
        self._flights = Flights()
        self._recorder = Recorder(store, self._flights, lease=lease, abort=self._abort)
        self._stopping = threading.Event()
        self._grounded = threading.Event()
        self._boarding = Boarding(
            store=store,
            unseal=unseal,
            knows=knows,
            strategies=strategies,
            turns=self._turns,
            recorder=self._recorder,
            lease=lease,
            grounded=self._grounded,
            missed=lambda ids: self._waiting_room.look_again(ids),
        )
        self._waiting_room = WaitingRoom(self._admit, prepare=self._boarding.prepare, ask=clock, places=hold)
        self._landed: list[tuple[Flight, Record | None]] = []
        self._executors: Executor[Target]
        self._thread = threading.Thread(target=self._loop.run_forever, name="effects", daemon=True)

    def start(self) -> None:
        """Starts the loop and the recorder."""
        self._thread.start()
        self._executors = asyncio.run_coroutine_threadsafe(self._build_executors(), self._loop).result()
        self._loop.call_soon_threadsafe(self._break_off_untrusted)
        self._recorder.start()
        self._errands.start()
        self._waiting_room.start()

    def admit(self, ids: Sequence[UUID]) -> None:
        """Claims and starts all of `ids` that are still to be run, waiting for slots as needed.

        Those whose moment is still to come are kept until then, and this returns without waiting for them.
        """
        self._waiting_room.admit(ids)

    def _admit(self, ids: Sequence[UUID]) -> None:
        left = list(ids)
        while left:
            count, foreseen = self._room_for(len(left))
            if count == 0:
                self._boarding.give_up(left)
                return
            part, left = left[:count], left[count:]
            self._admit_part(part, foreseen=foreseen)

    def _room_for(self, wanted: int) -> tuple[int, bool]:
        """How many slots it took, none once closed, and whether they can be called whatever their hosts.

        One message after the other: those that wait for a host would keep slots that nobody uses meanwhile.
        """
        with self._taking_room:
            count = self._slots.take(wanted)
            foreseen = self._turns.foresee(count) if count else 0
        if 0 < foreseen < count:
            self._slots.give(count - foreseen)
            count = foreseen
        return count, foreseen > 0

    def drain(self, grace: timedelta) -> None:
        """Admits no more, lets what is in flight finish, gives back or breaks off the rest, records everything.

        It takes no longer than `grace`, give or take two seconds. A second call does nothing.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        ends_at = monotonic() + grace.total_seconds()
        self._slots.close()
        self._turns.close()
        if held := self._waiting_room.close():
            self._boarding.give_up(held)
        self._send_back_waiting()
        farewell = min(self.FAREWELL_SECONDS, grace.total_seconds() / 4)
        idle = self._slots.wait_until_idle(grace.total_seconds() - farewell)
        self._send_back_waiting()  # what was being claimed when the others went
        if not idle:
            self._ground()
        self._errands.stop(timedelta(seconds=self.FAREWELL_SECONDS / 2))
        unwritten = self._recorder.stop(timedelta(seconds=max(ends_at - monotonic(), self.FAREWELL_SECONDS)))
        if unwritten:
            log.error(
                "%s outcomes could not be recorded; their executions are rescued when their leases end", unwritten
            )
        self._close()

    def _ground(self) -> None:
        """Breaks off all flights; from now on none takes off."""
        self._grounded.set()
        late = self._flights.all()
        if late:
            log.warning("%s executions have not finished in time and are broken off", len(late))
        for flight in late:
            self._abort(flight, Abort.SHUTDOWN)
        self._slots.wait_until_idle(self.FAREWELL_SECONDS / 2)

    def _close(self) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._executors.aclose(), self._loop).result(self.FAREWELL_SECONDS)
        except TimeoutError:
            log.warning("the connections to targets could not be closed in time")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self.FAREWELL_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def keep_place(self) -> Callable[[], None]:
        """Keeps one more place taken until what is returned is called: for what goes on when its attempt is over."""
        self._slots.keep()
        return lambda: self._slots.give(1)

    def runs_this_thread(self) -> bool:
        """Whether the event loop's thread is the caller."""
        return threading.current_thread() is self._thread

    @property
    def in_flight(self) -> int:
        """Executions claimed and not finished."""
        return self._slots.in_use

    async def _build_executors(self) -> Executor[Target]:
        return self._make_executors()

    def _admit_part(self, ids: Sequence[UUID], *, foreseen: bool) -> None:
        """Takes the place of `len(ids)` slots; those that are not used are given back."""
        places: dict[UUID, Place] = {}
        flights: list[Flight] = []
        try:
            flights = self._boarding.board(ids if foreseen else self._boarding.seat(ids, places), places)
            if flights:
                self._flights.add(flights)
                self._loop.call_soon_threadsafe(self._take_off, flights)
        finally:
            if foreseen:
                self._turns.settle(len(ids))
            self._slots.give(len(ids) - sum(place.began_calling for place in places.values()))
            unused = places.keys() - {flight.claimed.id for flight in flights}
            self._leave([places[execution_id] for execution_id in unused])

    def _take_off(self, flights: Iterable[Flight]) -> None:
        """On the loop. Those whose turn it is fly; `_leave` calls the others."""
        for flight in flights:
            if self._turns.park(flight.place, flight) is At.CALLING:
                self._begin(flight)

    def _begin(self, flight: Flight) -> None:
        if self._grounded.is_set():
            self._abort(flight, Abort.SHUTDOWN)
        if flight.started or flight.abort is not None:
            flight.task = self._loop.create_task(self._fly(flight))
        else:
            self._errands.add(partial(self._start_late, flight))

    def _start_late(self, flight: Flight) -> None:
        """S for one that waited: by the errands' thread."""
        try:
            started = self._boarding.start([flight], flight.owner)
        except Unavailable:  # this worker stops
            self._abort(flight, Abort.SHUTDOWN)
            started = [flight]
        if started:
            self._loop.call_soon_threadsafe(self._begin, flight)
        else:
            self._flights.remove([flight])
            self._leave([flight.place])

    def _leave(self, places: Iterable[Place]) -> None:
        """Each place goes, with its slot, to the next that waits for it; from any thread."""
        left = self._turns.leave(places)
        if left.slots:
            self._slots.give(left.slots)
        for flight in left.next:
            self._loop.call_soon_threadsafe(self._begin, flight)

    def _send_back_waiting(self) -> None:
        self._send_back([flight for flight in self._flights.all() if self._turns.withdraw(flight.place)])

    def _send_back_late(self) -> None:
        """Those that have waited for too long go, for another worker to take."""
        since = time.monotonic() - self.LONGEST_WAIT_SECONDS
        late = [f for f in self._flights.all() if f.place.at is At.WAITING and f.place.since < since]
        late = [flight for flight in late if self._turns.withdraw(flight.place)]
        if late:
            self._errands.add(partial(self._send_back, late))

    def _send_back(self, flights: Sequence[Flight]) -> None:
        """Gives back what has waited in vain, and is withdrawn."""
        self._flights.remove(flights)
        for owner, claimed in _by_owner(flights).items():
            self._boarding.give_back(claimed, owner)

    async def _fly(self, flight: Flight) -> None:
        flight.begun = True
        record = None
        try:
            started_at = monotonic()
            outcome = await self._outcome(flight)
            if flight.abort is not Abort.LEASE_LOST and not (isinstance(outcome, Succeeded) and outcome.recorded):
                record = self._judged(flight, outcome, timedelta(seconds=monotonic() - started_at))
        finally:
            self._landed.append((flight, record))
            if len(self._landed) == 1:
                self._loop.call_soon(self._clear_landed)

    def _clear_landed(self) -> None:
        """For all that ended since the loop was last here: together they cost little more than one.

        Slots are given back only when the outcomes are with the recorder: an idle runner has nothing left to record.
        """
        landed, self._landed = self._landed, []
        self._recorder.add(*(record for _, record in landed if record is not None))
        self._flights.remove([flight for flight, _ in landed])
        self._leave([flight.place for flight, _ in landed])

    def _judged(self, flight: Flight, outcome: Outcome | Interrupted, duration: timedelta) -> Record:
        tried = Tried.of(flight.claimed, flight.owner, duration, cancelled=flight.abort is Abort.CANCELLED)
        return judge(flight.definition, tried, outcome, self._strategies)

    async def _outcome(self, flight: Flight) -> Outcome | Interrupted:
        if flight.abort is not None:
            return _broken_off(flight.abort, Sent.NOT_SENT)
        try:
            return await self._execute(flight)
        except BrokenOff as error:
            return _broken_off(flight.abort, error.sent)
        except asyncio.CancelledError:
            return _broken_off(flight.abort, Sent.MAYBE_SENT)
        except Exception as error:
            log_defect(log, error, "execution %s: the executor failed", flight.claimed.id)
            return _failed("internal", "the worker failed while executing; its log has the reason")

    async def _execute(self, flight: Flight) -> Outcome:
        definition = flight.definition
        call = Call(
            execution_id=flight.claimed.id,
            job_id=flight.claimed.job_id,
            attempt=flight.claimed.attempt,
            scheduled_at=flight.claimed.scheduled_at,
            timeout=definition.timeout,
            fresh_connection=definition.delivery is Delivery.AT_MOST_ONCE,
        )
        return await self._executors.execute(definition.target, call)

    def _break_off_untrusted(self) -> None:
        """Ends attempts whose lease was not renewed in time, on the loop: a database that hangs can't delay it."""
        for flight in self._flights.all():
            if flight.trusted_until < monotonic():
                self._abort(flight, Abort.LEASE_LOST)
        self._send_back_late()
        self._loop.call_later(self.TRUST_CHECK_SECONDS, self._break_off_untrusted)

    def _abort(self, flight: Flight, reason: Abort) -> None:
        """Breaks an attempt off; from any thread."""
        if flight.abort is None:
            flight.abort = reason
            log.warning(
                "execution %s: attempt %s is broken off (%s)",
                flight.claimed.id,
                flight.claimed.attempt,
                CONSEQUENCES[reason],
                extra={"execution_id": str(flight.claimed.id), "job_id": str(flight.claimed.job_id)},
            )
            self._loop.call_soon_threadsafe(self._end, flight)

    def _end(self, flight: Flight) -> None:
        """On the loop. What has not begun will see `flight.abort`; what waits for its turn does so at once."""
        if flight.task is not None and flight.begun:
            flight.task.cancel()
        elif self._turns.withdraw(flight.place):
            flight.task = self._loop.create_task(self._fly(flight))


def _by_owner(flights: Iterable[Flight]) -> Mapping[UUID, list[Claimed]]:
    found: dict[UUID, list[Claimed]] = defaultdict(list)
    for flight in flights:
        found[flight.owner].append(flight.claimed)
    return found


def _broken_off(reason: Abort | None, sent: Sent) -> Failed | Interrupted:
    if reason is Abort.CANCELLED:
        return _failed("cancelled", "cancelled on request", sent)
    how_far = "begun" if sent is Sent.NOT_SENT else "ended"
    return Interrupted(sent=sent, message=f"the worker stopped before the call had {how_far}")


def _failed(code: str, message: str, sent: Sent = Sent.MAYBE_SENT) -> Failed:
    return Failed(code=code, message=message, sent=sent, permanent=False)
