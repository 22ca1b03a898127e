"""A link that stamps each AMQP message on its way to the broker, so that two publications are never taken for one.

A broker that was killed may deliver a message again, and its word on that (`redelivered`) is no proof. So every message
of a job carries a header of fixed length, and the link writes a number into it that no other passage gets: the time in
microseconds since 1970, or the next one. What was published once bears one stamp, however often it is delivered.
"""

import time

from servers.proxy import Direction, Proxy

HEADER = "x-stamp"
BLANK = b"<to be stamped..>"


class StampingProxy(Proxy):
    """Fills in the blanks of what clients send."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._last = 0

    def rewritten(self, data: bytes, direction: Direction) -> tuple[bytes, bytes]:
        """A blank may come in two pieces. No AMQP frame ends with the beginning of one."""
        if direction is Direction.REPLY:
            return data, b""
        first, *others = data.split(BLANK)
        stamped = b"".join([first, *(self._stamp() + other for other in others)])
        kept = next((size for size in range(len(BLANK) - 1, 0, -1) if stamped.endswith(BLANK[:size])), 0)
        return stamped[: len(stamped) - kept], stamped[len(stamped) - kept :]

    def _stamp(self) -> bytes:
        self._last = max(self._last + 1, time.time_ns() // 1_000)
        return str(self._last).zfill(len(BLANK)).encode()
