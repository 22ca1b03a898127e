"""What a worker process has in flight: attempts it holds a lease on, from the claim to the record."""

import asyncio
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from gnomon.job.model import Definition
from gnomon.job.ports import Claimed, Token

if TYPE_CHECKING:
    from gnomon.worker.turns import Place

TRUSTED = 0.9  # the share of a lease that is relied on


class Abort(StrEnum):
    """Why an attempt was broken off."""

    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"


@dataclass(kw_only=True, eq=False, slots=True)
class Flight:
    """One attempt in flight. `trusted_until` is this process's own clock (`monotonic`), on the safe side.

    `begun`: its task runs. A task that is cancelled before that would end without a trace. `started`: S is done, or
    not asked for. `place`: that at its host; it may have to wait there.
    """

    claimed: Claimed
    definition: Definition
    owner: UUID
    trusted_until: float
    renewed_at: float
    task: asyncio.Task[None] | None = None
    begun: bool = False
    abort: Abort | None = None
    started: bool = True
    place: "Place" = field(init=False)
    token: Token = field(init=False)

    def __post_init__(self) -> None:
        self.token = Token(id=self.claimed.id, attempt=self.claimed.attempt)


def monotonic() -> float:
    """Seconds that go on while the machine sleeps, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def trusted_until(sent_at: float, lease: timedelta) -> float:
    """How long a lease may be relied on that was asked for at `sent_at`: a tenth less than the database grants it."""
    return sent_at + lease.total_seconds() * TRUSTED


class Flights:
    """The registry, shared by the event loop and the recorder's thread."""

    def __init__(self) -> None:
        self._flights: dict[UUID, Flight] = {}
        self._lock = threading.Lock()

    def add(self, flights: Collection[Flight]) -> None:
        """From the claim on."""
        with self._lock:
            self._flights.update((flight.claimed.id, flight) for flight in flights)

    def remove(self, flights: Iterable[Flight]) -> None:
        """Once their outcomes are with the recorder, or dropped. A newer attempt of the same execution stays."""
        with self._lock:
            for flight in flights:
                if self._flights.get(flight.claimed.id) is flight:
                    del self._flights[flight.claimed.id]

    def all(self) -> list[Flight]:
        """A snapshot."""
        with self._lock:
            return list(self._flights.values())
