"""Several processes that embed a Scheduler over one store: real ones, killed as faults would."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cluster import Role, wait_until

from gnomon import After, Execution, Scheduler, State
from gnomon.scheduler.dispatch import plan_batch

PROGRAM = Path(__file__).parents[1] / "servers" / "library_process.py"
LEASE = "4s"

Start = Callable[..., Role]


@dataclass(frozen=True)
class Effect:
    """What one attempt wrote."""

    job: str
    moment: str
    attempt: int
    pid: int


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """The test runs once on each store that processes can share."""
    found: str = request.getfixturevalue({"redis": "redis_url", "postgres": "database_url"}[request.param])
    return found


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Processes, ended with the test."""
    started: list[Role] = []

    def run(*jobs: str, **environment: str) -> Role:
        role = Role(
            f"process-{len(started)}",
            [sys.executable, str(PROGRAM), url, str(tmp_path / "effects"), LEASE, *jobs],
            {**os.environ, **environment},
            tmp_path / f"{len(started)}.log",
        )
        started.append(role)
        return role

    yield run
    for role in started:
        role.kill()


@pytest.fixture
def store(url: str) -> Iterator[Scheduler]:
    """Looks at the store, and runs nothing."""
    scheduler = Scheduler(url)
    yield scheduler
    scheduler.stop()


def effects(folder: Path) -> list[Effect]:
    path = folder / "effects"
    lines = path.read_text().splitlines() if path.exists() else []
    return [Effect(job, moment, int(attempt), int(pid)) for job, moment, attempt, pid in map(str.split, lines)]


def finished(store: Scheduler, name: str) -> list[Execution]:
    return [one for one in store.executions(name, limit=500) if one.state is State.SUCCEEDED]


def ready(*roles: Role) -> None:
    for role in roles:
        role.wait_ready(60)


def test_each_moment_runs_once_whichever_processes_register_the_job(
    start: Start, store: Scheduler, tmp_path: Path
) -> None:
    roles = [start("a=tick", "b=tick", "c=tick") for _ in range(3)]
    ready(*roles)
    wait_until("each has run ten times", lambda: all(len(finished(store, name)) >= 10 for name in "abc"), seconds=120)
    for role in roles:
        assert role.running
        role.kill()
    times = Counter((effect.job, effect.moment) for effect in effects(tmp_path))
    assert set(times.values()) == {1}
    assert [store.get(name).revision for name in "abc"] == [1, 1, 1]


def test_what_a_killed_process_ran_is_taken_over_by_another(start: Start, store: Scheduler, tmp_path: Path) -> None:
    first = start("job=hang")
    ready(first)
    wait_until("it runs", lambda: len(effects(tmp_path)) == 1, seconds=60)
    second = start("job=hang")
    ready(second)
    first.kill()
    wait_until("another has run it", lambda: len(finished(store, "job")) == 1, seconds=120)
    (execution,) = finished(store, "job")
    assert [(effect.attempt, effect.pid) for effect in effects(tmp_path)] == [(1, first.pid), (2, second.pid)]
    assert execution.attempts[0].outcome == "LOST"


def test_jobs_go_on_without_a_killed_process(start: Start, store: Scheduler, tmp_path: Path) -> None:
    first, second = start("job=tick"), start("job=tick")
    ready(first, second)
    wait_until("it runs", lambda: len(finished(store, "job")) >= 2, seconds=60)
    first.kill()
    count = len(finished(store, "job"))
    wait_until("it still runs", lambda: len(finished(store, "job")) >= count + 3, seconds=120)
    assert effects(tmp_path)[-1].pid == second.pid


def test_message_that_died_with_its_process_is_sent_again_by_another(
    start: Start, store: Scheduler, url: str, tmp_path: Path
) -> None:
    """A dispatch whose process dies before it has claimed leaves an execution that nobody has heard of."""
    scheduler = Scheduler(url)
    scheduler.register("job", After(0), _never, payload={"name": "job", "role": "nap"})
    stores = scheduler._open()  # the process itself can't be made to die between its dispatch and its claim
    wait_until("it is dispatched", lambda: stores.dispatch.dispatch(plan_batch, limit=10).jobs == 1)
    scheduler.stop()
    other = start("job=nap")
    ready(other)
    wait_until("another has run it", lambda: len(finished(store, "job")) == 1, seconds=120)
    assert [effect.pid for effect in effects(tmp_path)] == [other.pid]


def test_job_of_one_process_is_never_given_to_another(start: Start, store: Scheduler, tmp_path: Path) -> None:
    one, other = start("a=tick"), start("b=tick")
    ready(one, other)
    wait_until("both have run", lambda: all(len(finished(store, name)) >= 5 for name in "ab"), seconds=120)
    by = {(effect.job, effect.pid) for effect in effects(tmp_path)}
    assert by == {("a", one.pid), ("b", other.pid)}
    attempts = {run.attempt for name in "ab" for run in finished(store, name)}
    assert attempts == {1}


def test_what_runs_may_finish_when_the_program_ends_without_a_stop(start: Start, store: Scheduler) -> None:
    role = start("job=nap", ENDS="1.5")
    ready(role)
    wait_until("the program has ended", lambda: not role.running, seconds=60)
    (execution,) = store.executions("job")
    assert (execution.state, execution.attempt) == (State.SUCCEEDED, 1)
    assert "Traceback" not in role.text


def _never(name: str, role: str) -> None:
    raise AssertionError(f"{name} {role} is run by somebody else")
