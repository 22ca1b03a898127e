"""Finds out whether a target has hung up on an idle connection before a request is entrusted to it.

libcurl looks only at connections that were idle for more than a second. On a younger one that died it sends the
request into the void, and nobody can tell any more whether the target acted on it.
"""

import os
import select
import socket

Ends = tuple[str, str, int, int]  # remote address, local address, remote port, local port: as PREREQFUNCTION gets them

MAX_REMEMBERED = 4_096  # beyond these the oldest go unchecked


class Sockets:
    """Which descriptor libcurl uses for each connection; it does not tell, but shows each when it is made.

    A connection is remembered anew before its first request, so what is said of a living one is never about an older
    one that had the same ends. Dead ones are forgotten oldest first.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Ends, int] = {}

    def remember(self, ends: Ends, candidates: list[int]) -> None:
        """A connection stands, on one of the descriptors that were made for it."""
        self._descriptors.pop(ends, None)
        found = candidates[0] if len(candidates) == 1 else _with_local_port(candidates, ends[3])
        if found is not None:
            self._descriptors[ends] = found
        if len(self._descriptors) > MAX_REMEMBERED:
            del self._descriptors[next(iter(self._descriptors))]

    def hung_up(self, ends: Ends) -> bool:
        """Whether there is anything to read on an idle connection: its end, or what no request asked for."""
        descriptor = self._descriptors.get(ends)
        if descriptor is None:
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))


def _with_local_port(candidates: list[int], port: int) -> int | None:
    """The one that won, when several addresses of a host were tried at a time; the losers may be closed already."""
    for descriptor in candidates:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                if copy.getsockname()[1] == port:
                    return descriptor
        except OSError:
            continue
    return None
