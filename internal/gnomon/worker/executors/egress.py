"""The egress guard for libcurl: decides on the address a socket is about to reach, never on what the URL says."""

import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import pycurl

from gnomon.job.address import EgressPolicy, judge

REMEMBERED_VERDICTS = 4_096


class SocketAddress(Protocol):
    """What libcurl is about to connect to; `addr` is (address, port, …)."""

    family: int
    socktype: int
    protocol: int
    addr: tuple[str | int, ...]


class EgressGuard:
    """One for each process. Verdicts are remembered: the policy never changes while the process lives."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._judge: Callable[[str, str], str | None] = lru_cache(maxsize=REMEMBERED_VERDICTS)(
            lambda address, host: judge(address, policy, host=host)
        )

    def gate(self, host: str) -> "Gate":
        """The guard of one attempt to reach `host`."""
        return Gate(self._judge, host)


class Gate:
    """Judges every address that one attempt reaches. `refusal` is the last reason; `opened`: some address passed."""

    def __init__(self, judgement: Callable[[str, str], str | None], host: str) -> None:
        self._judge = judgement
        self._host = host
        self.refusal: str | None = None
        self.opened = False

    def open_socket(self, address: SocketAddress) -> "_Handover | int":
        """A socket for libcurl to connect, or SOCKET_BAD when the address is refused."""
        if not self.admits(str(address.addr[0])):
            return int(pycurl.SOCKET_BAD)
        opened = socket.socket(address.family, address.socktype, address.protocol)
        self.opened = True
        return _Handover(opened.detach())

    def admits(self, address: str) -> bool:
        """Whether the address may be talked to; the reason against it is kept."""
        reason = self._judge(address, self._host)
        if reason is not None:
            self.refusal = reason
        return reason is None


class _Handover:
    """Carries a descriptor to pycurl, which duplicates it and drops this object.

    Ours must be closed then and not later: while it is open the peer never sees libcurl's copy close.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """What pycurl asks for."""
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)
