"""The egress guard: decides on the address a socket is about to reach, never on what the URL says."""

import os
import socket
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal, Protocol

import pycurl

from gnomon.job.address import BROKER_SETTING, SETTING, EgressPolicy, judge, judge_port
from gnomon.worker.executors.premises import Premises, is_here

REMEMBERED_VERDICTS = 4_096
OPENS_BROKER = f"which the setting {BROKER_SETTING} can open to AMQP jobs"

Judgement = Callable[[str, int, str], str | None]


class SocketAddress(Protocol):
    """What libcurl is about to connect to; `addr` is (address, port, …)."""

    family: int
    socktype: int
    protocol: int
    addr: tuple[str | int, ...]


class EgressGuard:
    """One for each executor. The policy never changes while the process lives; addresses of our own may."""

    def __init__(
        self, policy: EgressPolicy, *, protocol: Literal["HTTP", "AMQP"] = "HTTP", premises: Premises | None = None
    ) -> None:
        self._policy = policy
        self._protocol = protocol
        self._premises = premises or Premises()
        self._verdict: Callable[[str, int, str, tuple[int, int]], str | None] = lru_cache(REMEMBERED_VERDICTS)(
            self._find_verdict
        )

    def gate(self, host: str) -> "Gate":
        """The guard of one attempt to reach `host`."""
        return Gate(self._judge, host)

    def _judge(self, address: str, port: int, host: str) -> str | None:
        return self._verdict(address, port, host, self._premises.moment)

    def _find_verdict(self, address: str, port: int, host: str, _moment: tuple[int, int]) -> str | None:
        reason = judge(address, self._policy, host=host) or judge_port(port, self._policy, protocol=self._protocol)
        return reason or self._trespass(address, port, host)

    def _trespass(self, address: str, port: int, host: str) -> str | None:
        """What is our own stays closed, also in a network that was opened."""
        parsed = ip_address(address)
        if owner := self._premises.owner(parsed, port):
            opening = OPENS_BROKER if (owner, self._protocol) == ("broker", "AMQP") else "which no setting opens"
            return f"{address} port {port} is Gnomon's own {owner}, {opening}"
        if is_here(address) and not self._policy.opens_machine(parsed, host):
            return f"{parsed} is the worker's own machine; the setting {SETTING} can open it, named by itself"
        return None


class Gate:
    """Judges every address that one attempt reaches. `refusal` is the last reason; `opened`: some address passed."""

    def __init__(self, judgement: Judgement, host: str) -> None:
        self._judge = judgement
        self._host = host
        self.refusal: str | None = None
        self.opened = False

    def open_socket(self, address: SocketAddress) -> "_Handover | int":
        """A socket for libcurl to connect, or SOCKET_BAD when the address is refused."""
        if not self.admits(str(address.addr[0]), int(address.addr[1])):
            return int(pycurl.SOCKET_BAD)
        opened = socket.socket(address.family, address.socktype, address.protocol)
        self.opened = True
        return _Handover(opened.detach())

    def admits(self, address: str, port: int) -> bool:
        """Whether the address may be talked to; the reason against it is kept."""
        reason = self._judge(address, port, self._host)
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
