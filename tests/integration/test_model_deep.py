"""What tests/unit/test_model.py leaves out for time: the harmless changes, the slow mutants, edits of the policy, and larger worlds."""

import pytest
from model.execution import AT_LEAST_ONCE, AT_MOST_ONCE
from model.execution_promises import ExecutionModel
from model.explore import explore
from model.mutants import HARMLESS, MUTANTS, Change
from model.overlap_promises import OverlapModel

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


@pytest.mark.long
@pytest.mark.parametrize("policy", [AT_LEAST_ONCE, AT_MOST_ONCE])
def test_protocol_holds_among_three_workers(policy: str) -> None:
    found = explore(ExecutionModel(policy, workers=3))
    assert not found.broken, str(found)


@pytest.mark.long
@pytest.mark.parametrize(("overlap", "edit_to"), [("skip", ""), ("queue", ""), ("skip", "queue"), ("queue", "skip")])
def test_protocol_holds_with_four_moments(overlap: str, edit_to: str) -> None:
    found = explore(OverlapModel(overlap, edit_to=edit_to, moments=4))
    assert not found.broken, str(found)
