"""Which keys have their moment next."""

from bisect import bisect_left, bisect_right, insort
from datetime import datetime
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

    def earliest(self) -> datetime | None:
        """The first moment of all."""
        return self._order[0][0] if self._order else None

    def later_than(self, moment: datetime) -> list[UUID]:
        """The keys whose moments are still ahead at `moment`, in order."""
        return [key for _, key in self._order[bisect_right(self._order, (moment, _LAST)) :]]

    def up_to(self, moment: datetime, *, after: datetime | None = None, limit: int | None = None) -> list[UUID]:
        """The first `limit` keys whose moments have come at `moment`, and had not at `after`."""
        start = 0 if after is None else bisect_right(self._order, (after, _LAST))
        end = bisect_right(self._order, (moment, _LAST))
        return [key for _, key in self._order[start : end if limit is None else min(end, start + limit)]]
