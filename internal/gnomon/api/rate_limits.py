"""How many requests each caller may make. Probes are never refused."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

from flask import Flask, Response

from gnomon.api.addresses import block_of
from gnomon.api.asked import Asked, asked
from gnomon.api.problems import Refused
from gnomon.job.errors import Unavailable
from gnomon.job.principal import ANONYMOUS
from gnomon.job.rates import SECOND, Rate, SharedBuckets, Taken, left, take, wait_seconds

log = logging.getLogger(__name__)

SETTINGS = "limits.requests and limits.burst"


class RateLimiter:
    """A token bucket for each caller, kept here and, with `shared`, at a place that other processes share.

    While that place is away, each process counts by itself. What is refused here is not asked there, so that a flood
    costs only the process that it meets. The least recent callers are forgotten first, which gives them a full bucket.
    """

    CAPACITY = 20_000
    PAUSE_SECONDS = 5.0

    def __init__(
        self, rate: Rate, *, shared: SharedBuckets | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self._shared = shared
        self._clock = clock
        self._paid_at: OrderedDict[str, int] = OrderedDict()  # when each bucket is full again
        self._lock = threading.Lock()
        self._shared_again_at = float("-inf")

    def take(self, caller: str) -> Taken:
        """One request of this caller; from any thread."""
        taken = self._take_here(caller)
        if not taken.allowed or self._shared is None or self._clock() < self._shared_again_at:
            return taken
        try:
            together = self._shared.take(caller, self.rate)
        except Unavailable as error:
            self._leave_alone(error)
            return taken
        self._learn(caller, together)
        return together

    def _take_here(self, caller: str) -> Taken:
        with self._lock:
            now = self._now()
            taken = take(self.rate, self._paid_at.pop(caller, now) - now)
            self._keep(caller, now + taken.debt)
        return taken

    def _learn(self, caller: str, taken: Taken) -> None:
        """What all processes together have let through: it is never less than this one has."""
        with self._lock:
            self._paid_at.pop(caller, None)
            self._keep(caller, self._now() + taken.debt)

    def _keep(self, caller: str, paid_at: int) -> None:
        self._paid_at[caller] = paid_at
        if len(self._paid_at) > self.CAPACITY:
            self._paid_at.popitem(last=False)

    def _leave_alone(self, error: Unavailable) -> None:
        with self._lock:
            was_left_alone = self._clock() < self._shared_again_at
            self._shared_again_at = self._clock() + self.PAUSE_SECONDS
        if not was_left_alone:
            log.warning(
                "limits of requests can't be shared now (%s): this process counts by itself, and asks again in %g s",
                error,
                self.PAUSE_SECONDS,
            )

    def _now(self) -> int:
        return int(self._clock() * SECOND)


def install(app: Flask, limiter: RateLimiter) -> None:
    """Refuses what is too much with 429, and tells each caller what is left. After it is known who asks."""
    rate = limiter.rate
    policy = f'"requests";q={rate.burst};w={max(1, round(rate.most / SECOND))}'

    @app.before_request
    def limit() -> None:
        request = asked()
        if _is_free(request.path):
            return
        taken = request.taken = limiter.take(_caller(request))
        if not taken.allowed:
            wait = wait_seconds(rate, taken.debt)
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {rate.per_second} requests a second, or {rate.burst} at once: try again in {wait} s "
                f"(the operator's settings are {SETTINGS})",
                {"Retry-After": str(wait)},
            )

    @app.after_request
    def tell(response: Response) -> Response:
        taken = asked().taken
        if taken is not None:
            response.headers.add("RateLimit-Policy", policy)
            response.headers.add("RateLimit", f'"requests";r={left(rate, taken.debt)};t={-(-taken.debt // SECOND)}')
        return response


def _caller(request: Asked) -> str:
    """Whose key it is; without one, the client's address, or the network it takes addresses from."""
    asking = request.principal
    return f"address {block_of(request.address)}" if asking is None or asking == ANONYMOUS else f"key {asking.id}"


def _is_free(path: str) -> bool:
    """What probes ask for, and costs no more to answer than to refuse."""
    return path.removeprefix("/v1").startswith(("/health", "/version"))
