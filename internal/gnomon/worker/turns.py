"""Whose turn it is: how many attempts one host has under way here, how many wait for it, and what comes later.

A host is what a target names: host and port of a URL, those of a broker, or the name of a handler. Each has `limit`
places to be called at, and as many to wait in. What finds neither is put off: it is not claimed, and comes back at a
moment of its own, so that however many are due for a host that hangs, they cost the others a look at their ids and no
more.

A host that ends its calls quickly holds nobody up for long. It may have more places, as long as all hosts together have
less than `most`, and what finds none is not put off but kept waiting, unclaimed, until there are some.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple, assert_never
from urllib.parse import urlsplit

from gnomon.job.target import AmqpTarget, HandlerTarget, HttpTarget, Target
from gnomon.worker.flights import Flight

log = logging.getLogger(__name__)

ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
PORTS = {"http": 80, "https": 443}


class At(Enum):
    """Where an attempt is with its host."""

    CALLING = auto()
    WAITING = auto()
    GONE = auto()


@dataclass(kw_only=True, eq=False, slots=True)
class Place:
    """One attempt's place. Only `Turns` changes it.

    One that is CALLING has one of the worker's slots: its own (`began_calling`), or that of the one whose turn came
    before. `flight` is there once the attempt is ready to be called. `since`: when it came to where it is.
    """

    host: str | None
    at: At
    since: float
    began_calling: bool = field(init=False)
    flight: Flight | None = None

    def __post_init__(self) -> None:
        self.began_calling = self.at is At.CALLING


class Left(NamedTuple):
    """What became of places that were left: so many slots are free, and it is the turn of those that are ready."""

    slots: int
    next: list[Flight]


class Later(NamedTuple):
    """When those come back that were put off: after `delay`, each a random part of `spread` later."""

    delay: timedelta
    spread: timedelta


@dataclass(kw_only=True, slots=True)
class _Host:
    """`pace` is a count of what has ended, which decays; `took` how long calls took of late, None before the first."""

    pace: float
    paced_at: float
    back_until: float
    took: float | None = None
    calling: int = 0
    waiting: dict[Place, None] = field(default_factory=dict)
    told_at: float = -math.inf


class Turns:
    """Safe from many threads. Without a limit everybody's turn is at once. `most`, if given, is no less than it."""

    # Of a host whose pace is not known yet, so many are expected a second: too many cost a look, too few an idle host.
    FIRST_PACE = 500.0
    MEMORY_SECONDS = 5.0  # of the pace
    MEMORY_CALLS = 16  # of how long they took
    QUICK_SECONDS = 5.0  # a host whose calls take no longer is quick; on a busy machine each takes its share of that
    SILENT_SECONDS = 1.0  # as long as one of them has ended since
    GATHER_SECONDS = 0.05  # for a whole message's places there: one claim costs the same whatever its size
    LOOK_SECONDS = 0.005
    SLOWEST_RETURN = 20.0  # a second
    SOONEST_SECONDS = 0.5
    LATEST_SECONDS = 120.0
    TELL_SECONDS = 60.0

    def __init__(
        self, limit: int | None, *, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._most = most or limit or 0
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._closed = False
        self._calling = self._foreseen = 0
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)

    def foresee(self, wanted: int) -> int:
        """How many more, up to `wanted`, can be called at once, whatever their hosts; 0: some host may get too many.

        For as many there is room until `settle`. Waits for a host that is quick, and a moment for those that others
        foresaw. One caller after the other: several at once would share the room.
        """
        if self._limit is None:
            return wanted
        with self._settled:
            began = self._clock()
            while True:
                found, is_worth_waiting = self._foresee(wanted, whole=self._clock() - began < self.GATHER_SECONDS)
                if found or not is_worth_waiting or self._clock() - began > self.SILENT_SECONDS:
                    return found
                self._settled.wait(self.LOOK_SECONDS)

    def settle(self, count: int) -> None:
        """Those that were foreseen have their places, or need none."""
        with self._settled:
            self._foreseen -= count if self._limit is not None else 0
            self._settled.notify()

    def reserve(self, name: str | None, *, foreseen: bool = False) -> Place | None:
        """A place at this host; None when there is none, not even to wait. One that was foreseen gets one."""
        if name is None or self._limit is None:
            return Place(host=None, at=At.CALLING, since=self._clock())
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = self._new_host()
            if host.calling < self._limit_of(host, self._clock()):
                host.calling += 1
                self._calling += 1
                return Place(host=name, at=At.CALLING, since=self._clock())
            # any that were foreseen may be for this host; between that and now the host may have slowed down
            if self._closed or (not foreseen and len(host.waiting) + self._foreseen >= self._limit):
                return None
            place = Place(host=name, at=At.WAITING, since=self._clock())
            host.waiting[place] = None
            return place

    def park(self, place: Place, flight: Flight) -> At:
        """The attempt is ready; where it is now. One that is WAITING is handed out by `leave`."""
        with self._lock:
            place.flight = flight
            return place.at

    def withdraw(self, place: Place) -> bool:
        """Ends a wait; False for a place that does not wait (any more)."""
        with self._lock:
            if place.at is not At.WAITING:
                return False
            self._end(place)
            return True

    def leave(self, places: Iterable[Place]) -> Left:
        """The attempts are over, or were not claimed. A turn that comes before its attempt is ready is found there."""
        slots, ready = 0, []
        with self._lock:
            for place in places:
                had_slot = place.at is At.CALLING
                following = self._end(place)
                if following is None:
                    slots += had_slot
                elif following.flight is not None:
                    ready.append(following.flight)
        return Left(slots, ready)

    def put_off(self, name: str, count: int) -> Later:
        """When so many attempts that found no place may come back."""
        with self._lock:
            host, now = self._hosts.get(name), self._clock()
            if host is None:  # all of it ended meanwhile
                return Later(timedelta(seconds=self.SOONEST_SECONDS), timedelta(0))
            rate = max(2 * self._pace(host, now) / self.MEMORY_SECONDS, self.SLOWEST_RETURN)
            begin = max(host.back_until, now + self.SOONEST_SECONDS)
            end = min(begin + count / rate, now + self.LATEST_SECONDS)
            begin = min(begin, now + self.LATEST_SECONDS / 2)
            host.back_until = end
            self._tell(name, host, now)
            return Later(timedelta(seconds=begin - now), timedelta(seconds=end - begin))

    def close(self) -> None:
        """From now on nobody waits, and nobody's turn comes."""
        with self._settled:
            self._closed = True
            self._settled.notify()

    def _foresee(self, wanted: int, *, whole: bool) -> tuple[int, bool]:
        """How many, and whether it is worth waiting where there are none: those that were foreseen are."""
        assert self._limit is not None
        if self._closed:
            return 0, False
        room, is_quick = self._room(self._clock())
        room -= self._foreseen
        if room < wanted and (self._foreseen or (whole and is_quick)):
            return 0, True
        # a host with half of its places free has few enough, however many are wanted
        found = wanted if room >= wanted else room if is_quick or 2 * room >= self._limit else 0
        if found <= 0:
            return 0, is_quick
        self._foreseen += found
        return found, True

    def _room(self, now: float) -> tuple[int, bool]:
        """That of the host that has the least, and whether this host is quick."""
        assert self._limit is not None
        room, is_quick = self._limit, False
        for host in self._hosts.values():
            busy = host.calling + len(host.waiting)
            if self._limit - busy < room:
                left = self._limit_of(host, now) - busy
                if left < room:
                    room, is_quick = left, self._is_quick(host, now)
        return room, is_quick

    def _is_quick(self, host: _Host, now: float) -> bool:
        """One that is not known yet is taken to be."""
        return (host.took or 0.0) <= self.QUICK_SECONDS and now - host.paced_at <= self.SILENT_SECONDS

    def _limit_of(self, host: _Host, now: float) -> int:
        assert self._limit is not None
        if self._calling >= self._most or host.took is None or not self._is_quick(host, now):
            return self._limit
        return max(self._limit, self._most - self._calling + host.calling)

    def _end(self, place: Place) -> Place | None:
        was, place.at = place.at, At.GONE
        # or the two keep each other until the garbage collector comes, and stops everything for a tenth of a second
        was_called, place.flight = place.flight is not None, None
        if place.host is None or was is At.GONE:
            return None
        host, following = self._hosts[place.host], None
        if was is At.WAITING:
            del host.waiting[place]
        else:
            following = self._after(place, host, was_called=was_called)
        if not host.calling and not host.waiting:
            del self._hosts[place.host]
        return following

    def _after(self, place: Place, host: _Host, *, was_called: bool) -> Place | None:
        now = self._clock()
        if was_called:
            host.pace, host.paced_at = self._pace(host, now) + 1, now
            took = now - place.since
            host.took = took if host.took is None else host.took + (took - host.took) / self.MEMORY_CALLS
        is_too_much = self._closed or host.calling > self._limit_of(host, now)
        following = None if is_too_much else next(iter(host.waiting), None)
        if following is None:
            host.calling -= 1
            self._calling -= 1
        else:
            del host.waiting[following]
            following.at, following.since = At.CALLING, now
        return following

    def _new_host(self) -> _Host:
        now = self._clock()
        return _Host(pace=self.FIRST_PACE * self.MEMORY_SECONDS, paced_at=now, back_until=now)

    def _pace(self, host: _Host, now: float) -> float:
        return host.pace * math.exp((host.paced_at - now) / self.MEMORY_SECONDS)

    def _tell(self, name: str, host: _Host, now: float) -> None:
        if now - host.told_at < self.TELL_SECONDS:
            return
        host.told_at = now
        log.warning(
            "%s has as many executions as one host may (worker.concurrency_per_host): %s under way here and %s that "
            "wait; more are put off, and others are not held up",
            name,
            host.calling,
            len(host.waiting),
        )


def host_of(target: Target) -> str:
    """What attempts are counted by."""
    match target:
        case HttpTarget(url=url):
            return _host_of_url(url)
        case AmqpTarget(broker=broker):
            return str(broker)
        case HandlerTarget(name=name):
            return f"handler {name}"
        case _:
            assert_never(target)


def _host_of_url(url: str) -> str:
    origin = ORIGIN.match(url)
    return _host_of_origin(origin.group() if origin else url)


@lru_cache(maxsize=4_096)
def _host_of_origin(origin: str) -> str:
    parts = urlsplit(origin)
    host = (parts.hostname or "").removesuffix(".")
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme]}"
