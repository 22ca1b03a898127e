"""Makes flights of ids: claims them, reads what they are to do, finds each its place. Knows no event loop."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from gnomon.job.errors import Unavailable
from gnomon.job.model import Definition, Delivery
from gnomon.job.ports import Claimed, ExecutionStore, Token
from gnomon.job.sealing import Open
from gnomon.job.target import Target
from gnomon.worker.definitions import Closed, Key, RecentDefinitions
from gnomon.worker.flights import Flight, monotonic, trusted_until
from gnomon.worker.recorder import Recorder
from gnomon.worker.turns import At, Later, Place, Turns, host_of
from gnomon.worker.verdict import Strategies, Tried, closed, judge, not_begun, unreadable

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Boarding:
    """From ids to flights that may take off; safe from many threads.

    While the store is away it asks again, until `grounded`: then it raises Unavailable. What it has claimed and can't
    let fly it gives back, or has its outcome recorded.
    """

    RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
    DEFECT_PAUSE = timedelta(seconds=15)
    LACKING_PAUSE = timedelta(seconds=2)
    LONGEST_PAUSE = timedelta(seconds=60)

    def __init__(
        self,
        *,
        store: ExecutionStore,
        unseal: Open,
        knows: Callable[[Target], bool],
        strategies: Strategies,
        turns: Turns,
        recorder: Recorder,
        lease: timedelta,
        grounded: threading.Event,
        missed: Callable[[Collection[UUID]], None],
    ) -> None:
        """`knows`: what this worker can run; the rest is given back, for another that can. `unseal` opens secrets.

        `missed` is called with what a claim did not get.
        """
        self._store = store
        self._knows = knows
        self._strategies = strategies
        self._turns = turns
        self._recorder = recorder
        self._lease = lease
        self._grounded = grounded
        self._missed = missed
        self._definitions = RecentDefinitions(store, unseal)

    def prepare(self, ids: Sequence[UUID]) -> None:
        """Reads the definitions that are needed when the moment has come. What fails here is tried again then."""
        try:
            self._definitions.of(set(self._store.pending(ids).values()))
        except Exception as error:
            log.debug("definitions are not read ahead: %s", error)

    def seat(self, ids: Sequence[UUID], places: dict[UUID, Place]) -> Sequence[UUID]:
        """Which of `ids` to claim, as a host might get too many: those that have places. The others are put off.

        `places` gets each place as it is taken, also where this raises.
        """
        pending = self._insist(lambda: self._store.pending(ids))
        definitions = self._definitions_of(set(pending.values())) if pending else {}
        crowded: dict[str, list[UUID]] = defaultdict(list)
        for execution_id, key in pending.items():
            definition = definitions.get(key)
            host = host_of(definition.target) if isinstance(definition, Definition) else None
            place = self._turns.reserve(host)
            if place is not None:
                places[execution_id] = place
            elif host is not None:
                crowded[host].append(execution_id)
        for host, late in crowded.items():
            self._put_off(late, self._turns.put_off(host, len(late)))
        return list(places)

    def board(self, ids: Sequence[UUID], places: dict[UUID, Place]) -> list[Flight]:
        """C, and S where a second effect is forbidden. `places` has those of `seat`, and gets the others'."""
        if not ids:
            return []
        delivery, sent_at = uuid4(), monotonic()
        claimed = self._insist(lambda: self._store.claim(ids, delivery=delivery, lease=self._lease))
        if len(claimed) < len(ids):
            self._missed(set(ids).difference(one.id for one in claimed))
        if not claimed:
            return []
        try:
            flights = self._trusted(self._known(self._readable(claimed, delivery, sent_at), delivery))
            flights = self._seated(flights, places, delivery)
            return self._trusted(self.start(flights, delivery))
        except Unavailable:
            self.give_back(claimed, delivery)
        except Exception:
            log.exception("%s executions could not be prepared; they are tried again in a while", len(claimed))
            self.give_back(claimed, delivery, delay=self.DEFECT_PAUSE)
        return []

    def start(self, flights: list[Flight], delivery: UUID) -> list[Flight]:
        """Gives back the at-most-once flights whose start could not be marked in time: they must not be sent.

        What waits for its turn is marked then.
        """
        marking = [flight for flight in flights if not flight.started and flight.place.at is not At.WAITING]
        if not marking:
            return flights
        tokens = [flight.token for flight in marking]
        started = self._insist(lambda: self._store.start(tokens, delivery=delivery, margin=self._lease / 2))
        for flight in marking:
            flight.started = flight.token.id in started
        refused = {flight.claimed.id for flight in marking if not flight.started}
        if refused:
            self.give_back([flight.claimed for flight in marking if not flight.started], delivery)
        return [flight for flight in flights if flight.claimed.id not in refused]

    def give_back(self, claimed: Sequence[Claimed], delivery: UUID, *, delay: timedelta = timedelta(0)) -> None:
        """Attempts that were not sent. What L refuses or can't be asked for is left to the recorder, which insists.

        L refuses where the start was marked, even if the reply to that was lost.
        """
        try:
            released = self._store.release([Token(id=one.id, attempt=one.attempt) for one in claimed], delay=delay)
        except Unavailable as error:
            log.warning("%s executions could not be released (%s); it is tried until the end", len(claimed), error)
            released = set()
        for one in claimed:
            if one.id not in released:
                self._recorder.add(not_begun(Tried.of(one, delivery, timedelta(0)), delay=delay))

    def give_up(self, ids: Sequence[UUID]) -> None:
        """What was not claimed: others may have it at once."""
        try:
            self._store.return_slots(ids)
        except Unavailable as error:
            log.warning("%s executions of a message were not admitted (%s); they are published again", len(ids), error)

    def _put_off(self, ids: Sequence[UUID], later: Later) -> None:
        try:
            self._store.return_slots(ids, delay=later.delay, spread=later.spread)
        except Unavailable as error:
            log.warning("%s executions could not be put off (%s); they are published again soon", len(ids), error)

    def _readable(self, claimed: Sequence[Claimed], delivery: UUID, sent_at: float) -> list[Flight]:
        definitions = self._definitions_of({(one.job_id, one.revision) for one in claimed})
        flights = []
        for one in claimed:
            definition = definitions.get((one.job_id, one.revision))
            if isinstance(definition, Definition):
                flights.append(self._flight(one, definition, delivery, sent_at))
                continue
            tried = Tried.of(one, delivery, timedelta(0))
            if definition is None:
                self._recorder.add(unreadable(tried))
            else:
                self._recorder.add(judge(definition.definition, tried, closed(definition.error), self._strategies))
        return flights

    def _definitions_of(self, keys: Collection[Key]) -> Mapping[Key, Definition | Closed]:
        """One that not even the driver can read is left out, and must not cost the others theirs."""
        try:
            return self._insist(lambda: self._definitions.of(keys))
        except Unavailable:
            raise
        except Exception:
            if len(keys) > 1:
                return {key: read for one in keys for key, read in self._definitions_of([one]).items()}
            log.exception("job %s: revision %s can't be read", *next(iter(keys)))
            return {}

    def _flight(self, claimed: Claimed, definition: Definition, delivery: UUID, sent_at: float) -> Flight:
        return Flight(
            claimed=claimed,
            definition=definition,
            owner=delivery,
            trusted_until=trusted_until(sent_at, self._lease),
            renewed_at=sent_at,
            started=definition.delivery is not Delivery.AT_MOST_ONCE,
        )

    def _known(self, flights: list[Flight], delivery: UUID) -> list[Flight]:
        """Gives back what another worker has to run, for longer each time: there may be none."""
        known: list[Flight] = []
        lacking: list[Claimed] = []
        for flight in flights:
            if self._knows(flight.definition.target):
                known.append(flight)
            else:
                lacking.append(flight.claimed)
        if lacking:
            excused = min(one.attempt - 1 - one.failures for one in lacking)
            self.give_back(lacking, delivery, delay=min(2 ** min(excused, 10) * self.LACKING_PAUSE, self.LONGEST_PAUSE))
        return known

    def _seated(self, flights: list[Flight], places: dict[UUID, Place], delivery: UUID) -> list[Flight]:
        """With their places. Those for which there is none, because this worker stops, are given back."""
        crowded: dict[str, list[Claimed]] = defaultdict(list)
        for flight in flights:
            host = host_of(flight.definition.target)
            place = places.get(flight.claimed.id) or self._turns.reserve(host, foreseen=True)
            if place is None:
                crowded[host].append(flight.claimed)
            else:
                places[flight.claimed.id] = flight.place = place
        for host, late in crowded.items():
            self.give_back(late, delivery, delay=self._turns.put_off(host, len(late)).delay)
        return [flight for flight in flights if flight.claimed.id in places]

    def _trusted(self, flights: list[Flight]) -> list[Flight]:
        """Renews what a store that was away has left little time for; without those that were taken over.

        They share one claim, and nobody renews them before they are in flight.
        """
        if not flights or monotonic() - flights[0].renewed_at < self._lease.total_seconds() / 3:
            return flights

        def renew() -> tuple[float, set[UUID]]:
            return monotonic(), self._store.renew([flight.token for flight in flights], lease=self._lease)

        sent_at, kept = self._insist(renew)
        for flight in flights:
            flight.renewed_at, flight.trusted_until = sent_at, trusted_until(sent_at, self._lease)
        return [flight for flight in flights if flight.token.id in kept]

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        """Asks until the store answers: while it is away, not taking messages is the right back-pressure.

        A stop gives the store until the end of the grace: the reply that is missing may be that of a claim. Only then
        Unavailable is raised.
        """
        tries = 0
        while True:
            if self._grounded.is_set():
                raise Unavailable("this worker stops")
            try:
                return ask()
            except Unavailable as error:
                if tries == 0:
                    log.warning("the store does not answer (%s): executions wait", error)
                self._grounded.wait(self.RETRY_SECONDS[min(tries, len(self.RETRY_SECONDS) - 1)])
                tries += 1
