"""What is promised of a job's executions among each other."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping

from model.explore import Goal, Move, Promise
from model.overlap import ASKED_FOR, FINAL, Row, World, ahead
from model.overlap_steps import STEPS


def one_row_per_moment(before: World, letter: str, move: Move[World]) -> bool:
    """Executions and skips are the schedule's moments, up to `next_run` and not beyond it."""
    if move.after.births:
        return True
    moments = Counter(row.moment for row in move.after.rows if row.moment != ASKED_FOR)
    return moments == Counter(range(move.after.next_run))


def never_two_active(before: World, letter: str, move: Move[World]) -> bool:
    return sum(row.alone for row in move.after.rows) <= 1


def never_two_queued(before: World, letter: str, move: Move[World]) -> bool:
    """`queue` keeps one waiting; `serial` any number."""
    return sum(row.next_in_line for row in move.after.rows) <= 1


def no_cancel_ends_what_runs(before: World, letter: str, move: Move[World]) -> bool:
    """It would make way for the next while the target still works on this one."""
    return letter != "CANCEL" or not any(
        old.state == "RUNNING" and now.state in FINAL for old, now in _both(before, move)
    )


def final_states_never_change(before: World, letter: str, move: Move[World]) -> bool:
    states = {row.moment: row.state for row in move.after.rows}
    return all(states.get(row.moment) == row.state for row in before.rows if row.state in FINAL)


def no_attempt_after_cancel_or_delete(before: World, letter: str, move: Move[World]) -> bool:
    if letter != "C":
        return True
    return not any(now.state != old.state and (old.last or before.deleted) for old, now in _both(before, move))


def nothing_begins_before_its_moment(before: World, letter: str, move: Move[World]) -> bool:
    return all(row.state not in ("RUNNING", "LOST") for row in ahead(move.after))


def overlap_is_judged_at_the_moment(before: World, letter: str, move: Move[World]) -> bool:
    """What is in the way ahead of it may be gone then."""
    return all(row.state not in ("SKIPPED", "WAITING") for row in ahead(move.after))


def edits_hold_for_what_is_to_come(before: World, letter: str, move: Move[World]) -> bool:
    """But for what is earlier than what was cancelled ahead of its moment."""
    return letter != "EDIT" or not (to_come := ahead(move.after)) or to_come[-1].state != "PENDING"


def nothing_ahead_is_in_the_way_of_a_run(before: World, letter: str, move: Move[World]) -> bool:
    """But for what is due, or has begun."""
    if letter != "RUN" or not move.after.refused:
        return True
    return any(row.alone and row.moment < before.come for row in before.rows)


def _both(before: World, move: Move[World]) -> Iterator[tuple[Row, Row]]:
    """Each row before and after, but for those that were taken back."""
    after = {row.moment: row for row in move.after.rows}
    return ((row, after[row.moment]) for row in before.rows if row.moment in after)


def all_end(world: World) -> bool:
    through = world.deleted or world.next_run == world.moments
    return through and not world.births and all(row.state in FINAL for row in world.rows)


def none_waits(world: World) -> bool:
    return all(row.state != "WAITING" for row in (*world.rows, *world.births))


class OverlapModel:
    """One job with so many moments, and an edit of its policy at any time if `edit_to` names another.

    All its moments have come; or none of them has, if it is dispatched `ahead`. `asks`: somebody may ask for one now.
    """

    steps = STEPS
    promises: Mapping[str, Promise[World]] = {
        promise.__name__: promise
        for promise in (
            one_row_per_moment,
            never_two_active,
            never_two_queued,
            no_cancel_ends_what_runs,
            final_states_never_change,
            no_attempt_after_cancel_or_delete,
            nothing_begins_before_its_moment,
            overlap_is_judged_at_the_moment,
            edits_hold_for_what_is_to_come,
            nothing_ahead_is_in_the_way_of_a_run,
        )
    }
    goals: Mapping[str, Goal[World]] = {"no_lost_execution": all_end, "nothing_waits_for_ever": none_waits}

    def __init__(
        self,
        overlap: str,
        *,
        moments: int = 3,
        edit_to: str = "",
        ahead: bool = False,
        asks: bool = False,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.broken = without
        self._start = World(moments, overlap, edit_to, come=0 if ahead else moments, may_ask=asks)

    def start(self) -> World:
        return self._start

    def key(self, state: World) -> Hashable:
        return state
