"""Which keys have their moment next."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from uuid import UUID

_LAST = UUID(int=(1 << 128) - 1)


class Agenda:
    """Keys in order of their moments, and of themselves where these are the same. Each has one moment or none."""

    def __init__(self) -> None:
        self._moments: dict[UUID, datetime] = {}
        self._order: list[tuple[datetime, UUID]] = []

    def set(self, key: UUID, moment: datetime | None) -> None:
        """None takes the key off."""
        old = self._moments.pop(key, None)
        if old is not None:
            del self._order[bisect_left(self._order, (old, key))]
        if moment is not None:
            self._moments[key] = moment
            insort(self._order, (moment, key))

    def earliest(self, accept: Callable[[UUID], bool] = lambda _: True) -> datetime | None:
        """The first moment of all keys that are accepted."""
        return next((moment for moment, key in self._order if accept(key)), None)

    def later_than(self, moment: datetime) -> list[UUID]:
        """The keys whose moments are still ahead at `moment`, in order."""
        return [key for _, key in self._order[bisect_right(self._order, (moment, _LAST)) :]]

    def up_to(
        self,
        moment: datetime,
        *,
        after: datetime | None = None,
        limit: int | None = None,
        accept: Callable[[UUID], bool] = lambda _: True,
    ) -> list[UUID]:
        """The first `limit` keys that are accepted and whose moments have come at `moment`, and had not at `after`."""
        start = 0 if after is None else bisect_right(self._order, (after, _LAST))
        end = bisect_right(self._order, (moment, _LAST))
        keys = (self._order[place][1] for place in range(start, end))
        return list(islice(filter(accept, keys), limit))
