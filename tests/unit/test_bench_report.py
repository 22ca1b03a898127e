"""What the bench makes of its figures."""

from datetime import UTC, datetime

import pytest
from bench.case import Case, Figures, Goal, figure_of, ratio
from bench.report import Run, aligned, document_of, goal_table, tables, unmeasured

OURS, THEIRS = "burst/work/gnomon", "burst/work/other"


def run_of(**rounds: list[Figures]) -> Run:
    run = Run(command="scripts/bench", begun_at=datetime(2026, 1, 1, tzinfo=UTC))
    for name, measured in rounds.items():
        for figures in measured:
            run.add(Case(name=f"burst/work/{name}", measure=lambda bed: {}), figures)
    return run


def test_median_of_the_rounds_counts() -> None:
    run = run_of(gnomon=[{"per_s": 5.0}, {"per_s": 100.0}, {"per_s": 6.0}])
    assert run.medians == {OURS: {"per_s": 6.0}}


def test_others_that_do_the_same_work_are_compared_with_ours() -> None:
    document = document_of(run_of(gnomon=[{"per_s": 200.0, "us": 4.5}], other=[{"per_s": 50.0}]), [], {})
    assert tables(document) == {
        "burst": [
            ["burst", "per_s", "us", "of gnomon"],
            ["work/gnomon", "200", "4.50", "1.00"],
            ["work/other", "50.0", "-", "0.25"],
        ]
    }


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal(text="a", value=ratio(OURS, THEIRS, "per_s"), at_least=4.0), "4.00", "reached"),
        (Goal(text="a", value=ratio(OURS, THEIRS, "per_s"), at_least=4.1), "4.00", "NOT REACHED"),
        (Goal(text="a", value=figure_of(THEIRS, "per_s"), at_most=50.0), "50.0", "reached"),
        (Goal(text="a", value=figure_of(THEIRS, "per_s"), at_most=49.0), "50.0", "NOT REACHED"),
    ],
)
def test_goal_is_reached_or_not(goal: Goal, value: str, verdict: str) -> None:
    document = document_of(run_of(gnomon=[{"per_s": 200.0}], other=[{"per_s": 50.0}]), [goal], {})
    assert goal_table(document)[1] == ["a", value, verdict]


def test_goals_whose_cases_were_not_run_are_counted() -> None:
    values = [ratio(OURS, THEIRS, "per_s"), figure_of(THEIRS, "per_s"), figure_of(OURS, "per_s")]
    goals = [Goal(text=str(number), value=value, at_least=1.0) for number, value in enumerate(values)]
    document = document_of(run_of(gnomon=[{"per_s": 200.0}]), goals, {})
    assert [line[0] for line in goal_table(document)] == ["goal", "2"]
    assert unmeasured(document) == "2 goals are of cases that were not run."


def test_columns_stand_below_each_other() -> None:
    assert aligned([["name", "x"], ["a", "10"]]) == "name   x\na     10"
