"""Whose turn it is: how many attempts one host has under way here, how many wait for it, and what comes later.

A host is what a target names: host and port of a URL, those of a broker, or the name of a handler. Each has `limit`
places to be called at, and as many to wait in. What finds neither is put off: it is not claimed, and comes back at a
moment of its own, so that however many are due for a host that hangs, they cost the others a look at their ids and no
more.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple, assert_never
from urllib.parse import urlsplit

from gnomon.job.target import AmqpTarget, HandlerTarget, HttpTarget, Target
from gnomon.worker.flights import Flight

log = logging.getLogger(__name__)

PORTS = {"http": 80, "https": 443}


class At(Enum):
    """Where an attempt is with its host."""

    CALLING = auto()
    WAITING = auto()
    GONE = auto()


@dataclass(kw_only=True, eq=False)
class Place:
    """One attempt's place. Only `Turns` changes it.

    One that is CALLING has one of the worker's slots: its own (`began_calling`), or that of the one whose turn came
    before. `flight` is there once the attempt is ready to be called.
    """

    host: str | None
    at: At
    since: float
    began_calling: bool = field(init=False)
    flight: Flight | None = None

    def __post_init__(self) -> None:
        self.began_calling = self.at is At.CALLING


class Left(NamedTuple):
    """What became of a place that was left: `next` has its slot now; where there is none, the slot is free."""

    had_slot: bool
    next: Place | None


class Later(NamedTuple):
    """When those come back that were put off: after `delay`, each a random part of `spread` later."""

    delay: timedelta
    spread: timedelta


@dataclass(kw_only=True)
class _Host:
    """`pace` is a count of what has ended, which decays."""

    pace: float
    paced_at: float
    back_until: float
    calling: int = 0
    waiting: dict[Place, None] = field(default_factory=dict)
    told_at: float = -math.inf


class Turns:
    """Safe from many threads. Without a limit everybody's turn is at once."""

    # Of a host whose pace is not known yet, so many are expected a second: too many cost a look, too few an idle host.
    FIRST_PACE = 500.0
    MEMORY_SECONDS = 5.0  # of the pace
    SLOWEST_RETURN = 20.0  # a second
    SOONEST_SECONDS = 0.5
    LATEST_SECONDS = 120.0
    TELL_SECONDS = 60.0

    def __init__(self, limit: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._closed = False
        self._foreseen = 0
        self._lock = threading.Lock()

    def foresee(self, count: int) -> bool:
        """Whether so many more can be called at once, whatever their hosts; if so, there is room until `settle`."""
        if self._limit is None:
            return True
        with self._lock:
            busiest = max((host.calling + len(host.waiting) for host in self._hosts.values()), default=0)
            if busiest + self._foreseen + count > self._limit:
                return False
            self._foreseen += count
            return True

    def settle(self, count: int) -> None:
        """Those that were foreseen have their places, or need none."""
        with self._lock:
            self._foreseen -= count if self._limit is not None else 0

    def reserve(self, name: str | None, *, foreseen: bool = False) -> Place | None:
        """A place at this host; None when there is none, not even to wait. One that was foreseen gets one."""
        if name is None or self._limit is None:
            return Place(host=None, at=At.CALLING, since=self._clock())
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = self._new_host()
            if host.calling < self._limit:
                host.calling += 1
                return Place(host=name, at=At.CALLING, since=self._clock())
            kept = 0 if foreseen else self._foreseen  # any of these may be for this host
            if self._closed or host.calling + len(host.waiting) + kept >= 2 * self._limit:
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

    def leave(self, place: Place) -> Left:
        """The attempt is over, or was not claimed."""
        with self._lock:
            had_slot = place.at is At.CALLING
            return Left(had_slot, self._end(place))

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
        with self._lock:
            self._closed = True

    def _end(self, place: Place) -> Place | None:
        was, place.at = place.at, At.GONE
        if place.host is None or was is At.GONE:
            return None
        host, following = self._hosts[place.host], None
        if was is At.WAITING:
            del host.waiting[place]
        else:
            following = self._after(place, host)
        if not host.calling and not host.waiting:
            del self._hosts[place.host]
        return following

    def _after(self, place: Place, host: _Host) -> Place | None:
        now = self._clock()
        if place.flight is not None:
            host.pace, host.paced_at = self._pace(host, now) + 1, now
        following = None if self._closed else next(iter(host.waiting), None)
        if following is None:
            host.calling -= 1
        else:
            del host.waiting[following]
            following.at = At.CALLING
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


@lru_cache(maxsize=20_000)
def _host_of_url(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme]}"
