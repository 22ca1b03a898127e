"""What is promised of one execution: each is asked of every move that can be reached."""

from collections.abc import Hashable, Mapping

import model.effect_steps  # noqa: F401 - registers its steps
from model.execution import FINAL, IDLE, World, key
from model.execution_steps import STEPS
from model.explore import Goal, Move, Promise


def final_states_never_change(before: World, letter: str, move: Move[World]) -> bool:
    return before.row.state not in FINAL or move.after.row.state == before.row.state


def attempts_rise(before: World, letter: str, move: Move[World]) -> bool:
    """Each claim makes the next one, and nothing ever goes back."""
    claimed = letter == "C" and move.after.row != before.row
    return move.after.row.attempt == before.row.attempt + claimed


def only_the_newest_attempt_records(before: World, letter: str, move: Move[World]) -> bool:
    if letter != "W" or move.who is None or move.after.row == before.row:
        return True
    return before.workers[move.who].attempt == before.row.attempt


def success_was_acknowledged(before: World, letter: str, move: Move[World]) -> bool:
    if move.after.row.state != "SUCCEEDED" or before.row.state == "SUCCEEDED":
        return True
    return move.who is not None and before.workers[move.who].heard


def attempts_end_by_their_worker_or_with_their_lease(before: World, letter: str, move: Move[World]) -> bool:
    now = move.after.row
    if before.row.state != "RUNNING" or (now.state == "RUNNING" and now.attempt == before.row.attempt):
        return True
    return letter in ("W", "L") or (letter == "R2" and not before.row.leased)


def at_most_one_effect(before: World, letter: str, move: Move[World]) -> bool:
    return not move.after.once or move.after.effects <= 1


def verdicts_tell_the_truth(before: World, letter: str, move: Move[World]) -> bool:
    """At most once, whoever reads the verdict knows: it happened, it did not and never will, or nobody can say."""
    row, effects = move.after.row, move.after.effects
    if not move.after.once or row.state not in ("SUCCEEDED", "FAILED", "CANCELLED"):
        return True
    never = row.state == "CANCELLED" or (row.state == "FAILED" and row.never_sent)
    return effects == (0 if never else 1)


def no_attempt_after_cancel(before: World, letter: str, move: Move[World]) -> bool:
    return letter != "C" or not before.row.cancel or move.after.row == before.row


def no_attempt_after_delete(before: World, letter: str, move: Move[World]) -> bool:
    return letter != "C" or not before.deleted or move.after.row == before.row


def ends(world: World) -> bool:
    return world.row.state in FINAL or (world.row.state == "UNBORN" and world.deleted)


class ExecutionModel:
    """One execution, `workers` deliveries at a time."""

    steps = STEPS
    promises: Mapping[str, Promise[World]] = {
        promise.__name__: promise
        for promise in (
            final_states_never_change,
            attempts_rise,
            only_the_newest_attempt_records,
            success_was_acknowledged,
            attempts_end_by_their_worker_or_with_their_lease,
            at_most_one_effect,
            verdicts_tell_the_truth,
            no_attempt_after_cancel,
            no_attempt_after_delete,
        )
    }
    goals: Mapping[str, Goal[World]] = {"no_lost_execution": ends}

    def __init__(self, policy: str, *, workers: int = 2, without: frozenset[str] = frozenset()) -> None:
        self.broken = without
        self._policy = policy
        self._workers = workers

    def start(self) -> World:
        return World(self._policy, (IDLE,) * self._workers)

    def key(self, state: World) -> Hashable:
        return key(state)
