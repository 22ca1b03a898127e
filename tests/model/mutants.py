"""The protocol with a guard left out, and the promise that breaks; and what may be left out without breaking any.

A guard that is in neither list has never been shown to be needed.
"""

from dataclasses import dataclass

from model.execution import AT_LEAST_ONCE, AT_MOST_ONCE
from model.execution_promises import ExecutionModel
from model.overlap_promises import OverlapModel

ONE_OR_MORE, ONE_AT_MOST = (AT_LEAST_ONCE,), (AT_MOST_ONCE,)
SKIP, QUEUE, MIXED = ("skip",), ("queue",), ("allow", "queue")


@dataclass(frozen=True)
class Change:
    """`world`: a delivery policy of one execution; or the overlap policy of a job, and what an edit makes of it.

    `deep`: it takes a second or more.
    """

    without: frozenset[str]
    world: tuple[str, ...]
    breaks: str = ""
    moments: int = 3
    deep: bool = False
    ahead: bool = False
    asks: bool = False

    def model(self) -> ExecutionModel | OverlapModel:
        if self.world in (ONE_OR_MORE, ONE_AT_MOST):
            return ExecutionModel(self.world[0], without=self.without)
        return OverlapModel(
            self.world[0],
            edit_to="".join(self.world[1:]),
            moments=self.moments,
            ahead=self.ahead,
            asks=self.asks,
            without=self.without,
        )

    def __str__(self) -> str:
        world = " to ".join(self.world)
        return f"{' and '.join(sorted(self.without))}, {world}{f' of {self.moments}' if self.moments != 3 else ''}"


def _change(without: str, world: tuple[str, ...], breaks: str = "", *, moments: int = 3, deep: bool = False) -> Change:
    return Change(frozenset(without.split(" + ")), world, breaks, moments, deep)


def _ahead(without: str, world: tuple[str, ...], breaks: str, *, asks: bool = False) -> Change:
    return Change(frozenset([without]), world, breaks, ahead=True, asks=asks)


MUTANTS = [
    # a message is a hint, and whoever holds an attempt may die
    _change("no republish", ONE_OR_MORE, "no_lost_execution"),
    _change("publish before commit + no republish + broker that loses", ONE_OR_MORE, "no_lost_execution"),
    _change("no rescue", ONE_OR_MORE, "no_lost_execution"),
    _change("no rescue", ONE_AT_MOST, "no_lost_execution"),
    # (id, attempt) is the fence
    _change("blind claim", ONE_OR_MORE, "attempts_end_by_their_worker_or_with_their_lease"),
    _change("blind claim", ONE_AT_MOST, "at_most_one_effect"),
    _change("claim keeps the attempt", ONE_OR_MORE, "attempts_rise"),
    _change("claim keeps the attempt + start by anybody", ONE_AT_MOST, "at_most_one_effect"),
    _change("record by id", ONE_OR_MORE, "final_states_never_change"),
    _change("record by id", ONE_AT_MOST, "verdicts_tell_the_truth"),
    _change("record by state", ONE_OR_MORE, "only_the_newest_attempt_records"),
    _change("record by state", ONE_AT_MOST, "verdicts_tell_the_truth"),
    _change("rescue in two steps", ONE_OR_MORE, "final_states_never_change"),
    _change("rescue in two steps", ONE_AT_MOST, "at_most_one_effect", deep=True),
    _change("record before the answer", ONE_OR_MORE, "success_was_acknowledged"),
    # the start mark
    _change("no start mark", ONE_AT_MOST, "at_most_one_effect"),
    _change("unfenced start", ONE_AT_MOST, "at_most_one_effect"),
    _change("rescue ignores the start", ONE_AT_MOST, "at_most_one_effect"),
    _change("release what was sent", ONE_AT_MOST, "at_most_one_effect"),
    _change("free the attempt before W", ONE_AT_MOST, "at_most_one_effect"),
    # cancel and delete
    _change("cancel what runs", ONE_OR_MORE, "attempts_end_by_their_worker_or_with_their_lease"),
    _change("retry after cancel", ONE_OR_MORE, "no_attempt_after_cancel"),
    _change("release ignores cancel", ONE_OR_MORE, "no_attempt_after_cancel"),
    _change("rescue ignores cancel", ONE_OR_MORE, "no_attempt_after_cancel"),
    _change("rescue believes a cancel", ONE_AT_MOST, "verdicts_tell_the_truth"),
    _change("delete leaves what is pending", ONE_OR_MORE, "no_attempt_after_delete"),
    _change("delete leaves what runs", ONE_OR_MORE, "no_attempt_after_delete"),
    _change("delete by its snapshot", ONE_OR_MORE, "no_attempt_after_delete"),
    _change("interruption ignores delete", ONE_OR_MORE, "no_attempt_after_delete"),
    _change("release ignores delete", ONE_AT_MOST, "no_attempt_after_delete"),
    _change("rescue ignores the failures", ONE_OR_MORE, "no_attempt_after_delete"),
    # a job's executions in each other's way
    _change("advance by itself", SKIP, "one_row_per_moment"),
    _change("dispatch drops", SKIP, "one_row_per_moment"),
    _change("random ids", SKIP, "one_row_per_moment"),
    _change("no active index", SKIP, "never_two_active"),
    _change("no waiting index", QUEUE, "never_two_queued"),
    _change("no promotion + no idle promotion", QUEUE, "nothing_waits_for_ever"),
    _change("no idle promotion", QUEUE, "nothing_waits_for_ever", moments=2),  # a dispatch and a recording crossed
    _change("no idle promotion", QUEUE, "nothing_waits_for_ever"),  # a cancel and a recording crossed
    _change("promotion ignores the active one + index lets promotions pass", QUEUE, "never_two_active"),
    _change("promote for whom it does not block + index lets promotions pass", MIXED, "never_two_active"),
    _change("promote for whom it does not block", MIXED, "no_lost_execution", deep=True),
    _change("cancel what runs", QUEUE, "no_cancel_ends_what_runs"),
    _change("delete without the job's lock", SKIP, "no_attempt_after_cancel_or_delete"),
    # ahead of the moment
    _ahead("claim before the moment", SKIP, "nothing_begins_before_its_moment"),
    _ahead("judge overlap ahead", SKIP, "overlap_is_judged_at_the_moment"),
    _ahead("leave what is ahead", MIXED, "edits_hold_for_what_is_to_come"),
    _ahead("take back without next_run", MIXED, "one_row_per_moment"),
    _ahead("take back what is before a cancelled one", MIXED, "one_row_per_moment"),
    _ahead("run leaves what is ahead", SKIP, "nothing_ahead_is_in_the_way_of_a_run", asks=True),
]

# Not for what is promised, but for time, work or a better verdict.
HARMLESS = [
    _change("publish before commit", ONE_OR_MORE),  # the message comes too early: R1 sends another
    _change("no renewal", ONE_AT_MOST),  # a call longer than its lease ends UNKNOWN
    _change("no renewal", ONE_OR_MORE),  # and is made again
    _change("forget what was not written", ONE_AT_MOST),  # UNKNOWN, though it was known
    _change("start without a lease", ONE_AT_MOST),  # UNKNOWN, where it might have been tried again
    _change("start by anybody", ONE_AT_MOST),  # an attempt has one delivery anyway
    _change("no promotion", QUEUE),  # the next begins only after the next rescue
    _change("promotion ignores the active one", QUEUE),  # the index refuses it
]
