"""The protocol's model keeps its promises, breaks one with any guard left out, and knows every statement of the code.

tests/integration/test_model_deep.py explores further.
"""

import importlib
import pkgutil
import re
from pathlib import Path

import model
import pytest
from model.execution import AT_LEAST_ONCE, AT_MOST_ONCE
from model.execution_promises import ExecutionModel
from model.explore import explore
from model.mutants import HARMLESS, MUTANTS, Change
from model.overlap_promises import OverlapModel
from sqlalchemy import TextClause

from gnomon.storage import postgres

NO_STEP = {
    "FREE_SLOTS": "moves the time of the next publish, and in the model that may come at any moment",
    "RETURN_SLOTS": "likewise",
    "PUT_OFF": "likewise",
    "PRUNE_AGED": "removes what is final, which no step of the model changes or creates again",
    "PRUNE_CROWD_OF_FAILED": "likewise",
    "PRUNE_CROWD_OF_SUCCEEDED": "likewise",
}


@pytest.mark.parametrize("policy", [AT_LEAST_ONCE, AT_MOST_ONCE])
def test_protocol_holds(policy: str) -> None:
    found = explore(ExecutionModel(policy))
    assert not found.broken, str(found)
    assert found.states > 10_000


@pytest.mark.parametrize("overlap", ["skip", "allow", "queue"])
def test_protocol_holds_for_executions_in_each_others_way(overlap: str) -> None:
    found = explore(OverlapModel(overlap))
    assert not found.broken, str(found)
    assert found.states > 1_000


@pytest.mark.parametrize("overlap", ["skip", "allow", "queue"])
def test_protocol_holds_for_what_is_dispatched_ahead(overlap: str) -> None:
    edit_to = "skip" if overlap == "queue" else "queue"
    found = explore(OverlapModel(overlap, moments=2, edit_to=edit_to, ahead=True, asks=overlap != "allow"))
    assert not found.broken, str(found)
    assert found.states > 500


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if not mutant.deep], ids=str)
def test_mutant_breaks(mutant: Change) -> None:
    found = explore(mutant.model(), only=mutant.breaks)
    assert mutant.breaks in found.broken, f"{found.states} states, and {mutant.breaks} in all of them"


def test_story_of_a_broken_promise_is_a_shortest_one() -> None:
    """A recording does not see what a dispatch has not committed yet: only R2 promotes that."""
    mutant = next(mutant for mutant in MUTANTS if mutant.moments == 2)
    assert explore(mutant.model(), only=mutant.breaks).story(mutant.breaks).splitlines() == [
        "nothing_waits_for_ever:",
        "  1. D1: dispatch 1",
        "  2. D5: commit",
        "  3. D1: dispatch 1",
        "  4. D2: wait or skip",
        "  5. C: claim 0",
        "  6. W: record the end of 0",
        "  7. … and no way out",
    ]


def test_each_guard_was_left_out_once() -> None:
    sources = "".join(path.read_text() for path in Path(model.__path__[0]).glob("*steps.py"))
    sources += Path(model.__path__[0], "overlap.py").read_text()
    asked = set(re.findall(r'"([^"]+)" (?:not )?in broken', sources))
    assert asked == {guard for change in (*MUTANTS, *HARMLESS) for guard in change.without}


def test_each_promise_was_broken_once() -> None:
    promised = {name for one in (ExecutionModel, OverlapModel) for name in (*one.promises, *one.goals)}
    assert promised == {mutant.breaks for mutant in MUTANTS}


def test_each_statement_that_changes_executions_is_a_step_of_the_model() -> None:
    """A new one needs a step in tests/model, or a place in NO_STEP with the reason why it can break no promise."""
    known = {name for one in (ExecutionModel, OverlapModel) for step in one.steps for name in step.statements}
    written, changing = _statements()
    assert known <= written
    assert changing <= known | NO_STEP.keys(), f"no step for {changing - known - NO_STEP.keys()}"
    assert NO_STEP.keys() <= changing - known


def _statements() -> tuple[set[str], set[str]]:
    """The names of all statements of the storage, and of those that write executions."""
    written: set[str] = set()
    changing: set[str] = set()
    for found in pkgutil.iter_modules(postgres.__path__, f"{postgres.__name__}."):
        if not found.ispkg:
            statements = vars(importlib.import_module(found.name)).items()
            texts = {name: str(value) for name, value in statements if isinstance(value, TextClause)}
            written |= texts.keys()
            changing |= {
                name for name, sql in texts.items() if re.search(r"(update|insert into|delete from) executions\b", sql)
            }
    return written, changing
