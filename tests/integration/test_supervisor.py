"""Processes kept running: restarted when they end, their output passed on, their own children ended with them."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from gnomon.embedded.processes import family_of, is_running
from gnomon.embedded.supervisor import Process, Supervisor

STAYS = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); {STAYS}"


class Stage:
    """A supervisor, and what it and its processes said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.written: list[bytes] = []
        self.urgent = False
        self.supervisor = Supervisor(self.said.append)

    def start(self, code: str) -> Process:
        process = Process(
            [sys.executable, "-c", code], env=os.environ, write=self.written.append, urgent=lambda: self.urgent
        )
        self.supervisor.start("actor", process)
        return process

    def run_until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up_at, self.said
            self.supervisor.run_once()
            time.sleep(0.02)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A supervisor that is stopped at the end."""
    stage = Stage()
    yield stage
    stage.urgent = True
    stage.supervisor.stop()


def test_killed_process_is_started_again_and_said_so(stage: Stage) -> None:
    process = stage.start(STAYS)
    first = process.pid
    assert first
    os.kill(first, signal.SIGKILL)
    stage.run_until(lambda: process.pid not in (None, first))
    assert stage.said == ["actor ended; starting it again in 0.5 s"]


def test_output_is_passed_on_and_ready_is_noticed(stage: Stage) -> None:
    process = stage.start("print('already here'); " + STAYS)
    assert process.ready.wait(20)
    assert stage.written == [b"already here\n", b"ready\n"]


def test_stop_ends_what_the_process_itself_had_started(stage: Stage) -> None:
    process = stage.start(PARENT)
    assert process.ready.wait(20)
    assert process.pid
    family = [process.pid, *family_of(process.pid)]
    assert len(family) == 2
    process.stop()
    assert not [pid for pid in family if is_running(pid)]


def test_orphans_of_a_killed_process_are_ended_before_its_restart(stage: Stage) -> None:
    process = stage.start(PARENT)
    assert process.ready.wait(20)
    first = process.pid
    assert first
    (orphan,) = family_of(first)
    os.kill(first, signal.SIGKILL)
    stage.run_until(lambda: process.pid not in (None, first))
    assert not is_running(orphan)


def test_urgent_stop_does_not_wait_for_a_process_that_ignores_sigterm(stage: Stage) -> None:
    process = stage.start(STUBBORN)
    assert process.ready.wait(20)
    stage.urgent = True
    began = time.monotonic()
    process.stop()
    assert time.monotonic() - began < 10
    assert process.exit_code == -signal.SIGKILL


def test_supervisor_stops_the_last_started_first() -> None:
    stopped: list[str] = []

    class Recorded:
        pid = 1

        def __init__(self, name: str) -> None:
            self.name = name

        def start(self) -> None: ...

        def stop(self) -> None:
            stopped.append(self.name)

    supervisor = Supervisor(lambda _: None)
    for name in ("postgres", "valkey", "worker"):
        supervisor.start(name, Recorded(name))
    supervisor.stop()
    assert stopped == ["worker", "valkey", "postgres"]
