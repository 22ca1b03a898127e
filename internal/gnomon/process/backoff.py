"""How long to wait after a failure, before trying again."""

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Doubling waits with a cap, each shortened by up to `jitter` of itself so that processes don't return in step."""

    first: timedelta = timedelta(milliseconds=500)
    longest: timedelta = timedelta(seconds=15)
    jitter: float = 0.3

    def wait_after(self, failures: int, *, random: float) -> timedelta:
        """The wait after this many failures in a row (from 1). `random` is in [0, 1)."""
        # 2**30 of the smallest wait is years: the exponent is bounded so that an outage of days can't overflow.
        full = min(self.first * 2.0 ** min(failures - 1, 30), self.longest)
        return full * (1 - self.jitter * random)


def draw() -> float:
    """A random number for `Backoff.wait_after`."""
    return random.random()  # noqa: S311 - spreads load, guards nothing
