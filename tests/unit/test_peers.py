"""What the bench makes of its peers and references."""

import pytest
from bench import peers, references
from bench.case import SHORT, Goal, Scale

OURS = "burst/http-0ms/redis/2-workers/gnomon"


def goal(section: object, beginning: str) -> Goal:
    (found,) = [goal for goal in section.SECTION.goals if goal.text.startswith(beginning)]
    return found


def test_goal_is_measured_against_the_fastest_peer() -> None:
    value = goal(peers, "burst, HTTP 0 ms, 2 workers").value
    others = {
        f"burst/http-0ms/redis/2-workers/{who}": {"jobs_per_s": rate}
        for who, rate in (("huey", 300.0), ("pgqueuer", 2_000.0))
    }
    assert value({OURS: {"jobs_per_s": 3_000.0}, **others}) == 1.5
    assert value({OURS: {"jobs_per_s": 3_000.0}}) is None
    assert value(others) is None


@pytest.mark.parametrize(
    ("beginning", "who", "rate"),
    [
        ("burst, HTTP 0 ms, redis: >= 15 x", "textbook-celery", 150.0),
        ("burst, HTTP 0 ms, redis: >= 0.6 x", "floor-same-client", 6_000.0),
    ],
)
def test_goal_is_a_ratio_of_one_run(beginning: str, who: str, rate: float) -> None:
    wanted = goal(references, beginning)
    value = wanted.value({OURS: {"jobs_per_s": 3_000.0}, f"burst/http-0ms/redis/2-workers/{who}": {"jobs_per_s": rate}})
    assert value == 3_000.0 / rate
    assert wanted.reached(value) is (who == "textbook-celery")


@pytest.mark.parametrize("section", [peers, references])
def test_what_goals_name_is_measured(section: object) -> None:
    measured = {case.name: {"jobs_per_s": 2.0} for case in section.SECTION.cases(Scale())}
    ours = {f"{name.rpartition('/')[0]}/gnomon": {"jobs_per_s": 1.0} for name in measured}
    assert [goal.value({**measured, **ours}) for goal in section.SECTION.goals] == [0.5] * len(section.SECTION.goals)


def test_each_peer_has_its_program_and_is_tried_in_the_short_form() -> None:
    tried = [case.who for case in peers.SECTION.cases(SHORT)]
    assert tried == [peer.who for peer in peers.PEERS]
    assert all(peer.path.is_file() for peer in peers.PEERS)
