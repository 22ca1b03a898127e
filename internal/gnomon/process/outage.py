"""Telling an outage once when it begins and once when it is over, however often the work fails in between."""

import logging
import math
from collections.abc import Callable
from datetime import timedelta

from gnomon.job.errors import Unavailable
from gnomon.process.backoff import Backoff, draw


class Outage:
    """What one repeating piece of work knows of its own failures in a row."""

    def __init__(
        self,
        name: str,
        *,
        backoff: Backoff,
        clock: Callable[[], float],
        log: logging.Logger,
        rand: Callable[[], float] = draw,
    ) -> None:
        self._name = name
        self._backoff = backoff
        self._clock = clock
        self._log = log
        self._rand = rand
        self._failures = 0
        self._began = 0.0

    def unavailable(self, error: Unavailable) -> timedelta:
        """Counts a failure of a server we depend on, and returns how long to wait."""
        wait = self._count()
        if self._failures == 1:
            self._log.warning(
                "%s: %s; trying again in %.1f s, then at most every %.0f s, until it works",
                self._name,
                error,
                wait.total_seconds(),
                self._backoff.longest.total_seconds(),
            )
        else:
            self._log.debug("%s: still unavailable: %s", self._name, error)
        return wait

    def unexpected(self) -> timedelta:
        """Counts the exception being handled, with its traceback, and returns how long to wait."""
        wait = self._count()
        self._log.exception(
            "%s failed unexpectedly (%d in a row); trying again in %.1f s",
            self._name,
            self._failures,
            wait.total_seconds(),
        )
        return wait

    def over(self) -> None:
        """The work succeeded."""
        if self._failures:
            self._log.info("%s: recovered after %d s", self._name, math.ceil(self._clock() - self._began))
        self._failures = 0

    def _count(self) -> timedelta:
        if not self._failures:
            self._began = self._clock()
        self._failures += 1
        return self._backoff.wait_after(self._failures, random=self._rand())
