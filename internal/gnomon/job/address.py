"""Which addresses may be called. Pure: used when a job is created and again when a socket is about to connect.

The verdict is on the address, never on a URL's text: 2130706433, 0x7f.1, 127.1 and full-width digits are all loopback
to getaddrinfo. `ipaddress.is_global` does not serve: it is true of ::127.0.0.1, 64:ff9b::a9fe:a9fe, 2002:a9fe:a9fe::,
192.0.0.192 and 168.63.129.16, and `is_private` is false of 100.100.100.200.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from gnomon.job.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "egress-allow"

# Where clouds hand credentials to whoever asks from the inside.
METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle, older shapes
    )
)

EMBEDDED = "an IPv4 address inside an IPv6 one"  # the kernel or a gateway leads it to what the IPv4 rules refuse

# What no allow-list opens.
NEVER: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "an unspecified address"),
        ("169.254.0.0/16", "a link-local address"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("::/128", "an unspecified address"),
        ("::ffff:0:0/96", EMBEDDED),  # IPv4-mapped
        ("::ffff:0:0:0/96", EMBEDDED),  # IPv4-translated, RFC 2765
        ("64:ff9b::/96", EMBEDDED),  # NAT64
        ("64:ff9b:1::/48", EMBEDDED),  # NAT64 of one's own, RFC 8215
        ("2001::/32", EMBEDDED),  # Teredo
        ("2002::/16", EMBEDDED),  # 6to4
        ("fe80::/10", "a link-local address"),
        ("ff00::/8", "a multicast address"),
    )
)
COMPATIBLE = IPv6Network("::/96")  # IPv4-compatible; holds :: and ::1 too
LOOPBACK_6 = IPv6Address("::1")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # the third quarter of fe80::5efe:a.b.c.d and the like, under any prefix

# What is refused unless the operator opens it.
CLOSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("127.0.0.0/8", "a loopback address"),
        ("10.0.0.0/8", "a private address"),
        ("172.16.0.0/12", "a private address"),
        ("192.168.0.0/16", "a private address"),
        ("100.64.0.0/10", "a shared (carrier) address"),
        ("192.0.0.0/24", "a protocol assignment"),
        ("192.0.2.0/24", "a documentation address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fec0::/10", "a site-local address"),
        ("2001::/23", "a protocol assignment"),
        ("2001:db8::/32", "a documentation address"),
        ("3fff::/20", "a documentation address"),
    )
)
PUBLIC_6 = IPv6Network("2000::/3")  # IANA has given out global unicast from nowhere else

HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """What the operator opened beyond the public internet, and what is closed whatever was opened.

    `networks` and `hosts` (lower case, without a final dot) come from the setting egress-allow. `blocked` are addresses
    of Gnomon itself.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    blocked: frozenset[Address] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str], *, blocked: Iterable[str] = ()) -> "EgressPolicy":
        """From networks ("10.0.0.0/8"), addresses and host names. Raises ConfigurationError."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            opened = _parse_entry(entry.strip())
            if isinstance(opened, str):
                hosts.add(opened)
            else:
                networks.append(opened)
        return cls(
            networks=tuple(networks),
            hosts=frozenset(hosts),
            blocked=frozenset(ip_address(address) for address in blocked),
        )

    def opens(self, address: Address, host: str | None) -> bool:
        """Whether the operator opened this address, or every address of this host."""
        if host is not None and _plain(host) in self.hosts:
            return True
        return any(address in network for network in self.networks)


def judge(address: str, policy: EgressPolicy, *, host: str | None = None) -> str | None:
    """None when the address may be called, else the reason in words. `host` is the name it was found under."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return f"{address[:80]!r} is not an address"
    if reason := _never(parsed):
        return f"{parsed} is {reason}, which no setting opens"
    if parsed in policy.blocked:
        return f"{parsed} belongs to Gnomon itself"
    closed = _closed(parsed)
    if closed is None or policy.opens(parsed, host):
        return None
    return f"{parsed} is {closed}; the setting {SETTING} can open it"


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL names it, is this machine: nothing between it and us can be listened to."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def travels_in_clear(url: str) -> bool:
    """Whether what is said to the Redis or AMQP broker at this URL can be read on the way to another machine."""
    parts = urlsplit(url)
    return parts.scheme in ("redis", "amqp") and not is_loopback(parts.hostname or "localhost")


def _never(address: Address) -> str | None:
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "an address with a scope"
        if _embeds_ipv4_anywhere(address):
            return EMBEDDED
    if address in METADATA:
        return "a cloud's metadata service"
    return _reason(NEVER, address)


def _embeds_ipv4_anywhere(address: IPv6Address) -> bool:
    """The two forms that no single network holds."""
    return (address in COMPATIBLE and address > LOOPBACK_6) or (int(address) >> 32) & 0xFFFF_FFFF in ISATAP


def _closed(address: Address) -> str | None:
    if reason := _reason(CLOSED, address):
        return reason
    if isinstance(address, IPv6Address) and address not in PUBLIC_6:
        return "not a public address"
    return None


def _reason(table: tuple[tuple[Network, str], ...], address: Address) -> str | None:
    return next((reason for network, reason in table if address in network), None)


def _parse_entry(entry: str) -> Network | str:
    """A network, or a host name."""
    try:
        network = ip_network(entry)
    except ValueError as error:
        return _parse_host(entry, error)
    if reason := _never_any_of(network):
        raise ConfigurationError(f"{SETTING}: {entry!r} can't be opened: it is {reason}")
    return network


def _never_any_of(network: Network) -> str | None:
    """Why an entry would open nothing at all; None when it opens something."""
    if network.num_addresses == 1:
        return _never(network.network_address)
    return next(
        (
            reason
            for never, reason in NEVER
            if network.network_address in never and network.prefixlen >= never.prefixlen
        ),
        None,
    )


def _parse_host(entry: str, error: ValueError) -> str:
    name = _plain(entry)
    if "/" in entry or ":" in entry:
        raise ConfigurationError(f"{SETTING}: {entry!r} is not a network: {error}") from error
    # A name whose last part is a number is an address in disguise: 127.1, 0x7f.1, 2130706433.
    if not HOST_NAME.fullmatch(name) or NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ConfigurationError(
            f"{SETTING}: {entry!r} is neither a network (10.0.0.0/8), nor an address (10.0.0.1), nor a host name"
        ) from error
    return name


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")
