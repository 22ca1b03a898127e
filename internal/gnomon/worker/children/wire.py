"""What a worker and its children say to each other: JSON objects, each behind its length."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.executors import Call

Frame = dict[str, Any]

LENGTH_BYTES = 4
LINK_CLOSED = os.EX_IOERR  # with which a child ends that can't speak to its worker any more
MAX_FRAME = 4 * 1024 * 1024


class Garbled(Exception):
    """What arrived is none of ours."""


def encode(frame: Mapping[str, Any]) -> bytes:
    """A frame as bytes. What JSON does not know is written as text."""
    body = json.dumps(frame, default=str).encode()
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode(body: bytes) -> Frame:
    """Raises Garbled."""
    try:
        frame = json.loads(body)
    except ValueError as error:
        raise Garbled("not JSON") from error
    if not isinstance(frame, dict):
        raise Garbled("no object")
    return frame


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises EOFError at the end, and Garbled."""
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > MAX_FRAME:
        raise Garbled("too long")
    return decode(await reader.readexactly(length))


class Link:
    """A child's end; any thread may send. A process that a handler forks has none: its frames would mix with ours."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()
        self._muted = False
        os.register_at_fork(after_in_child=self._mute)

    def send(self, frame: Mapping[str, Any]) -> None:
        """Waits while the worker does not read. Raises OSError when it is gone."""
        if not self._muted:
            data = encode(frame)
            with self._lock:
                self._connection.sendall(data)

    def receive(self) -> Frame | None:
        """The next frame; None when the worker is gone."""
        head = self._reader.read(LENGTH_BYTES)
        body = self._reader.read(int.from_bytes(head, "big"))
        return decode(body) if body else None

    def _mute(self) -> None:
        self._muted = True


def call_frame(target: HandlerTarget, call: Call) -> Frame:
    """An attempt to be made."""
    return {
        "kind": "call",
        "handler": target.name,
        "payload": dict(target.payload),
        "execution_id": str(call.execution_id),
        "job_id": str(call.job_id),
        "attempt": call.attempt,
        "scheduled_at": call.scheduled_at.isoformat(),
        "timeout": call.timeout.total_seconds(),
    }


def read_call(frame: Frame) -> tuple[HandlerTarget, Call]:
    """What `call_frame` wrote."""
    call = Call(
        execution_id=UUID(frame["execution_id"]),
        job_id=UUID(frame["job_id"]),
        attempt=frame["attempt"],
        scheduled_at=datetime.fromisoformat(frame["scheduled_at"]),
        timeout=timedelta(seconds=frame["timeout"]),
    )
    return HandlerTarget(name=frame["handler"], payload=frame["payload"]), call


def outcome_frame(outcome: Outcome) -> Frame:
    """How an attempt ended."""
    if isinstance(outcome, Succeeded):
        return {"kind": "done", "excerpt": outcome.response_excerpt, "recorded": outcome.recorded}
    return {
        "kind": "done",
        "code": outcome.code,
        "message": outcome.message,
        "sent": outcome.sent.value,
        "permanent": outcome.permanent,
    }


def read_outcome(frame: Frame) -> Outcome:
    """What `outcome_frame` wrote. Raises Garbled."""
    try:
        if "code" not in frame:
            return Succeeded(response_excerpt=frame["excerpt"], recorded=frame["recorded"])
        return Failed(
            code=frame["code"], message=frame["message"], sent=Sent(frame["sent"]), permanent=frame["permanent"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Garbled("no outcome") from error
