"""A scripted HTTP target on loopback: it records every request and misbehaves as told.

    with Target() as target:
        target.on("/slow", drip(b"x", every=0.1))
        target.on("/flaky", sequence(answer(503), answer(200)))
        ... call target.url("/slow") ...
        target.wait_for(lambda seen: len(seen) == 2, timeout=5)

It runs on a loop of its own in a thread; all its methods may be called from any thread. It takes several thousand
requests a second, so that counting calls does not slow down what is counted.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import uvloop

KEY = "idempotency-key"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as received. `headers` keep order and case; `connection` counts the server's connections from 1."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    arrived_at: datetime

    def header(self, name: str) -> str | None:
        """The value of the first header of that name in any case."""
        return next((value for other, value in self.headers if other.lower() == name.lower()), None)

    @property
    def key(self) -> str | None:
        """The Idempotency-Key: which execution this is."""
        return self.header(KEY)


@dataclass(kw_only=True)
class Connection:
    """The server's side of one connection, as behaviours see it."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    open: bool = True

    async def send(self, data: bytes) -> None:
        """Writes and waits until the kernel has taken it. Raises ConnectionError once the client is gone."""
        if self.writer.transport.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Hangs up politely, after what was written."""
        self.open = False
        self.writer.close()

    def reset(self) -> None:
        """Hangs up with RST; what was sent already still arrives."""
        self.open = False
        tcp = self.writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_gone(self) -> None:
        """Waits for the client to hang up, reading whatever it sends."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self.reader.read(65_536):
                pass
        self.open = False


Behaviour = Callable[[Request, Connection], Awaitable[None]]


def answer(
    status: int = 200,
    *,
    body: bytes = b"ok",
    headers: Mapping[str, str] | None = None,
    delay: float = 0.0,
    close: bool = False,
) -> Behaviour:
    """A complete answer after `delay` seconds; the connection is kept unless `close`."""
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def behave(request: Request, connection: Connection) -> None:
        if delay:
            await asyncio.sleep(delay)
        connection.writer.write(head if request.method == "HEAD" else head + body)
        if close:
            connection.close()

    return behave


def raw(data: bytes, *, then: str = "close") -> Behaviour:
    """These bytes for an answer, and then "close", "reset", "hang" or "keep" the connection."""

    async def behave(request: Request, connection: Connection) -> None:
        await connection.send(data)
        match then:
            case "close":
                connection.close()
            case "reset":
                connection.reset()
            case "hang":
                await connection.until_gone()
            case "keep":
                pass
            case _:
                raise ValueError(then)

    return behave


def hang() -> Behaviour:
    """No answer at all; the connection stays until the client drops it."""
    return raw(b"", then="hang")


def reset(*, after: bytes = b"") -> Behaviour:
    """RST once the request was read, and these bytes were sent."""
    return raw(after, then="reset")


def drip(
    piece: bytes = b"x", *, every: float, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
) -> Behaviour:
    """The head at once, then one piece each `every` seconds for as long as the client listens."""

    async def behave(request: Request, connection: Connection) -> None:
        gone = asyncio.ensure_future(connection.until_gone())
        with contextlib.suppress(ConnectionError):
            await connection.send(head)
            while not gone.done():
                await connection.send(piece)
                await asyncio.wait([gone], timeout=every)
        await gone

    return behave


def flood(*, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n", piece: bytes = b"x" * 65_536) -> Behaviour:
    """A body (or, with such a head, headers) without end, as fast as the client takes it."""
    return drip(piece, every=0.0, head=head)


def sequence(*behaviours: Behaviour) -> Behaviour:
    """The first for the first request, and so on; the last for all others."""
    queue = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))

    async def behave(request: Request, connection: Connection) -> None:
        await next(queue)(request, connection)

    return behave


class Target:
    """The server. `tls` makes it an https one. Paths without a script answer 200 "ok"; scripts ignore the query."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._host = host
        self._scripts: dict[str, Behaviour] = {}
        self._default = answer()
        self._greeting: Callable[[Connection], Awaitable[None]] | None = None
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._open = 0
        self._accepted = 0
        self._ready = threading.Event()
        self._talks: dict[asyncio.Task[None], Connection] = {}
        self._thread = threading.Thread(target=self._run, name="scripted-target", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """The address of a path; `host` is another spelling of where this server listens."""
        return f"{'https' if self._tls else 'http'}://{host or self._host}:{self.port}{path}"

    def on(self, path: str, behaviour: Behaviour) -> None:
        """From now on requests for this path are answered so."""
        self._scripts[path] = behaviour

    def on_connect(self, greeting: Callable[[Connection], Awaitable[None]] | None) -> None:
        """What happens to new connections before anything is read of them."""
        self._greeting = greeting

    @property
    def requests(self) -> Sequence[Request]:
        """Everything received until now, in order of arrival."""
        return tuple(self._requests)

    @property
    def accepted(self) -> int:
        """How many connections there ever were."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        return self._open

    def received(self, path: str | None = None) -> Sequence[Request]:
        """The requests for one path, without its query."""
        return [request for request in self.requests if path is None or request.path.partition("?")[0] == path]

    def keys(self, path: str | None = None) -> Counter[str | None]:
        """How often each Idempotency-Key came."""
        return Counter(request.key for request in self.received(path))

    def forget(self) -> None:
        """Empties the record."""
        with self._changed:
            self._requests.clear()

    def wait_for(self, predicate: Callable[[Sequence[Request]], bool], timeout: float = 10.0) -> Sequence[Request]:
        """The requests as soon as the predicate is true of them (seconds); raises TimeoutError.

        It is asked again when a request came or a connection was opened or closed, at most a hundred times a second.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen, state = self.requests, self._state()
            if predicate(seen):
                return seen
            with self._changed:
                if not self._changed.wait_for(lambda: self._state() != state, deadline - time.monotonic()):  # noqa: B023
                    raise TimeoutError(f"not so after {timeout} s; {len(seen)} requests came, the last: {seen[-3:]}")
            time.sleep(0.01)

    def _state(self) -> tuple[int, int, int]:
        return len(self._requests), self._accepted, self._open

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(
            self._talk,
            self._host,
            0,
            ssl=self._tls,
            backlog=2_048,
            **({"ssl_handshake_timeout": 5} if self._tls else {}),
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        talks = tuple(self._talks.items())
        for task, connection in talks:
            connection.writer.transport.abort()
            task.cancel()
        await asyncio.gather(*(task for task, _ in talks))
        await asyncio.sleep(0)  # the transports' last callbacks

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(number=self._accepted + 1, reader=reader, writer=writer)
        self._talks[task] = connection
        self._note(accepted=1, open=1)
        try:
            if self._greeting is not None:
                await self._greeting(connection)
            while connection.open:
                await self._exchange(connection)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client hung up, as some tests want it to
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del self._talks[task]
            self._note(open=-1)

    async def _exchange(self, connection: Connection) -> None:
        request = await _read_request(connection)
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        behaviour = self._scripts.get(request.path.partition("?")[0], self._default)
        await behaviour(request, connection)

    def _note(self, *, accepted: int = 0, open: int = 0) -> None:  # noqa: A002
        with self._changed:
            self._accepted += accepted
            self._open += open
            self._changed.notify_all()


async def _read_request(connection: Connection) -> Request:
    head = await connection.reader.readuntil(b"\r\n\r\n")
    arrived_at = datetime.now(UTC)
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    body = await connection.reader.readexactly(length) if length else b""
    return Request(
        method=method, path=path, headers=headers, body=body, connection=connection.number, arrived_at=arrived_at
    )
