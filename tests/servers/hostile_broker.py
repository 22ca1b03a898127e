"""A broker of AMQP 0-9-1 that means no good: it shakes hands as told, and then says too much, or too little."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from pika import BasicProperties, frame, spec

Talk = Callable[[socket.socket], None]
PIECE = 65_536


class HostileBroker:
    """Talks so to each that connects."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._server = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self.port = self._server.getsockname()[1]

    @property
    def url(self) -> str:
        return f"amqp://u:p@127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._meet, args=(connection,), daemon=True).start()

    def _meet(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._talk(connection)


def start(properties: dict[str, object] | None = None) -> bytes:
    return method(0, spec.Connection.Start(server_properties=properties or {}, mechanisms="PLAIN", locales="en_US"))


def method(channel: int, said: object) -> bytes:
    marshalled: bytes = frame.Method(channel, said).marshal()
    return marshalled


def flood(piece: bytes) -> Talk:
    """The same for ever, as fast as it is taken."""

    def talk(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece)

    return talk


def giant_frame(connection: socket.socket) -> None:
    """A method frame of 1 GiB."""
    connection.sendall(struct.pack(">BHI", 1, 0, 2**30))
    flood(b"\0" * PIECE)(connection)


def deep_table(connection: socket.socket) -> None:
    """Tables in tables, as many as a frame holds."""
    inner = b""
    for _ in range(8_000):
        inner = b"\x01aF" + struct.pack(">I", len(inner)) + inner
    payload = struct.pack(">HHBB", 10, 10, 0, 9) + struct.pack(">I", len(inner)) + inner + b"\0\0\0\0\0\0\0\0"
    connection.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")
    connection.recv(PIECE)


def drip(connection: socket.socket) -> None:
    """A handshake that takes for ever."""
    for byte in start({"product": "x" * 10_000}):
        connection.sendall(bytes((byte,)))
        time.sleep(0.02)


def shaken(then: Talk, *, frame_max: int = 0) -> Talk:
    """A whole handshake and an open channel, and then this once a message has come."""

    def talk(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(start({"capabilities": {"publisher_confirms": True, "basic.nack": True}}))
        for said in messages(connection):
            match said:
                case spec.Connection.StartOk():
                    connection.sendall(method(0, spec.Connection.Tune(channel_max=0, frame_max=frame_max, heartbeat=0)))
                case spec.Connection.Open():
                    connection.sendall(method(0, spec.Connection.OpenOk()))
                case spec.Channel.Open():
                    connection.sendall(method(1, spec.Channel.OpenOk()))
                case spec.Confirm.Select():
                    connection.sendall(method(1, spec.Confirm.SelectOk()))
                case spec.Basic.Publish():
                    then(connection)

    return talk


def messages(connection: socket.socket) -> Iterator[object]:
    """What the client says, without contents."""
    buffer = b""
    while data := connection.recv(PIECE):
        buffer += data
        while True:
            used, found = frame.decode_frame(buffer)
            if not used:
                break
            buffer = buffer[used:]
            if isinstance(found, frame.Method):
                yield found.method


def return_without_end(connection: socket.socket) -> None:
    """The message comes back, a million times as long as it was."""
    connection.sendall(method(1, spec.Basic.Return(312, "NO_ROUTE", "", "x")))
    connection.sendall(frame.Header(1, 2**60, BasicProperties()).marshal())
    flood(frame.Body(1, b"x" * 100_000).marshal())(connection)


HEARTBEATS = frame.Heartbeat().marshal() * 1_000
