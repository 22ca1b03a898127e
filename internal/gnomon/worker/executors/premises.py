"""What is Gnomon's own, so that no job calls it: its database, broker and cache, and the machine of the worker."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address

from gnomon.job.address import Address, Server
from gnomon.worker.executors.resolver import Addresses, system_lookup

log = logging.getLogger(__name__)

LOOK_UP_SECONDS = 30.0  # a database that fails over is under its new address soon
REMEMBERED = 4_096
DISCARD_PORT = 9  # any does: nothing is sent


class Premises:
    """Which addresses and ports are our own servers'. May be asked from any thread.

    What is judged is address and port together: on one machine with our database there may be services that jobs are
    to call. A server on this machine is its port on every address of the machine, for it may listen on all of them.
    """

    def __init__(self, servers: Iterable[Server] = (), lookup: Callable[[str], Addresses] = system_lookup) -> None:
        self._servers = tuple(servers)
        self._lookup = lookup
        self._owners: Mapping[tuple[Address | None, int], str] = {}
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._looked_up = 0

    def without(self, name: str) -> "Premises":
        """The same, but for this server, which may be called."""
        return Premises((server for server in self._servers if server.name != name), self._lookup)

    def start(self) -> None:
        """Looks the servers up, and again every half minute until the process ends. Blocks for the first time."""
        self.look_up()
        if any(self._lookup_needed(server.host) for server in self._servers):
            threading.Thread(target=self._keep_looking, name="gnomon-premises", daemon=True).start()

    def look_up(self) -> None:
        """Where the servers are now. One whose name can't be found out is taken to be where it was."""
        owners: dict[tuple[Address | None, int], str] = {}
        for server in self._servers:
            for address in self._addresses_of(server.host):
                owners[None if is_here(str(address)) else address, server.port] = server.name
        self._owners = owners
        self._looked_up += 1

    @property
    def moment(self) -> tuple[int, int]:
        """What was found out while this stays the same, about our servers or with `is_here`, still holds."""
        return self._looked_up, _moment()

    def owner(self, address: Address, port: int) -> str | None:
        """Whose server that is: the database's, the broker's, the cache's; None for others'."""
        if (found := self._owners.get((address, port))) is not None:
            return found
        here = self._owners.get((None, port))
        return here if here is not None and is_here(str(address)) else None

    def _addresses_of(self, host: str) -> tuple[Address, ...]:
        with contextlib.suppress(ValueError):
            return (ip_address(host),)
        try:
            found = self._lookup(host)
        except (OSError, UnicodeError) as error:
            log.warning("the name %r of a server of ours could not be resolved: %s", host, error)
            found = ()
        if found:
            self._addresses[host] = tuple(map(ip_address, found))
        return self._addresses.get(host, ())

    def _lookup_needed(self, host: str) -> bool:
        try:
            ip_address(host)
        except ValueError:
            return True
        return False

    def _keep_looking(self) -> None:
        while True:
            time.sleep(LOOK_UP_SECONDS)
            self.look_up()


def is_here(address: str) -> bool:
    """Whether the address is loopback, or one that this machine has just now."""
    return ip_address(address).is_loopback or _is_own(address, _moment())


def _moment() -> int:
    return int(time.monotonic() // 10)


@lru_cache(maxsize=REMEMBERED)
def _is_own(address: str, _moment: int) -> bool:
    """The kernel sends from an address to itself, and from no other. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, DISCARD_PORT))
            return ip_address(probe.getsockname()[0]) == ip_address(address)
    except OSError:  # no way leads there, or this machine does not speak IPv6
        return False
