"""What tests/unit/test_model.py leaves out for time: harmless changes, slow mutants, edited policies, larger worlds."""

from collections.abc import Hashable

import pytest
from model.execution import AT_LEAST_ONCE, AT_MOST_ONCE
from model.execution_promises import ExecutionModel
from model.explore import explore
from model.mutants import HARMLESS, MUTANTS, Change
from model.overlap_promises import OverlapModel

NOTHING: frozenset[str] = frozenset()
EDITS = [("allow", "queue"), ("queue", "allow"), ("skip", "queue"), ("queue", "skip"), ("allow", "skip")]


@pytest.mark.parametrize("change", HARMLESS, ids=str)
def test_harmless_change_breaks_nothing(change: Change) -> None:
    found = explore(change.model())
    assert not found.broken, str(found)


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.deep], ids=str)
def test_mutant_breaks(mutant: Change) -> None:
    found = explore(mutant.model(), only=mutant.breaks)
    assert mutant.breaks in found.broken, f"{found.states} states, and {mutant.breaks} in all of them"


@pytest.mark.parametrize(("overlap", "edit_to"), EDITS)
def test_protocol_holds_where_executions_of_two_policies_meet(overlap: str, edit_to: str) -> None:
    found = explore(OverlapModel(overlap, edit_to=edit_to))
    assert not found.broken, str(found)


@pytest.mark.parametrize(("overlap", "edit_to"), EDITS)
def test_protocol_holds_for_three_moments_that_are_dispatched_ahead(overlap: str, edit_to: str) -> None:
    found = explore(OverlapModel(overlap, edit_to=edit_to, ahead=True))
    assert not found.broken, str(found)


@pytest.mark.long
@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_protocol_holds_where_somebody_asks_for_an_execution_beside_what_is_ahead(overlap: str) -> None:
    found = explore(OverlapModel(overlap, ahead=True, asks=True))
    assert not found.broken, str(found)


@pytest.mark.parametrize("policy", [AT_LEAST_ONCE, AT_MOST_ONCE])
def test_states_that_are_taken_for_the_same_go_on_alike(policy: str) -> None:
    model = ExecutionModel(policy)
    futures: dict[Hashable, frozenset[Hashable]] = {}
    left, met = [model.start()], {model.start()}
    while left and len(met) < 10_000:
        state = left.pop(0)
        moves = [(step.letter, move.fault, move.after) for step in model.steps for move in step.moves(state, NOTHING)]
        future = frozenset((letter, fault, model.key(after)) for letter, fault, after in moves)
        assert futures.setdefault(model.key(state), future) == future
        left += {after for *_, after in moves if after not in met}
        met |= {after for *_, after in moves}
    assert len(futures) < len(met) / 2


@pytest.mark.long
@pytest.mark.parametrize("policy", [AT_LEAST_ONCE, AT_MOST_ONCE])
def test_protocol_holds_among_three_workers_with_three_attempts(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.execution.MAX_ATTEMPTS", 3)
    found = explore(ExecutionModel(policy, workers=3))
    assert not found.broken, str(found)


@pytest.mark.long
@pytest.mark.parametrize(("overlap", "edit_to"), [("skip", ""), ("queue", ""), ("skip", "queue"), ("queue", "skip")])
def test_protocol_holds_with_four_moments(overlap: str, edit_to: str) -> None:
    found = explore(OverlapModel(overlap, edit_to=edit_to, moments=4))
    assert not found.broken, str(found)
