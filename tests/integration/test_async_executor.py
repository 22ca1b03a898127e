"""Async handlers on one event loop: each ends in its own way, and one that blocks the loop is named."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers.mortal
import uvloop
from support.calls import make_call

from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.executors import BrokenOff
from gnomon.worker.executors.python_async import AsyncExecutor
from gnomon.worker.handlers import HandlerRegistry, declared_handlers
from gnomon.worker.loop_watch import LoopWatch

HANDLERS = HandlerRegistry(
    handler
    for function in vars(servers.mortal).values()
    if callable(function)
    for handler in declared_handlers(function)
)


class Host:
    """An executor on a loop, as the runner has it."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], patience: float) -> None:
        self.runner = asyncio.Runner(loop_factory=new_loop)
        self.gave_up: list[bool] = []
        self.runner.run(self._open(timedelta(seconds=patience)))

    async def _open(self, patience: timedelta) -> None:
        self.executor = AsyncExecutor(HANDLERS, patience=patience, give_up=lambda: self.gave_up.append(True))

    def run(self, name: str, payload: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        return self.runner.run(self.execute(name, payload, **fields))

    async def execute(self, name: str, payload: dict[str, Any] | None = None, *, timeout: float = 60.0) -> Outcome:
        call = make_call(timeout=timedelta(seconds=timeout))
        return await self.executor.execute(HandlerTarget(name=name, payload=payload or {}, queue="async"), call)

    def cancelled(self, name: str, payload: dict[str, Any]) -> Outcome | Sent:
        """What comes of a call that is cancelled as soon as the handler has begun."""

        async def end_of() -> Outcome | Sent:
            try:
                return await self.execute(name, payload)
            except BrokenOff as error:
                return error.sent

        async def cancel() -> Outcome | Sent:
            task = asyncio.create_task(end_of())
            await asyncio.sleep(0.1)
            task.cancel()
            return await task

        return self.runner.run(cancel())

    def close(self) -> None:
        self.runner.run(self.executor.aclose())
        self.runner.close()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "selector"])
def make_host(request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(patience: float = 60.0) -> Host:
        hosts.append(Host(request.param, patience))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    return make_host()


def test_result_is_kept(host: Host) -> None:
    assert host.run("async.give", {"value": [1]}) == Succeeded(response_excerpt="[1]")


@pytest.mark.parametrize(
    ("name", "payload", "code", "permanent", "sent"),
    [
        ("async.exit", {}, "handler_error", False, Sent.ANSWERED),
        ("async.cancel_itself", {}, "handler_error", False, Sent.ANSWERED),
        ("async.sleep", {}, "invalid_payload", True, Sent.NOT_SENT),
        ("nobody", {}, "handler_missing", False, Sent.NOT_SENT),
    ],
)
def test_each_end_has_its_reason_and_the_loop_goes_on(
    host: Host, name: str, payload: dict[str, Any], code: str, permanent: bool, sent: Sent
) -> None:
    outcome = host.run(name, payload)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent, outcome.sent) == (code, permanent, sent)
    assert host.run("async.give") == Succeeded()


def test_many_run_at_once(host: Host) -> None:
    """One after the other they would take minutes."""

    async def all_of_them() -> list[Outcome]:
        return await asyncio.gather(*(host.execute("async.sleep", {"seconds": 0.5}) for _ in range(300)))

    assert host.runner.run(asyncio.wait_for(all_of_them(), 60)) == [Succeeded(response_excerpt="slept")] * 300


def test_handler_that_takes_too_long_is_cancelled(host: Host) -> None:
    outcome = host.run("async.sleep", {"seconds": 600}, timeout=0.2)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.sent) == ("timeout", Sent.MAYBE_SENT)
    assert host.executor._left == set()


def test_handler_that_does_not_let_itself_be_cancelled_is_left_to_itself(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = host.run("async.stubborn", {"seconds": 3}, timeout=0.2)
    assert isinstance(outcome, Failed)
    assert outcome.code == "timeout"
    assert "handler async.stubborn, execution" in caplog.text
    assert "goes on though it was cancelled" in caplog.text


def test_cancelled_handler_ends(host: Host, tmp_path: Path) -> None:
    assert host.cancelled("async.sleep", {"seconds": 600}) is Sent.MAYBE_SENT


def test_success_that_came_in_time_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncExecutor, "GRACE_SECONDS", 60.0)
    assert host.cancelled("async.stubborn", {"seconds": 0.3}) == Succeeded()


def test_handler_that_blocks_the_loop_is_named(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert host.run("async.block", {"seconds": 6.0}) == Succeeded()
    lines = [record.getMessage() for record in caplog.records if "blocks the event loop" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("handler async.block, execution ")
    assert "mortal.py:" in lines[0]
    assert host.gave_up == []


def test_worker_is_given_up_when_the_loop_stays_blocked(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(patience=1.5)
    host.run("async.block", {"seconds": 8.0})
    assert host.gave_up == [True]
    assert "this process ends" in caplog.text


def test_loop_that_moves_is_not_reported(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoopWatch, "SAY_SECONDS", 5.0)  # a busy machine may stop it for a second or two
    host.run("async.sleep", {"seconds": 6.0})
    assert "blocks the event loop" not in caplog.text
