"""Failpoints: every step has them, an unarmed process has none of them, an armed one acts once."""

import importlib
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.cluster import wait_until
from support.failpoints import (
    BROKERS,
    POINTS,
    STAND_INS,
    STEPS,
    WITHOUT_POINTS,
    Action,
    ArmedPort,
    ArmedQueue,
    Switch,
    arm,
)
from support.launcher import SCALED, Launcher, look_up
from support.matrix import all_cells, sample

from gnomon.embedded.processes import is_running
from gnomon.job import ports
from gnomon.job.errors import Unavailable

PORTS = [
    port
    for port in vars(ports).values()
    if isinstance(port, type) and port is not Protocol and getattr(port, "_is_protocol", False)
]


def verbs_of(port: type) -> set[str]:
    return {name for name, value in vars(port).items() if callable(value) and not name.startswith("_")}


def stood_in() -> dict[str, object]:
    return {
        place: getattr(importlib.import_module(place.rpartition(".")[0]), place.rpartition(".")[2])
        for place in STAND_INS
    }


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.__name__)
def test_each_verb_of_a_port_is_a_step_or_changes_nothing(port: type) -> None:
    steps, without = STEPS.get(port, {}), WITHOUT_POINTS.get(port, set())
    assert verbs_of(port) == steps.keys() | without
    assert not steps.keys() & without


def test_each_step_can_be_left_before_and_after_it_is_done() -> None:
    places: dict[str, set[str]] = {}
    for name in POINTS:
        step, _, place = name.rpartition(".")
        places.setdefault(step, set()).add(place)
    steps = {step for port in STEPS.values() for step in port.values()}
    asking = {"definitions"}  # to leave it before is to leave the claim after
    assert steps <= places.keys()
    for step in steps - asking:
        assert {"before", "before_commit"} & places[step], step
        assert {"after", "after_commit"} & places[step], step


def test_each_point_kills_and_stops_and_each_step_fails_undone_and_done() -> None:
    for point in POINTS.values():
        assert {Action.KILL, Action.STOP} <= set(point.actions)
    by_step: dict[str, set[Action]] = {}
    for point in POINTS.values():
        by_step.setdefault(point.step, set()).update(point.actions)
    asking = {"definitions", "cancel_poll"}
    assert {step for step, actions in by_step.items() if Action.DO_THEN_RAISE not in actions} == asking
    assert all(Action.RAISE in actions for actions in by_step.values())


def test_unarmed_process_has_the_ports_of_the_product() -> None:
    before = stood_in()
    arm({"SCHEDULER_DB_URL": "postgresql://127.0.0.1/x"})
    assert stood_in() == before
    assert all(str(getattr(port, "__module__", "")).startswith("gnomon.") for port in before.values())


def test_armed_process_has_other_ports_in_every_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = stood_in()
    for place, port in before.items():
        monkeypatch.setattr(place, port)  # put back at the end
    arm({"FAILPOINT": "W.before=kill", "FAILPOINT_MARKER": str(tmp_path / "marker")})
    assert all(stood_in()[place] is not port for place, port in before.items())


class Store:
    """A port that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def record(self, records: list[int]) -> set[int]:
        self.calls.append(("record", records))
        return set(records)

    def horizon(self) -> str:
        return "ahead"

    def publish(self, queue: str, ids: list[int]) -> None:
        self.calls.append((queue, *ids))


def armed(point: str, action: Action, folder: Path) -> Switch:
    return Switch(POINTS[point], action, folder / "marker")


def marks(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "marker").read_text().splitlines()]


def test_failing_before_does_nothing_and_happens_once(tmp_path: Path) -> None:
    store = Store()
    port = ArmedPort(store, {"record": "S"}, armed("S.before", Action.RAISE, tmp_path))
    with pytest.raises(Unavailable):
        port.record([1])
    assert store.calls == []
    assert port.record([1]) == {1}
    assert port.horizon() == "ahead"
    assert marks(tmp_path) == ["reached", "left"]


def test_failing_after_has_done_it(tmp_path: Path) -> None:
    store = Store()
    port = ArmedPort(store, {"record": "W"}, armed("W.after_commit", Action.DO_THEN_RAISE, tmp_path))
    assert port.record([]) == set()  # nothing was done, so the point is still ahead
    with pytest.raises(Unavailable):
        port.record([1])
    assert store.calls == [("record", []), ("record", [1])]
    assert marks(tmp_path) == ["reached", "left"]


def test_failing_in_the_middle_of_publishing_has_sent_a_part(tmp_path: Path) -> None:
    store = Store()
    queue = ArmedQueue(store, armed("P.middle", Action.RAISE, tmp_path))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        queue.publish("io", [1, 2, 3])  # type: ignore[list-item]
    assert store.calls == [("io", 1, 2)]


def test_lead_fails_until_the_point_is_reached(tmp_path: Path) -> None:
    switch = armed("L.before", Action.RAISE, tmp_path)
    port = ArmedPort(Store(), {"record": "definitions"}, switch)
    release = ArmedPort(Store(), {"record": "L"}, switch)
    for _ in range(2):
        with pytest.raises(Unavailable):
            port.record([1])
    with pytest.raises(Unavailable):
        release.record([1])
    assert port.record([1]) == {1}
    assert marks(tmp_path) == ["led", "led", "reached", "left"]


def test_stopped_thread_does_not_run_on(tmp_path: Path) -> None:
    """In a child: the step is not done before SIGCONT, though other threads could have taken the signal."""
    child = os.fork()
    if child == 0:
        store = Store()
        port = ArmedPort(store, {"record": "S"}, armed("S.before", Action.STOP, tmp_path))
        threading.Thread(target=lambda: (port.record([1]), (tmp_path / "done").touch(), os._exit(0))).start()
        threading.Event().wait(30)
        os._exit(1)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert marks(tmp_path) == ["reached"]
    assert not (tmp_path / "done").exists()
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert marks(tmp_path) == ["reached", "resumed", "left"]


def test_sample_has_each_point_and_each_action_on_each_broker_and_belongs_to_its_seed() -> None:
    chosen = sample("a commit")
    assert chosen == sample("a commit")
    assert chosen != sample("another commit")
    assert set(chosen) <= set(all_cells())
    for broker in BROKERS:
        assert {cell.point for cell in chosen if cell.broker == broker} == {
            point.name for point in POINTS.values() if broker in point.brokers
        }
        assert {cell.action for cell in chosen if cell.broker == broker} == set(Action)


def test_every_cell_is_drawn_some_time() -> None:
    drawn = {cell for seed in range(400) for cell in sample(str(seed))}
    assert drawn == set(all_cells())


def test_each_scaled_time_is_one_of_the_product_and_shorter() -> None:
    for place, value in SCALED.items():
        owner, name = look_up(place)
        own = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        assert type(own) in (type(value), int, float), place
        assert comparable(value) < comparable(own), place


def comparable(value: Any) -> Any:
    """A limit on the server is written 10s or 1500ms."""
    if isinstance(value, str):
        return float(value.removesuffix("ms")) / 1000 if value.endswith("ms") else float(value.removesuffix("s"))
    return max(value) if isinstance(value, tuple) else value


@pytest.fixture
def unreachable() -> Mapping[str, str]:
    return {**os.environ, "SCHEDULER_DB_URL": "postgresql://nobody@127.0.0.1:9/none", "SCHEDULER_LOG_FORMAT": "text"}


def test_launcher_starts_the_commands_of_the_product(unreachable: Mapping[str, str], tmp_path: Path) -> None:
    with Launcher() as started:
        wrong = started.start("scheduler", {**unreachable, "SCHEDULER_INTERVAL": "soon"}, log=tmp_path / "wrong.log")
        assert wrong.wait(20) == 2
        assert "scheduler.interval" in wrong.text
        waiting = started.start("worker", unreachable, log=tmp_path / "waiting.log")
        wait_until("it waits", lambda: "waiting for the database" in waiting.text)
        waiting.signal(signal.SIGTERM)
        assert waiting.wait(20) == 0


@pytest.mark.parametrize("end", [Launcher.close, lambda started: os.kill(started.pid, signal.SIGKILL)])
def test_processes_end_with_their_launcher(
    end: Callable[[Launcher], None], unreachable: Mapping[str, str], tmp_path: Path
) -> None:
    started = Launcher()
    process = started.start("scheduler", unreachable, log=tmp_path / "log")
    wait_until("it runs", lambda: "waiting for the database" in process.text)
    end(started)
    wait_until("it has ended", lambda: not is_running(process.pid))
    started.close()
