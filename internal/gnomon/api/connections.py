"""gunicorn's threaded worker, with deadlines on what a client may make it wait for.

gunicorn's own has no limit on how long a request takes to arrive or an answer to leave: a slow client keeps a thread
for ever. It also lets a connection that says nothing keep a thread for five seconds, counts idle time in whole seconds
at best, and waits in its main loop, for all, until a client has closed its end.
"""

import errno
import json
import select
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from gnomon.api.asked import REQUEST_ID
from gnomon.api.problems import MEDIA_TYPE, problem_document

LINGER_SECONDS = 1.0  # for the last answer to be read before the connection is closed
REFUSALS: Mapping[type[Exception], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """In seconds. `read`: for a whole request to arrive, from its first byte, and for the first byte of a connection.

    `write`: for one send of an answer. `idle`: for the next request on a kept-alive connection.
    """

    read: float
    write: float
    idle: float


class TimedSocket(socket.socket):
    """A client's connection. What it is asked to wait for ends at a deadline, as if the client had gone."""

    limits: Limits
    read_by: float | None = None

    def expect_request(self) -> None:
        """A request begins now."""
        self.read_by = time.monotonic() + self.limits.read

    def recv(self, size: int, flags: int = 0) -> bytes:
        """At most until the request should be here."""
        if self.gettimeout() != 0 and self.read_by is not None:
            self.settimeout(max(self.read_by - time.monotonic(), 0.001))
        with _as_if_gone("the request did not arrive in time"):
            return super().recv(size, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """At most as long as one send may take."""
        self.settimeout(self.limits.write)
        with _as_if_gone("the client did not take the answer in time"):
            super().sendall(data, flags)


class Connection(TConn):  # type: ignore[misc]
    """A connection that the worker keeps."""

    sock: TimedSocket

    def set_timeout(self) -> None:
        """Called when it is put aside to wait for the next request."""
        self.timeout = time.monotonic() + self.sock.limits.idle

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - the signature is gunicorn's
        """At once: the main loop calls this, and the thread that answered has lingered."""
        util.close(self.sock)


class Worker(ThreadWorker):  # type: ignore[misc]
    """Serves requests in threads. `limits` is set by a subclass: gunicorn makes the object."""

    sockets: list[socket.socket]

    limits: Limits

    def accept(self, listener: Any) -> None:
        """Leaves a new connection with the poller until it says something."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        client = TimedSocket(fileno=accepted.detach())
        client.limits = self.limits
        connection = Connection(self.cfg, client, address, client.getsockname())
        connection.timeout = time.monotonic() + self.limits.read
        self.nr_conns += 1
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def set_accept_enabled(self, enabled: bool) -> None:
        """At the stop takes what has connected already, and has the kernel refuse what comes from then on.

        gunicorn leaves the listener open until the last answer is out: who connects meanwhile waits, and is reset.
        """
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()
            self.sockets = []

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wakes up for the next connection whose time is over."""
        ends = [connections[0].timeout for connections in (self.keepalived_conns, self.pending_conns) if connections]
        remaining = min(ends, default=float("inf")) - time.monotonic()
        super().wait_for_and_dispatch_events(timeout=max(0.0, min(timeout, remaining)))

    def handle(self, conn: Connection) -> Any:
        """One request, in a thread; False when the connection is over."""
        conn.sock.expect_request()
        kept = super().handle(conn)
        if not kept:
            conn.sock.read_by = None
            util.close_graceful(conn.sock, timeout=LINGER_SECONDS)
        return kept

    def handle_error(self, _req: Any, client: TimedSocket, _addr: Any, exc: Exception) -> None:
        """Answers what never became a request, or broke off in the server itself, with a problem."""
        status = REFUSALS.get(type(exc))
        if status is None and isinstance(exc, errors.ParseException):
            status = HTTPStatus.BAD_REQUEST
        if status is None:
            self.log.error("the server failed with %s", type(exc).__qualname__)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            client.sendall(_problem(status))
        except OSError:
            self.log.debug("the client did not wait for the answer")


@contextmanager
def _as_if_gone(message: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        # With this number gunicorn takes it for a client that went away, which is no error of ours.
        raise TimeoutError(errno.ECONNRESET, message) from error


def _problem(status: HTTPStatus) -> bytes:
    detail = "the request is not well-formed HTTP, or exceeds what a server takes" if status < 500 else status.phrase
    request_id = uuid4().hex
    body = json.dumps(problem_document(status, detail, request_id=request_id)).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{REQUEST_ID}: {request_id}\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + body
