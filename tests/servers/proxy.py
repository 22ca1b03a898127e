"""A TCP proxy on loopback that breaks one link between two processes in the ways that networks do.

    with Proxy(host, port) as link:
        ... connect to link.port ...
        link.stall()            # a partition: nothing passes, nothing is refused
        link.heal()             # what was held back passes on, as after a real one
        link.lose_reply(b"COMMIT")

It runs on a loop of its own in a thread; all its methods may be called from any thread, and have happened when they
return. Faults hold for present and future connections, until `heal`.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 65_536


class Direction(Enum):
    """Which way bytes flow."""

    REQUEST = "to the server"
    REPLY = "to the client"


class _Connection:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._ends = (client, server)
        self.loses_reply = False

    def reset(self) -> None:
        """RST on both sides."""
        for writer in self._ends:
            tcp = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._ends:
            writer.close()


class Proxy:
    """One link to a server at `host`:`port`; clients connect to `self.port` on 127.0.0.1."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._refusing = False
        self._losing: bytes | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)
        self.lost_replies = 0
        self.port = 0

    @classmethod
    def before(cls, url: str) -> Self:
        """A link to the server that a URL names."""
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        return cls(address.hostname, address.port)

    def url(self, url: str) -> str:
        """The same URL, through this link."""
        address = urlsplit(url)
        login = f"{address.netloc.rpartition('@')[0]}@" if "@" in address.netloc else ""
        return address._replace(netloc=f"{login}127.0.0.1:{self.port}").geturl()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def cut(self) -> None:
        """Resets the present connections; new ones pass."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Resets the present connections and each new one."""
        self._do(self._refuse)

    def stall(self) -> None:
        """Nothing passes, and nobody is told: a partition, or a cable that was pulled."""
        self._do(self._stall, *Direction)

    def half_open(self) -> None:
        """What clients send arrives; what the server answers does not."""
        self._do(self._stall, Direction.REPLY)

    def delay(self, seconds: float) -> None:
        """Each piece arrives so much later."""
        self._do(self._set_delay, seconds)

    def lose_reply(self, pattern: bytes) -> None:
        """Once: the next request that holds `pattern` is carried out; its client is reset in place of the answer."""
        self._do(self._set_losing, pattern)

    def heal(self) -> None:
        """All passes again, what was held back first."""
        self._do(self._heal)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def rewritten(self, data: bytes, direction: Direction) -> tuple[bytes, bytes]:
        """What passes of what one end of a connection has sent, and what is kept until more of it has come."""
        return data, b""

    def _do(self, change: Callable[..., None], *arguments: object) -> None:
        done = threading.Event()

        def run() -> None:
            change(*arguments)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def _refuse(self) -> None:
        self._refusing = True
        self._cut()

    def _stall(self, *directions: Direction) -> None:
        for direction in directions:
            self._open[direction].clear()

    def _set_delay(self, seconds: float) -> None:
        self._delay = seconds

    def _set_losing(self, pattern: bytes) -> None:
        self._losing = pattern

    def _heal(self) -> None:
        self._delay, self._refusing, self._losing = 0.0, False, None
        for gate in self._open.values():
            gate.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._open = {direction: asyncio.Event() for direction in Direction}
        self._heal()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._open[Direction.REQUEST].wait()
            from_server, to_server = await asyncio.open_connection(*self._upstream)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(to_client, to_server)
        self._connections.add(connection)
        try:
            if self._refusing:
                connection.reset()
                return
            pumps = (
                self._pump(connection, from_client, to_server, Direction.REQUEST),
                self._pump(connection, from_server, to_client, Direction.REPLY),
            )
            await asyncio.gather(*pumps)
        except OSError:
            connection.reset()
        except asyncio.CancelledError:
            pass  # the proxy stops
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        kept = b""
        while data := await source.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open[direction].wait()
            if direction is Direction.REQUEST:
                self._look_for_loss(connection, data)
            elif connection.loses_reply:
                self.lost_replies += 1
                connection.reset()
                return
            data, kept = self.rewritten(kept + data, direction)
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()

    def _look_for_loss(self, connection: _Connection, data: bytes) -> None:
        if self._losing is not None and self._losing in data:
            self._losing = None
            connection.loses_reply = True
