"""Trying again what failed, many at a time."""

import hashlib
from dataclasses import dataclass, fields
from datetime import timedelta

from gnomon.job.errors import InvalidJob
from gnomon.job.model import REPEATABLE
from gnomon.job.ports import Once, Repeatable, Repeated, RepeatQuery, RepeatStore

REPEAT_LIMIT = 1_000
SAMPLE = 10
# Of a job that may overlap itself: a target that has just recovered need not take it all in one second.
REPEAT_PACE = timedelta(milliseconds=100)


@dataclass(frozen=True, kw_only=True)
class How:
    """As what, and how carefully. `expected`: how many have to match; `limit`: at most this many are tried.

    Raises InvalidJob for numbers that none can be.
    """

    same_revision: bool = False
    may_wait: bool = False
    expected: int | None = None
    limit: int = REPEAT_LIMIT

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= REPEAT_LIMIT:
            raise InvalidJob.at("/limit", f"must lie between 1 and {REPEAT_LIMIT}")
        if self.expected is not None and self.expected < 0:
            raise InvalidJob.at("/expected_count", "must be 0 or more")


class Repeats:
    """Like JobService, for what concerns many executions at once."""

    def __init__(self, store: RepeatStore) -> None:
        self._store = store

    def matching(self, query: RepeatQuery) -> Repeatable:
        """What `repeat` would try again: how many, and the oldest few. Raises InvalidJob."""
        _check(query)
        return self._store.matching(query, limit=SAMPLE)

    def repeat(self, query: RepeatQuery, how: How, *, key: str | None = None) -> Repeated:
        """Tries them again, the oldest first; each that can't be is refused by itself.

        The same `key` (an Idempotency-Key) again gives the same executions. Raises InvalidJob, CountDiffers, KeyReused.
        """
        _check(query)
        return self._store.repeat(
            query,
            limit=how.limit,
            expected=how.expected,
            same_revision=how.same_revision,
            may_wait=how.may_wait,
            pace=REPEAT_PACE,
            once=None if key is None else Once(key=key, fingerprint=_fingerprint(query, how)),
        )


def _check(query: RepeatQuery) -> None:
    if not query.states:
        raise InvalidJob.at("/state", "names no state", "leave it out for FAILED and UNKNOWN")
    for place, state in enumerate(query.states):
        if state not in REPEATABLE:
            known = ", ".join(sorted(REPEATABLE))
            raise InvalidJob.at(f"/state/{place}", f"what is {state} can't be tried again", f"known: {known}")


def _fingerprint(query: RepeatQuery, how: How) -> str:
    asked = [sorted(query.states), *(getattr(query, one.name) for one in fields(query) if one.name != "states"), how]
    return hashlib.sha256(f"repeat {asked}".encode()).hexdigest()
