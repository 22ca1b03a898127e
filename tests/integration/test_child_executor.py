"""Sync handlers in child processes: whatever a handler does, its attempt ends with a clear reason, and nothing else."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop
from support.calls import make_call
from support.cluster import wait_until

from gnomon.embedded.processes import is_running
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.children.pool import Pool
from gnomon.worker.children.process import Birth
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.python_sync import ChildExecutor

LINK_CLOSED = "the handler closed its connection to the worker"


def make_birth(**fields: Any) -> Birth:
    defaults = {
        "boot": "gnomon.bootstrap.child",
        "modules": ("servers.mortal",),
        "log_level": "INFO",
        "memory": None,
        "given": {"database_url": "postgresql://127.0.0.1:9/none", "instance": str(uuid4())},
    }
    return Birth(**{**defaults, **fields})


class Host:
    """An executor on a loop, as the runner has it."""

    def __init__(self, *, size: int = 1, max_calls: int = 1000, **fields: Any) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.birth = make_birth(**fields)
        self.runner.run(self._open(size, max_calls))

    async def _open(self, size: int, max_calls: int) -> None:
        self.pool = Pool(self.birth, size=size, max_calls=max_calls)
        self.executor = ChildExecutor(self.pool)

    def run(self, name: str, payload: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        return self.runner.run(self.executor.execute(*call_of(name, payload, **fields)))

    async def end_of(self, name: str, path: Path) -> Outcome | Sent:
        """The outcome; how far it had got where it is broken off."""
        try:
            return await self.executor.execute(*call_of(name, {"path": str(path)}))
        except BrokenOff as error:
            return error.sent

    def close(self) -> None:
        self.runner.run(self.executor.aclose())
        self.runner.close()


def call_of(name: str, payload: dict[str, Any] | None = None, **fields: Any) -> tuple[HandlerTarget, Call]:
    return HandlerTarget(name=name, payload=payload or {}), make_call(**{"timeout": timedelta(seconds=60), **fields})


@pytest.fixture
def make_host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**options: Any) -> Host:
        hosts.append(Host(**options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One child for many tests: what one of them does to it must not be seen by the next."""
    opened = Host()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("value", "excerpt"),
    [
        (None, None),
        ("a text\n", "a text\n"),
        ({"sent": 2, "ü": [None]}, '{"sent": 2, "ü": [null]}'),
        (0, "0"),
    ],
)
def test_what_a_handler_returns_is_kept_as_text(host: Host, value: Any, excerpt: str | None) -> None:
    assert host.run("give", {"value": value}) == Succeeded(response_excerpt=excerpt)


def test_result_that_can_not_be_stored_as_it_is_is_cleaned(host: Host) -> None:
    assert host.run("give_unstorable") == Succeeded(response_excerpt="\ufffd\ufffd")
    assert host.run("give_object") == Succeeded(response_excerpt="(object, which is not JSON)")


def test_long_result_is_cut(host: Host) -> None:
    outcome = host.run("give", {"value": "x" * 100_000})
    assert isinstance(outcome, Succeeded)
    assert outcome.response_excerpt is not None
    assert len(outcome.response_excerpt) == 4096


def test_handler_gets_its_context_and_runs_in_the_main_thread(host: Host) -> None:
    target, call = call_of("facts", attempt=3, timeout=timedelta(seconds=50))
    outcome = host.runner.run(host.executor.execute(target, call))
    assert isinstance(outcome, Succeeded)
    assert outcome.response_excerpt is not None
    facts = json.loads(outcome.response_excerpt)
    assert 50 <= facts.pop("seconds") < 110
    assert facts == {
        "execution_id": str(call.execution_id),
        "job_id": str(call.job_id),
        "attempt": 3,
        "scheduled_at": call.scheduled_at.isoformat(),
        "cancelled": False,
        "main_thread": True,
    }


@pytest.mark.parametrize(
    ("name", "payload", "code", "message", "permanent", "sent"),
    [
        ("raise", {}, "handler_error", "RuntimeError: out of paper", False, Sent.ANSWERED),
        ("raise", {"text": ""}, "handler_error", "RuntimeError", False, Sent.ANSWERED),
        ("raise_permanent", {}, "handler_error", "PermanentError: no such customer", True, Sent.ANSWERED),
        ("raise_unprintable", {}, "handler_error", "Unprintable", False, Sent.ANSWERED),
        ("interrupt", {}, "handler_error", "KeyboardInterrupt", False, Sent.ANSWERED),
        ("sys_exit", {}, "exited", "the handler called sys.exit(3)", False, Sent.ANSWERED),
        ("os_exit", {"code": 7}, "exited", "the handler's process ended with exit code 7", False, Sent.MAYBE_SENT),
        ("os_exit", {"code": 0}, "exited", "the handler's process ended with exit code 0", False, Sent.MAYBE_SENT),
        ("segfault", {}, "crashed", "the handler's process was ended by SIGSEGV", False, Sent.MAYBE_SENT),
        ("abort", {}, "crashed", "the handler's process was ended by SIGABRT", False, Sent.MAYBE_SENT),
        (
            "close_link",
            {"seconds": 0.1},
            "crashed",
            "the handler closed its connection to the worker",
            False,
            Sent.MAYBE_SENT,
        ),
        ("typed", {"number": 1}, "invalid_payload", "/names: Field required", True, Sent.NOT_SENT),
        ("nobody", {}, "handler_missing", None, False, Sent.NOT_SENT),
    ],
)
def test_each_end_has_its_reason_and_the_next_call_its_child(
    host: Host, name: str, payload: dict[str, Any], code: str, message: str | None, permanent: bool, sent: Sent
) -> None:
    outcome = host.run(name, payload)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent, outcome.sent) == (code, permanent, sent)
    assert message in (None, outcome.message)
    assert host.run("give", {"value": 1}) == Succeeded(response_excerpt="1")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGALRM])
def test_signal_that_ends_the_process_is_named(host: Host, number: signal.Signals) -> None:
    outcome = host.run("signal", {"number": int(number)})
    assert isinstance(outcome, Failed)
    assert outcome.code == "crashed"
    assert number.name in outcome.message
    assert ("memory" in outcome.message) == (number is signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_meant_for_the_service_do_not_end_a_handler(host: Host, number: signal.Signals) -> None:
    assert host.run("signal", {"number": int(number)}) == Succeeded()


@pytest.mark.parametrize("name", ["hang", "hang_deaf"])
def test_handler_that_takes_too_long_is_killed(host: Host, name: str) -> None:
    before = host.run("pid")
    outcome = host.run(name, timeout=timedelta(seconds=0.3))
    assert outcome == Failed(
        code="timeout", message="the handler took longer than 0.3 s", sent=Sent.MAYBE_SENT, permanent=False
    )
    assert isinstance(before, Succeeded)
    assert not is_running(int(before.response_excerpt or 0))
    assert host.run("pid") != before


def test_stopped_process_is_killed_at_its_timeout(host: Host) -> None:
    outcome = host.run("signal", {"number": int(signal.SIGSTOP)}, timeout=timedelta(seconds=0.5))
    assert isinstance(outcome, Failed)
    assert outcome.code == "timeout"


def test_garbage_on_the_link_ends_the_attempt(host: Host) -> None:
    outcome = host.run("write_to_link")
    assert isinstance(outcome, Failed)
    assert outcome.code == "crashed"
    assert "wrote to its connection" in outcome.message


def test_memory_is_bounded(make_host: Callable[..., Host]) -> None:
    host = make_host(memory=400 * 2**20)
    before = host.run("pid")
    outcome = host.run("eat", {"mebibytes": 600})
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent, outcome.sent) == ("out_of_memory", False, Sent.ANSWERED)
    assert host.run("eat", {"mebibytes": 50}) == Succeeded(response_excerpt="50")
    assert host.run("pid") != before


def test_what_is_logged_and_printed_is_in_the_workers_log(
    host: Host, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    target, call = call_of("print")
    with caplog.at_level(logging.INFO):
        assert host.runner.run(host.executor.execute(target, call)) == Succeeded()
    lines = {record.getMessage(): record for record in caplog.records}
    assert {"printed line", "printed to stderr", "without an end", "logged line"} <= lines.keys()
    assert {vars(record)["execution_id"] for record in lines.values()} == {str(call.execution_id)}
    assert vars(lines["logged line"])["colour"] == "blue"
    assert (lines["logged line"].name, lines["logged line"].levelname) == ("mortal", "INFO")
    assert lines["logged line"].process != os.getpid()
    captured = capfd.readouterr()
    assert "past Python" not in captured.out


def test_traceback_is_in_the_log_and_not_in_the_record(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    outcome = host.run("raise")
    assert isinstance(outcome, Failed)
    assert "Traceback" not in outcome.message
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert "raise RuntimeError(text)" in vars(record)["exception"]


def test_flood_of_output_gets_through(host: Host) -> None:
    assert host.run("flood", {"lines": 5_000}) == Succeeded(response_excerpt="5000")


def test_forked_process_does_not_speak_for_the_child(host: Host) -> None:
    assert host.run("fork") == Succeeded(response_excerpt="1")
    assert host.run("give", {"value": 2}) == Succeeded(response_excerpt="2")


@pytest.mark.parametrize(("then", "code"), [("crash", "crashed"), ("hang", "timeout")])
def test_processes_that_a_handler_started_are_killed_with_it(host: Host, tmp_path: Path, then: str, code: str) -> None:
    path = tmp_path / "pid"
    outcome = host.run("grandchild", {"path": str(path), "then": then}, timeout=timedelta(seconds=10))
    assert isinstance(outcome, Failed)
    assert outcome.code == code
    wait_until("the grandchild is gone", lambda: not is_running(int(path.read_text())))


def test_handler_has_no_children_but_its_own(host: Host) -> None:
    outcome = host.run("wait_for_children")
    assert outcome == Succeeded(response_excerpt="no children")


def test_children_are_replaced_after_their_calls(make_host: Callable[..., Host]) -> None:
    host = make_host(max_calls=2)
    pids = [host.run("pid") for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_each_child_runs_one_call_at_a_time(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(size=2)

    async def three() -> list[bool]:
        tasks = [asyncio.create_task(host.end_of("touch_and_hang", tmp_path / name)) for name in "abc"]
        while sum((tmp_path / name).exists() for name in "abc") < 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        begun = [(tmp_path / name).exists() for name in "abc"]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks)
        assert sorted(ends) == [Sent.MAYBE_SENT, Sent.MAYBE_SENT, Sent.NOT_SENT]
        return begun

    assert sorted(host.runner.run(three())) == [False, True, True]


def cancelled(host: Host, path: Path, name: str) -> Any:
    """What comes of a call that is cancelled as soon as the handler has begun."""

    async def cancel() -> Any:
        task = asyncio.create_task(host.end_of(name, path))
        while not path.exists():
            await asyncio.sleep(0.02)
        task.cancel()
        return await task

    return host.runner.run(cancel())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that is cancelled may take its time, as it does on a busy machine."""
    monkeypatch.setattr(ChildExecutor, "GRACE_SECONDS", 60.0)


@pytest.mark.usefixtures("patient")
def test_handler_sees_that_it_is_cancelled(host: Host, tmp_path: Path) -> None:
    assert cancelled(host, tmp_path / "begun", "touch_and_wait") is Sent.ANSWERED
    assert (tmp_path / "begun.cancelled").exists()
    assert host.run("give") == Succeeded()


@pytest.mark.usefixtures("patient")
def test_handler_that_finishes_though_cancelled_has_succeeded(host: Host, tmp_path: Path) -> None:
    assert cancelled(host, tmp_path / "begun", "finish_though_cancelled") == Succeeded(response_excerpt="finished")


def test_handler_that_does_not_look_is_killed(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    assert cancelled(host, path, "touch_and_hang") is Sent.MAYBE_SENT
    assert not is_running(int(path.read_text()))


def test_child_that_can_not_be_started_fails_the_attempt_with_the_reason(
    make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ChildExecutor, "WAIT_SECONDS", 20.0)
    host = make_host(modules=("nowhere.to_be_found",))
    outcome = host.run("give")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.sent, outcome.permanent) == ("no_child", Sent.NOT_SENT, False)
    assert "'nowhere.to_be_found' can't be imported: ModuleNotFoundError" in outcome.message
    assert any("could not be started" in record.getMessage() for record in caplog.records)


def test_child_that_dies_while_idle_is_replaced(host: Host) -> None:
    before = host.run("pid")
    assert isinstance(before, Succeeded)
    os.kill(int(before.response_excerpt or 0), signal.SIGKILL)
    after = host.run("pid")
    assert isinstance(after, Succeeded | Failed)
    if isinstance(after, Failed):  # handed out before anybody knew
        assert after.code == "crashed"
    assert isinstance(host.run("pid"), Succeeded)


PARENT = """
import asyncio, sys
sys.path[:] = {path!r}
from test_child_executor import call_of, make_birth
from gnomon.worker.children.pool import Pool
from gnomon.worker.executors.python_sync import ChildExecutor

async def main():
    executor = ChildExecutor(Pool(make_birth(), size=2, max_calls=9))
    await executor.execute(*call_of("grandchild", {{"path": {grandchild!r}}}))
    await executor.execute(*call_of("touch_and_hang", {{"path": {child!r}}}))

asyncio.run(main())
"""


def test_children_die_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    folder = str(Path(__file__).parent)
    program = PARENT.format(path=[*sys.path, folder], child=str(child), grandchild=str(grandchild))
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until("the handler has begun", lambda: child.exists() and child.read_text() != "", seconds=120)
    finally:
        parent.kill()
        parent.wait()
    wait_until("the child is gone", lambda: not is_running(int(child.read_text())))
    wait_until("so is what the other has started", lambda: not is_running(int(grandchild.read_text())))
