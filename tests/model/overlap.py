"""One job and its executions: dispatch, the two unique indexes, and who makes way for whom.

How an attempt goes is `execution`'s matter; here it is claimed, lost or recorded.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

ACTIVE = frozenset({"PENDING", "RUNNING", "LOST"})  # LOST: RUNNING with its lease ended
FINAL = frozenset({"ENDED", "SKIPPED"})
ASKED_FOR = -1  # before any other, so it is never ahead


class Row(NamedTuple):
    """`last`: cancelled or its job deleted, so this attempt is the last.

    `state` is "undecided" within a dispatch, of what was refused as PENDING, and "ENDED" for all that ran or will not.
    """

    moment: int
    overlap: str  # skip, allow, queue or serial
    state: str
    failed: bool = False
    last: bool = False

    @property
    def alone(self) -> bool:
        """In the index executions_one_active."""
        return self.overlap != "allow" and self.state in ACTIVE

    @property
    def next_in_line(self) -> bool:
        """In the index executions_one_waiting."""
        return self.overlap == "queue" and self.state == "WAITING"


class World(NamedTuple):
    """`births` are a dispatch's own until it commits; `idle` is what PROMOTE_IDLE looked at, as moments.

    `next_run` is the first moment without a row, and `moments` the last of them: the job is COMPLETED there. `come` is
    how many of them have come. What somebody asks for, once at most, has the moment ASKED_FOR; `refused`: it was.
    """

    moments: int
    overlap: str
    edit_to: str  # what an edit will make of `overlap`; empty when nobody will
    come: int
    rows: tuple[Row, ...] = ()
    next_run: int = 0
    births: tuple[Row, ...] = ()
    idle: int | None = None
    deleted: bool = False
    may_ask: bool = False
    refused: bool = False

    def changed(self, *changes: Row) -> "World":
        by_moment = {row.moment: row for row in changes}
        return self._replace(rows=tuple(by_moment.get(row.moment, row) for row in self.rows))

    def born(self, births: Iterable[Row]) -> "World":
        return self._replace(rows=tuple(sorted((*self.rows, *births))), births=())


def ahead(world: World) -> list[Row]:
    """Rows whose moment is still to come."""
    return [row for row in world.rows if row.moment >= world.come]


def taken_back(world: World, broken: frozenset[str]) -> World:
    """TAKE_BACK: what is ahead, but for what was cancelled and what is earlier than that."""
    kept = [row.moment for row in ahead(world) if row.state != "PENDING"]
    if "take back what is before a cancelled one" in broken:
        gone = [row for row in ahead(world) if row.state == "PENDING"]
    else:
        gone = [row for row in ahead(world) if row.moment > max(kept, default=-1)]
    if not gone or "leave what is ahead" in broken:
        return world
    next_run = world.next_run if "take back without next_run" in broken else gone[0].moment
    return world._replace(rows=tuple(row for row in world.rows if row not in gone), next_run=next_run)


def refused(rows: Sequence[Row], broken: frozenset[str]) -> bool:
    """By a unique index: the whole statement then fails, and changes nothing."""
    if "no active index" not in broken and sum(row.alone for row in rows) > 1:
        return True
    return "no waiting index" not in broken and sum(row.next_in_line for row in rows) > 1


def promoted(world: World, ended: Iterable[Row], broken: frozenset[str]) -> World:
    """PROMOTED: the oldest that waits becomes due, where one ended that nothing else could be active beside."""
    makes_way = any(row.overlap != "allow" or "promote for whom it does not block" in broken for row in ended)
    waiting = [row for row in world.rows if row.state == "WAITING"]
    if not makes_way or not waiting or "no promotion" in broken:
        return world
    return world.changed(waiting[0]._replace(state="PENDING"))


def in_state(world: World, *states: str) -> Iterator[Row]:
    return (row for row in world.rows if row.state in states)
