"""What libcurl's callbacks see and decide during one HTTP attempt."""

import logging
import os

import pycurl

from gnomon.worker.defects import log_defect
from gnomon.worker.executors.egress import Gate, SocketAddress
from gnomon.worker.executors.http_sockets import Sockets

log = logging.getLogger(__name__)

BLANK_LINES = (b"\r\n", b"\n")
MAX_HEADER_BYTES = 300 * 1024  # what libcurl takes, too; here informational answers and trailers count as well


class Attempt:
    """The callbacks of one attempt and what they learned.

    `stale`: nothing was sent, because the target had hung up on the idle connection that was to be used.

    None of the callbacks lets an exception out: pycurl would print it and tell libcurl nothing but "failed". It is kept
    in `error`, and libcurl is told to stop.
    """

    def __init__(self, gate: Gate, sockets: Sockets, *, max_response_bytes: int) -> None:
        self._sockets = sockets
        self._max_response_bytes = max_response_bytes
        self._descriptors: list[int] = []
        self.gate = gate
        self.stale = False
        self.requested = False
        self.resend_refused = False
        self.headers_complete = False
        self.header_bytes = 0
        self.locations: list[str] = []
        self.body = bytearray()
        self.body_overlong = False
        self.error: Exception | None = None

    def listen(self, curl: pycurl.Curl) -> None:
        """Have the handle call back here. Undone by the handle's reset()."""
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_open_socket)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._on_new_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._on_request)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def _on_open_socket(self, _purpose: int, address: SocketAddress) -> object:
        try:
            return self.gate.open_socket(address)
        except Exception as error:  # fail closed
            return self._stop(error, pycurl.SOCKET_BAD)

    def _on_new_socket(self, descriptor: int, _purpose: int) -> int:
        try:
            os.set_inheritable(descriptor, False)  # pycurl's duplicate is
            self._descriptors.append(descriptor)
        except Exception as error:  # fail closed
            return self._stop(error, pycurl.SOCKOPT_ERROR)
        return int(pycurl.SOCKOPT_OK)

    def _on_request(self, address: str, local_address: str, port: int, local_port: int) -> int:
        """The border between NOT_SENT and MAYBE_SENT: the connection stands, the next thing on it is the request.

        libcurl comes here again when a reused connection died under the request and it means to send it once more.
        The target may have acted on the first, so there is no second within one attempt.
        """
        try:
            if self.requested:
                self.resend_refused = True
            elif self.gate.admits(address, port) and self._is_alive((address, local_address, port, local_port)):
                self.requested = True
                return int(pycurl.PREREQFUNC_OK)
        except Exception as error:  # fail closed
            return self._stop(error, pycurl.PREREQFUNC_ABORT)
        return int(pycurl.PREREQFUNC_ABORT)

    def _is_alive(self, ends: tuple[str, str, int, int]) -> bool:
        if self._descriptors:  # made for this attempt
            self._sockets.remember(ends, self._descriptors)
            self.stale = False
        else:
            self.stale = self._sockets.hung_up(ends)
        return not self.stale

    def _on_header(self, line: bytes) -> int | None:
        self.header_bytes += len(line)
        if self.header_bytes > MAX_HEADER_BYTES:
            return 0  # fewer than given: libcurl stops
        # libcurl reports success when the target hangs up after a status line; only the blank line ends the headers.
        if line in BLANK_LINES:
            self.headers_complete = True
        elif line.startswith(b"HTTP/"):
            self.headers_complete = False
            self.locations.clear()
        elif line[:9].lower() == b"location:" and not self.headers_complete:
            self.locations.append(line[9:].strip(b" \t\r\n").decode("latin-1"))
        return None

    def _on_body(self, chunk: bytes) -> int | None:
        room = self._max_response_bytes - len(self.body)
        self.body += chunk[:room]
        if len(chunk) <= room:
            return None
        self.body_overlong = True
        return 0  # fewer than given: libcurl stops and closes the connection

    def _stop(self, error: Exception, verdict: int) -> int:
        log_defect(log, error, "a callback of the HTTP engine failed; the attempt is given up")
        self.error = error
        return int(verdict)
