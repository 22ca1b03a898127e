"""What a worker can run, and how it says what it lacks."""

import pytest

from gnomon.job.target import HandlerTarget, HttpTarget
from gnomon.worker import known
from gnomon.worker.handlers import Handler, HandlerRegistry
from gnomon.worker.known import KnownHandlers


async def awaited() -> None:
    """Never called."""


REGISTRY = HandlerRegistry([Handler(name="plain", function=lambda: None), Handler(name="awaited", function=awaited)])


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock to set."""
    clock = [1000.0]
    monkeypatch.setattr(known, "monotonic", lambda: clock[0])
    return clock


def test_loop_runs_async_handlers_only_and_children_run_all() -> None:
    on_loop, in_children = KnownHandlers(REGISTRY, on_loop=True), KnownHandlers(REGISTRY, on_loop=False)
    targets = [HandlerTarget(name=name) for name in ("plain", "awaited", "missing")]
    assert [on_loop(target) for target in targets] == [False, True, False]
    assert [in_children(target) for target in targets] == [True, True, False]
    assert on_loop(HttpTarget(url="example.com"))


def test_each_name_that_is_lacking_is_said_once_a_minute(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    knows = KnownHandlers(REGISTRY, on_loop=False)

    def ask() -> list[str]:
        caplog.clear()
        for name in ("missing", "missing", "other"):
            assert not knows(HandlerTarget(name=name))
        return [record.getMessage() for record in caplog.records]

    first = ask()
    assert [line.split()[1] for line in first] == ["missing", "other"]
    assert first[0].endswith("known here: awaited, plain")
    now[0] += 59
    assert ask() == []
    now[0] += 2
    assert ask() == first


def test_handler_that_was_async_once_is_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    assert not KnownHandlers(REGISTRY, on_loop=True)(HandlerTarget(name="plain", queue="async"))
    assert "declared with def" in caplog.text
    assert "until they are edited" in caplog.text
