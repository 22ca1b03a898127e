"""A free port on the loopback interface."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_TRIES = 200


def free_port() -> int:
    """A port nothing listens on at this moment; the caller should bind it soon.

    Below the ephemeral range, because a client that keeps dialling a dead port *inside* it is in the end given that
    very port as its own source port: it connects to itself, and the restarted server can't bind.
    """
    highest = max(_LOWEST + 1_000, _first_ephemeral_port() - 1)
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, highest)  # noqa: S311 - chosen for spread, not for secrecy
        if port_is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {_LOWEST} and {highest} in {_TRIES} tries")


def port_is_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on host:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
