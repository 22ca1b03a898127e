"""What libcurl's callbacks see and decide during one HTTP attempt."""

import logging

import pycurl

from gnomon.worker.executors.egress import Gate, SocketAddress

log = logging.getLogger(__name__)

BLANK_LINES = (b"\r\n", b"\n")


class Attempt:
    """The callbacks of one attempt and what they learned.

    None of them lets an exception out: pycurl would print it and tell libcurl nothing but "failed". It is kept in
    `error`, and libcurl is told to stop.
    """

    def __init__(self, gate: Gate, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self.gate = gate
        self.requested = False
        self.resend_refused = False
        self.headers_complete = False
        self.header_bytes = 0
        self.body = bytearray()
        self.body_overlong = False
        self.error: Exception | None = None

    def listen(self, curl: pycurl.Curl) -> None:
        """Have the handle call back here. Undone by the handle's reset()."""
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_open_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._on_request)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def _on_open_socket(self, _purpose: int, address: SocketAddress) -> object:
        try:
            return self.gate.open_socket(address)
        except Exception as error:  # fail closed
            return self._stop(error, pycurl.SOCKET_BAD)

    def _on_request(self, address: str, _local: str, _port: int, _local_port: int) -> int:
        """The border between NOT_SENT and MAYBE_SENT: the connection stands, the next thing on it is the request.

        libcurl comes here again when a reused connection died under the request and it means to send it once more.
        The target may have acted on the first, so there is no second within one attempt.
        """
        try:
            if self.requested:
                self.resend_refused = True
            elif self.gate.admits(address):
                self.requested = True
                return int(pycurl.PREREQFUNC_OK)
        except Exception as error:  # fail closed
            return self._stop(error, pycurl.PREREQFUNC_ABORT)
        return int(pycurl.PREREQFUNC_ABORT)

    def _on_header(self, line: bytes) -> None:
        self.header_bytes += len(line)
        # libcurl reports success when the target hangs up after a status line; only the blank line ends the headers.
        if line in BLANK_LINES:
            self.headers_complete = True
        elif line.startswith(b"HTTP/"):
            self.headers_complete = False

    def _on_body(self, chunk: bytes) -> int | None:
        room = self._max_response_bytes - len(self.body)
        self.body += chunk[:room]
        if len(chunk) <= room:
            return None
        self.body_overlong = True
        return 0  # fewer than given: libcurl stops and closes the connection

    def _stop(self, error: Exception, verdict: int) -> int:
        log.error("a callback of the HTTP engine failed; the attempt is given up", exc_info=error)
        self.error = error
        return int(verdict)
