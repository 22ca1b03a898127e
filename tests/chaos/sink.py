"""The target of all jobs: an HTTP server in a process of its own that answers only when what came is on disk.

One line for each request: arrival (seconds since 1970), Idempotency-Key, attempt, the status it will be answered, path;
separated by tabs. Requests that come together share an fsync. The path says what the target is like:

    /ok              200
    /slow/1.5        200 after so many seconds
    /flaky/503/2     503 to the first two requests with a key, then 200
    /reset/1         hangs up with RST on the first request with a key, then 200
    /hang/1          no answer to the first request with a key for longer than anybody waits, then 200

It listens on two addresses, so that what hangs may be another host than the rest.

    python -m chaos.sink PORT LOG
"""

import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import uvloop

RESET = 0
ADDRESSES = ("127.0.0.1", "127.0.0.2")
FOR_EVER = 60.0  # seconds, longer than any job's timeout


class Journal:
    """Lines in a file. `write` returns when they are on disk."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[tuple[bytes, asyncio.Future[None]]] = []
        self._filled = asyncio.Event()

    async def write(self, line: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._lines.append((line.encode(), done))
        self._filled.set()
        await done

    async def keep(self) -> None:
        """For ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            batch, self._lines = self._lines, []
            await asyncio.to_thread(self._store, b"".join(line for line, _ in batch))
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    def _store(self, data: bytes) -> None:
        assert os.write(self._descriptor, data) == len(data)
        os.fsync(self._descriptor)


class Sink:
    """Decides by the path what is answered, and how often a key has come."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._seen: Counter[str] = Counter()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._exchange(reader, writer):
                await writer.drain()
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        arrived = time.time()
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split(" ")[1]
        key = headers.get("idempotency-key", "-")
        self._seen[key] += 1
        status, delay = behaviour(path, self._seen[key])
        attempt = headers.get("x-scheduler-attempt", "-")
        await self._journal.write(f"{arrived:.6f}\t{key}\t{attempt}\t{status}\t{path}\n")
        await asyncio.sleep(delay)
        if status == RESET:
            _reset(writer)
            return False
        writer.write(f"HTTP/1.1 {status} Sunk\r\nContent-Length: 0\r\n\r\n".encode())
        return True


def behaviour(path: str, count: int) -> tuple[int, float]:
    """Status and delay of the answer to the `count`th request with a key."""
    match path.strip("/").split("/"):
        case ["slow", seconds]:
            return 200, float(seconds)
        case ["flaky", status, times]:
            return (int(status) if count <= int(times) else 200), 0.0
        case ["hang", times]:
            return 200, FOR_EVER if count <= int(times) else 0.0
        case ["reset", times]:
            return (RESET if count <= int(times) else 200), 0.0
        case _:
            return 200, 0.0


def _reset(writer: asyncio.StreamWriter) -> None:
    tcp = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(port: int, log: Path) -> None:
    """For ever."""
    journal = Journal(log)
    server = await asyncio.start_server(Sink(journal).talk, ADDRESSES, port, backlog=1024)
    async with server:
        await journal.keep()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
