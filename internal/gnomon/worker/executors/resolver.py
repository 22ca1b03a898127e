"""Looks host names up, so that one name whose servers do not answer holds up nobody else.

libcurl has 20 threads for it in a process: as many hanging lookups stop every other, and closing waits for them all.
uvloop has 4. Here a name has one lookup at a time, whoever waits for it, and lookups are abandoned at the end.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

MAX_LOOKUPS = 128  # at a time, in a thread each
REMEMBERED_SECONDS = 60.0  # what libcurl uses, too: the system's resolver does not tell how long an answer is good for
MAX_REMEMBERED = 10_000
MAX_ADDRESSES = 32  # of one host: the rest would be tried in vain, too

Addresses = tuple[str, ...]


class LookupFailed(Exception):
    """The name has no address, or its servers say so; the text is the system's reason."""


@dataclass(frozen=True)
class _Known:
    addresses: Addresses
    until: float


def system_lookup(host: str) -> Addresses:
    """All addresses of a host in the system's order of preference. Blocks; raises OSError."""
    found = socket.getaddrinfo(host.encode(), None, type=socket.SOCK_STREAM)  # bytes: no second opinion from IDNA
    return tuple(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


class Resolver:
    """Lives on one event loop. `lookup` may block, for it runs in threads."""

    def __init__(self, lookup: Callable[[str], Addresses] = system_lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, _Known] = {}
        self._pending: dict[str, asyncio.Task[Addresses | str]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)

    def known(self, host: str) -> Addresses | None:
        """The addresses if they need no lookup: the host is one itself, or was looked up within the last minute."""
        if _is_address(host):
            return (host,)
        known = self._known.get(host)
        return known.addresses if known is not None and known.until > time.monotonic() else None

    async def resolve(self, host: str, *, timeout: float) -> Addresses:
        """The addresses of a host. Raises LookupFailed, and TimeoutError after `timeout` seconds."""
        task = self._pending.get(host)
        if task is None:
            task = self._pending[host] = asyncio.ensure_future(self._look_up(host))
        async with asyncio.timeout(timeout):
            answer = await asyncio.shield(task)
        if isinstance(answer, str):
            raise LookupFailed(answer)
        return answer

    def forget(self, host: str) -> None:
        """Look this host up again next time: none of its addresses could be reached."""
        self._known.pop(host, None)

    def close(self) -> None:
        """Abandons what is under way; who waits for it is cancelled. The threads end when the system answers them."""
        for task in self._pending.values():
            task.cancel()

    async def _look_up(self, host: str) -> Addresses | str:
        """The addresses, or why there are none: a value, as nobody may be left to take an exception."""
        try:
            async with self._slots:
                answer = await _in_thread(self._lookup, host)
        finally:
            del self._pending[host]
        if isinstance(answer, str):
            return answer
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[host] = _Known(answer, time.monotonic() + REMEMBERED_SECONDS)
        return answer


async def _in_thread(lookup: Callable[[str], Addresses], host: str) -> Addresses | str:
    """Not in an executor's pool, whose threads are waited for when the process ends."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Addresses | str] = loop.create_future()

    def answer(result: Addresses | str) -> None:
        if not answered.done():
            answered.set_result(result)

    def run() -> None:
        try:
            result: Addresses | str = lookup(host)[:MAX_ADDRESSES] or "it has no address"
        except OSError as error:
            result = (error.strerror or "the lookup failed").lower()
        except Exception as error:  # a name the system's resolver chokes on
            result = f"the lookup failed with {type(error).__name__}"
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(answer, result)

    threading.Thread(target=run, name="gnomon-lookup", daemon=True).start()
    return await answered


@lru_cache(maxsize=MAX_REMEMBERED)
def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
