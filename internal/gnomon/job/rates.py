"""How often somebody may ask: a token bucket as arithmetic, so that every place that keeps one counts alike.

A bucket is one number, the debt: how long, in whole microseconds, until it is full again. It shrinks as time goes by,
and each request adds the time that one token takes to come back. A debt of 0 says the same as no bucket at all, so a
bucket may be forgotten as soon as it is paid.
"""

import math
from dataclasses import dataclass
from typing import Protocol

SECOND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many requests a second, averaged, and `burst` of them at once."""

    per_second: int
    burst: int

    @property
    def cost(self) -> int:
        """What one request adds to the debt."""
        return SECOND // self.per_second

    @property
    def most(self) -> int:
        """The debt of an empty bucket."""
        return self.burst * self.cost


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The answer to one request: whether it may go on, and the debt after it."""

    allowed: bool
    debt: int


def take(rate: Rate, debt: int) -> Taken:
    """One token out of the bucket; a request that gets none adds nothing to the debt."""
    before = min(max(debt, 0), rate.most)  # the rate may have been another one when this debt was made
    after = before + rate.cost
    return Taken(allowed=True, debt=after) if after <= rate.most else Taken(allowed=False, debt=before)


def left(rate: Rate, debt: int) -> int:
    """How many requests are allowed at once from here."""
    return (rate.most - debt) // rate.cost


def wait_seconds(rate: Rate, debt: int) -> int:
    """Whole seconds until a request is allowed, at least 1: as Retry-After says it."""
    return max(1, math.ceil((debt + rate.cost - rate.most) / SECOND))


class SharedBuckets(Protocol):
    """Buckets that several processes take from."""

    def take(self, caller: str, rate: Rate) -> Taken:
        """Raises Unavailable."""
