"""Handlers through the whole stack: however one ends, its execution ends as it should and its neighbours go on."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cluster as support
from support.cluster import Cluster, Role, cluster
from support.world import World

from gnomon.embedded.processes import is_running
from gnomon.job.model import Execution, Job

HANDLERS = {
    "SCHEDULER_WORKER_QUEUES": "handlers",
    "SCHEDULER_WORKER_HANDLERS": "servers.mortal",
    "SCHEDULER_WORKER_PROCESSES": "2",
    "SCHEDULER_MAX_JOB_LOCK_TIME": "5s",
    "PYTHONPATH": str(Path(__file__).parent.parent),
}
ASYNC = {**HANDLERS, "SCHEDULER_WORKER_QUEUES": "async"}
ONCE = {"retry": {"max_attempts": 1}}
TWICE = {"retry": {"max_attempts": 2, "initial_seconds": 0}}


def wait_until(what: str, condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Children take a while to start on a busy machine."""
    support.wait_until(what, condition, seconds=seconds)


class Stage:
    """A scheduler, and workers as a test wants them."""

    def __init__(self, world: World, started: Cluster) -> None:
        self.world = world
        self._cluster = started
        started.start_ready("scheduler")

    def worker(self, settings: dict[str, str], announces: str = "give", **more: str) -> Role:
        """One that is ready, and has announced what it can run."""
        worker = self._cluster.start("worker", **settings, **more)
        worker.wait_ready(120)
        wait_until(f"{announces} is announced", lambda: self.world.catalog.handler(announces) is not None)
        return worker

    def count(self, condition: str) -> int:
        """How many executions fulfil it."""
        found: int = self.world.one(f"select count(*) from executions where {condition}")
        return found

    def due(self, name: str, **document: Any) -> Job:
        """A job of this handler that has just fallen due."""
        return self.world.due(type=name, http_job=None, **document)

    def end_of(self, job: Job, seconds: float = 120.0) -> Execution:
        def ended() -> bool:
            history = self.world.history_of(job)
            return bool(history) and all(one.state.final for one in history)

        wait_until(f"{job.id} is final", ended, seconds=seconds)
        (execution,) = self.world.history_of(job)
        return execution


@pytest.fixture
def stage(world: World, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    world.sql("create table effects (execution_id uuid, attempt int)")
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        yield Stage(world, started)


def test_each_end_of_a_handler_is_recorded_with_its_reason_and_the_worker_goes_on(stage: Stage, tmp_path: Path) -> None:
    worker = stage.worker(HANDLERS, SCHEDULER_WORKER_PROCESS_MEMORY="500MiB")
    fates: dict[str, tuple[dict[str, Any], str, str | None, int]] = {
        "give": ({"value": {"sent": 2}}, "SUCCEEDED", None, 1),
        "raise": ({}, "FAILED", "handler_error", 2),
        "raise_permanent": ({}, "FAILED", "handler_error", 1),
        "os_exit": ({"code": 3}, "FAILED", "exited", 2),
        "segfault": ({}, "FAILED", "crashed", 2),
        "hang_deaf": ({}, "FAILED", "timeout", 2),
        "eat": ({"mebibytes": 900}, "FAILED", "out_of_memory", 2),
        "effect": ({}, "SUCCEEDED", None, 1),
    }
    jobs = {name: stage.due(name, payload=payload, timeout_seconds=3, **TWICE) for name, (payload, *_) in fates.items()}
    ends = {name: stage.end_of(job, 120) for name, job in jobs.items()}
    assert {name: (one.state.value, one.error_code, one.attempt) for name, one in ends.items()} == {
        name: tuple(fate) for name, (_, *fate) in fates.items()
    }
    assert json.loads(ends["give"].response_excerpt or "") == {"sent": 2}
    assert stage.world.one("select count(*) from effects") == 1
    assert worker.running
    assert "ModuleNotFoundError" not in worker.text
    lines = [line for line in worker.text.splitlines() if "Traceback" in line]
    assert any(str(ends["raise"].id) in line and "out of paper" in line for line in lines)


def test_at_most_once_handler_that_dies_is_unknown_and_one_that_raises_has_failed(stage: Stage) -> None:
    stage.worker(HANDLERS)
    once = {"delivery": "at_most_once"}
    died = stage.due("segfault", **once)
    raised = stage.due("raise", **once)
    given = stage.due("give", **once)
    states = {
        name: stage.end_of(job).state.value for name, job in {"died": died, "raised": raised, "given": given}.items()
    }
    assert states == {"died": "UNKNOWN", "raised": "FAILED", "given": "SUCCEEDED"}
    assert stage.end_of(raised).attempt == 1


def test_running_handler_is_cancelled(stage: Stage, tmp_path: Path) -> None:
    stage.worker(HANDLERS)
    begun = tmp_path / "begun"
    looks, hangs = (
        stage.due("touch_and_wait", payload={"path": str(begun)}),
        stage.due("touch_and_hang", payload={"path": str(tmp_path / "pid")}),
    )
    wait_until("both have begun", lambda: begun.exists() and (tmp_path / "pid").exists())
    for job in (looks, hangs):
        (execution,) = stage.world.history_of(job)
        stage.world.runs.cancel(execution.id)
    assert [stage.end_of(job).state.value for job in (looks, hangs)] == ["CANCELLED", "CANCELLED"]
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_worker_that_stops_gives_back_what_is_not_through_and_lets_the_rest_finish(
    stage: Stage, tmp_path: Path
) -> None:
    first = stage.worker(HANDLERS, SCHEDULER_WORKER_SHUTDOWN_TIMEOUT="6s")
    short = stage.due("count", payload={"path": str(tmp_path / "short"), "seconds": 2}, **ONCE)
    long = stage.due("touch_and_wait", payload={"path": str(tmp_path / "long")}, **ONCE)
    wait_until("both have begun", lambda: (tmp_path / "short").exists() and (tmp_path / "long").exists())
    assert first.stop() == 0
    assert stage.end_of(short).state.value == "SUCCEEDED"
    (execution,) = stage.world.history_of(long)
    assert (execution.state.value, execution.failures, execution.error_code) == ("PENDING", 0, "interrupted")
    (tmp_path / "long").unlink()
    stage.worker(HANDLERS)
    wait_until("another worker has begun it", lambda: (tmp_path / "long").exists())


@pytest.mark.parametrize("queue_url", ["redis", "rabbitmq"], indirect=True)
def test_workers_restarted_one_after_the_other_leave_no_trace(
    world: World, database_url: str, queue_url: str, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        stage = Stage(world, started)
        workers = [stage.worker(HANDLERS), stage.worker(ASYNC, "async.give"), stage.worker(HANDLERS)]
        often = {"interval_seconds": 1, "overlap": "allow", "delivery": "at_most_once"}
        for place in range(4):
            payload = {"path": str(lines), "seconds": 0.2}
            world.create(name=f"counts-{place}", type="count", http_job=None, payload=payload, **often)
            world.create(name=f"gives-{place}", type="async.give", http_job=None, **often)
        for place, settings in enumerate([HANDLERS, ASYNC, HANDLERS]):
            before = len(lines_of(lines))
            wait_until("handlers run", lambda before=before: len(lines_of(lines)) > before + 4)  # type: ignore[misc]
            assert workers[place].stop() == 0
            workers[place] = stage.worker(settings)
        world.sql("update jobs set status = 'STOPPED'")
        wait_until("all is final", lambda: stage.count("not state in ('SUCCEEDED', 'SKIPPED')") == 0)
    assert len(lines_of(lines)) == stage.count("kind = 'count' and state = 'SUCCEEDED'") > 25
    assert stage.count("kind = 'async.give' and state = 'SUCCEEDED'") > 25
    assert world.one("select count(*) from attempts where outcome = 'LOST'") == 0


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_children_of_a_killed_worker_are_gone_and_its_executions_taken_over(stage: Stage, tmp_path: Path) -> None:
    first = stage.worker(HANDLERS)
    job = stage.due("touch_and_hang", payload={"path": str(tmp_path / "pid")}, timeout_seconds=10, **ONCE)
    wait_until("it has begun", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    first.kill()
    pid = int((tmp_path / "pid").read_text())
    wait_until("the child is gone", lambda: not is_running(pid))
    end = stage.end_of(job)
    assert (end.state.value, end.error_code) == ("FAILED", "lost")


def test_execution_waits_for_a_worker_that_knows_its_handler(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text("from gnomon import handler\n@handler('other')\ndef other(): ...\n")
    known = stage.worker(HANDLERS)
    known.stop()
    path = f"{HANDLERS['PYTHONPATH']}{os.pathsep}{tmp_path}"
    ignorant = stage.worker(HANDLERS | {"SCHEDULER_WORKER_HANDLERS": "others", "PYTHONPATH": path}, "other")
    job = stage.due("give", delivery="at_most_once", **ONCE)
    wait_until("it was given back", lambda: "handler give is not known to this worker" in ignorant.text)
    assert "known here: other" in ignorant.text
    stage.worker(HANDLERS)
    ignorant.stop()
    end = stage.end_of(job, 120)
    assert (end.state.value, end.failures) == ("SUCCEEDED", 0)


def test_async_handlers_run_side_by_side_and_end_as_they_should(stage: Stage) -> None:
    worker = stage.worker(ASYNC, "async.give")
    stage_names = {"async.give": "SUCCEEDED", "async.exit": "FAILED", "async.stubborn": "FAILED"}
    payloads = {"async.stubborn": {"seconds": 60}}
    jobs = {name: stage.due(name, payload=payloads.get(name, {}), timeout_seconds=2, **ONCE) for name in stage_names}
    assert {name: stage.end_of(job).state.value for name, job in jobs.items()} == stage_names
    assert worker.running


def test_worker_whose_loop_a_handler_blocks_for_good_ends_and_another_goes_on(stage: Stage) -> None:
    blocked = stage.worker(ASYNC, "async.give")
    culprit = stage.due("async.block", payload={"seconds": 600}, **ONCE)
    wait_until("it has ended itself", lambda: not blocked.running)
    assert "handler async.block, execution " in blocked.text
    assert blocked.stop() == 70
    stage.worker(ASYNC, "async.give")
    end = stage.end_of(culprit)
    assert (end.state.value, end.error_code) == ("FAILED", "lost")
    assert stage.end_of(stage.due("async.give")).state.value == "SUCCEEDED"


def test_retry_strategy_of_the_workers_decides_when_to_try_again(stage: Stage) -> None:
    stage.worker(HANDLERS)
    job = stage.due("raise", retry={"strategy": "steady", "max_attempts": 9})
    end = stage.end_of(job)
    assert (end.state.value, end.attempt) == ("FAILED", 2)
