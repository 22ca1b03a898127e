"""Looking names up: one lookup for each name at a time, whoever waits for it."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gnomon.worker.executors import resolver
from gnomon.worker.executors.resolver import LookupFailed, Resolver, system_lookup


class Lookup:
    """Answers when released, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        self.released.wait(10)
        return ("192.0.2.1", "2001:db8::1")


def fails_with(error: Exception) -> Callable[[str], tuple[str, ...]]:
    def lookup(_host: str) -> tuple[str, ...]:
        raise error

    return lookup


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_waiting_together_takes_one_lookup() -> None:
    lookup = Lookup()

    async def ask() -> list[tuple[str, ...]]:
        names = Resolver(lookup)
        answers = asyncio.gather(*(names.resolve("host.test", timeout=10) for _ in range(20)))
        await asyncio.sleep(0)
        lookup.released.set()
        return await answers

    assert run(ask()) == [("192.0.2.1", "2001:db8::1")] * 20
    assert lookup.asked == ["host.test"]


def test_answer_is_known_until_it_is_forgotten() -> None:
    lookup = Lookup()
    lookup.released.set()

    async def ask() -> None:
        names = Resolver(lookup)
        assert names.known("host.test") is None
        await names.resolve("host.test", timeout=10)
        assert names.known("host.test") == ("192.0.2.1", "2001:db8::1")
        names.forget("host.test")
        assert names.known("host.test") is None

    run(ask())


def test_answer_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "REMEMBERED_SECONDS", 0.0)
    lookup = Lookup()
    lookup.released.set()

    async def ask() -> None:
        names = Resolver(lookup)
        await names.resolve("host.test", timeout=10)
        assert names.known("host.test") is None

    run(ask())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_address_needs_no_lookup(address: str) -> None:
    assert Resolver(fails_with(AssertionError())).known(address) == (address,)


def test_who_gives_up_does_not_take_the_answer_from_others() -> None:
    lookup = Lookup()

    async def ask() -> tuple[str, ...]:
        names = Resolver(lookup)
        patient = asyncio.ensure_future(names.resolve("host.test", timeout=10))
        with pytest.raises(TimeoutError):
            await names.resolve("host.test", timeout=0.01)
        cancelled = asyncio.ensure_future(names.resolve("host.test", timeout=10))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        lookup.released.set()
        return await patient

    assert run(ask()) == ("192.0.2.1", "2001:db8::1")
    assert lookup.asked == ["host.test"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (UnicodeError("label too long"), "the lookup failed with UnicodeError"),
        (OSError(), "the lookup failed"),
    ],
)
def test_failure_is_told_and_not_remembered(error: Exception, reason: str) -> None:
    async def ask() -> None:
        names = Resolver(fails_with(error))
        for _ in range(2):
            with pytest.raises(LookupFailed, match=f"^{reason}$"):
                await names.resolve("host.test", timeout=10)

    run(ask())


def test_lookups_beyond_the_limit_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 2)
    lookup = Lookup()

    async def ask() -> None:
        names = Resolver(lookup)
        answers = [asyncio.ensure_future(names.resolve(f"{number}.test", timeout=10)) for number in range(5)]
        with pytest.raises(TimeoutError):
            await names.resolve("late.test", timeout=0.05)
        assert len(lookup.asked) == 2
        lookup.released.set()
        await asyncio.gather(*answers)

    run(ask())


def test_closing_cancels_who_waits() -> None:
    lookup = Lookup()

    async def ask() -> None:
        names = Resolver(lookup)
        waiting = asyncio.ensure_future(names.resolve("host.test", timeout=10))
        await asyncio.sleep(0)
        names.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(ask())
    lookup.released.set()


def test_system_knows_localhost() -> None:
    assert "127.0.0.1" in system_lookup("localhost")
