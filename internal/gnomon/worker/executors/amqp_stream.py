"""A connection of pika's that keeps to the egress guard, and that no broker can fill the worker's memory through.

pika gathers whatever a frame or a message says it will be: up to 4 GiB for a frame, 2^64 bytes for a returned message.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection, _AsyncioIOServicesAdapter

from gnomon.worker.executors.egress import Gate

# What a broker has to say beside the messages that it returns: the handshake, and 8 bytes each 10 s.
SMALL_TALK_BYTES = 1_048_576
PER_MESSAGE_BYTES = 512  # its confirmation, and opening and closing a channel; a returned one comes with its reason
FRAME_OVERHEAD = 8
SLICE_BYTES = 4_096  # pika copies what is left of the bytes it was given for each frame in them

Done = Callable[[Any], None]


class Refused(OSError):
    """The egress guard does not let this connection be: its gate has the reason."""


class TooTalkative(Exception):
    """The broker sends more than the messages published to it call for."""


class Stream(AsyncioConnection):  # type: ignore[misc] # pika is not typed to us
    """Made by `connect`. `allow` says of each message, before it is published, how long it is."""

    def __init__(self, parameters: pika.ConnectionParameters, services: "_Services") -> None:
        self._allowance = SMALL_TALK_BYTES
        self._max_frame = parameters.frame_max + FRAME_OVERHEAD
        super().__init__(parameters, custom_ioloop=services, internal_connection_workflow=False)

    @classmethod
    def connect(cls, parameters: pika.ConnectionParameters, gate: Gate, on_done: Done) -> "Opening":
        """Begins to. `parameters.host` must be an address."""
        services, made = _Services(asyncio.get_running_loop(), gate), list[Stream]()

        def make(chosen: pika.ConnectionParameters) -> Stream:
            made.append(cls(chosen, services))
            return made[-1]

        workflow = cls._start_connection_workflow(
            connection_configs=[parameters], connection_factory=make, nbio=services, workflow=None, on_done=on_done
        )
        return Opening(workflow, made)

    def allow(self, size: int) -> None:
        """A message of this size may come back."""
        self._allowance += 2 * (size + PER_MESSAGE_BYTES)

    def _proto_data_received(self, data: bytes) -> None:
        """An exception here has pika abort the connection."""
        self._allowance -= len(data)
        if self._allowance < 0:
            raise TooTalkative
        for begin in range(0, len(data), SLICE_BYTES):
            super()._proto_data_received(data[begin : begin + SLICE_BYTES])
            if len(self._frame_buffer) > self._max_frame:
                raise TooTalkative


class Opening:
    """A connection that is being made."""

    def __init__(self, workflow: Any, made: list[Stream]) -> None:
        self._workflow = workflow
        self._made = made

    def abort(self) -> None:
        """Gives it up. pika's own way fails in the middle of a handshake, and leaves the socket to the broker."""
        with contextlib.suppress(Exception):
            self._workflow.abort()
        for stream in self._made:
            if not (stream.is_closed or stream.is_closing):
                stream._terminate_stream(Refused("given up"))


class _Services(_AsyncioIOServicesAdapter):  # type: ignore[misc] # pika is not typed to us
    """Where pika's sockets are connected."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gate: Gate) -> None:
        super().__init__(loop)
        self._gate = gate

    def connect_socket(self, sock: Any, resolved_addr: Any, on_done: Done) -> Any:
        """Judges the address that the socket is about to reach; and once it stands, before anything is said."""

        def connected(error: BaseException | None) -> None:
            on_done(Refused() if error is None and not self._gate.admits(*sock.getpeername()[:2]) else error)

        if self._gate.admits(*resolved_addr[:2]):
            return super().connect_socket(sock, resolved_addr, connected)
        return self._schedule_and_wrap_in_io_ref(_refuse(), on_done)


async def _refuse() -> Refused:
    return Refused()
