"""Which addresses may be called. Pure: used when a job is created and again when a socket is about to connect.

The verdict is on the address, never on a URL's text: 2130706433, 0x7f.1, 127.1 and full-width digits are all loopback
to getaddrinfo. `ipaddress.is_global` does not serve: it is true of ::127.0.0.1, 64:ff9b::a9fe:a9fe, 2002:a9fe:a9fe::,
192.0.0.192 and 168.63.129.16, and `is_private` is false of 100.100.100.200.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from gnomon.job.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "egress-allow"
PORTS_SETTING = "egress-allow-ports"
BROKER_SETTING = "egress-allow-own-broker"

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
        "fd00:a9fe:a9fe::1",  # Akamai
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
LOOPBACK_4 = IPv4Address("127.0.0.1")

# Whose ports these are. A request, of which a job writes nearly every byte, could speak to what listens there in its
# own language; so browsers refuse them (the Fetch standard's "bad ports"), and so do we, with those of databases,
# caches and brokers. What speaks HTTP itself is not here: whether that may be called is a matter of addresses.
PORTS: Mapping[int, str] = {
    0: "nobody",
    **dict.fromkeys((1, 7, 9, 11, 13, 15, 17, 19, 37, 42, 43, 77, 79, 87, 95, 101, 102, 103, 104), "an old service"),
    **dict.fromkeys((113, 115, 117, 427, 512, 513, 514, 526, 530, 531, 532, 540, 548, 556), "an old service"),
    **dict.fromkeys((20, 21, 69, 989, 990), "FTP"),
    22: "SSH",
    **dict.fromkeys((23, 992), "telnet"),
    **dict.fromkeys((25, 465, 587), "SMTP"),
    **dict.fromkeys((53, 853), "DNS"),
    **dict.fromkeys((109, 110, 143, 993, 995, 4190), "mail"),
    **dict.fromkeys((111, 135, 2049, 4045), "remote procedure calls"),
    **dict.fromkeys((119, 563), "news"),
    123: "NTP",
    **dict.fromkeys((137, 138, 139, 445), "SMB"),
    161: "SNMP",
    179: "BGP",
    **dict.fromkeys((389, 636, 3268, 3269), "LDAP"),
    515: "a printer",
    **dict.fromkeys((554, 1719, 1720, 1723, 5060, 5061), "telephony"),
    601: "syslog",
    873: "rsync",
    1433: "SQL Server",
    1521: "Oracle",
    **dict.fromkeys((1883, 8883), "MQTT"),
    2181: "ZooKeeper",
    3306: "MySQL",
    3389: "remote desktops",
    3659: "an old service",
    4369: "Erlang",
    **dict.fromkeys((5432, 6432), "Postgres"),
    **dict.fromkeys((5671, 5672), "AMQP"),
    5900: "remote desktops",
    6000: "X11",
    **dict.fromkeys((6379, 6380, 16379, 26379), "Redis"),
    6566: "a scanner",
    **dict.fromkeys((6665, 6666, 6667, 6668, 6669, 6679, 6697), "IRC"),
    9042: "Cassandra",
    9092: "Kafka",
    9418: "git",
    10080: "an old service",
    11211: "memcached",
    25672: "Erlang",
    **dict.fromkeys((27017, 27018, 27019), "MongoDB"),
    61613: "STOMP",
    61616: "ActiveMQ",
}

HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Server(NamedTuple):
    """A server that Gnomon itself depends on; `name` says which: the database, the broker, the cache."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """What the operator opened beyond the public internet.

    `networks` and `hosts` (lower case, without a final dot) come from the setting egress-allow, `ports` from
    egress-allow-ports.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str], *, ports: Iterable[int] = ()) -> "EgressPolicy":
        """From networks ("10.0.0.0/8"), addresses and host names. Raises ConfigurationError."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            opened = _parse_entry(entry.strip())
            if isinstance(opened, str):
                hosts.add(opened)
            else:
                networks.append(opened)
        return cls(networks=tuple(networks), hosts=frozenset(hosts), ports=frozenset(ports))

    def opens(self, address: Address, host: str | None) -> bool:
        """Whether the operator opened this address, or every address of this host."""
        return self._opens_host(host) or any(address in network for network in self.networks)

    def opens_machine(self, address: Address, host: str | None) -> bool:
        """Whether the operator opened the machine we run on under this address of it.

        It is in the networks around it, and who opens those means other machines; so it takes the address by itself,
        or loopback, behind which is all that listens here and more.
        """
        if self._opens_host(host):
            return True
        return any(network == ip_network(address) or LOOPBACK_4 in network for network in self.networks)

    def _opens_host(self, host: str | None) -> bool:
        return host is not None and _plain(host) in self.hosts


def judge(address: str, policy: EgressPolicy, *, host: str | None = None) -> str | None:
    """None when the address may be called, else the reason in words. `host` is the name it was found under."""
    try:
        parsed, never, closed = _known(address)
    except ValueError:
        return f"{address[:80]!r} is not an address"
    if never is not None:
        return f"{parsed} is {never}, which no setting opens"
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


def judge_port(port: int, policy: EgressPolicy, *, protocol: str) -> str | None:
    """None when `protocol` (HTTP or AMQP) may be spoken to this port, else the reason in words."""
    owner = PORTS.get(port)
    if owner is None or owner == protocol or port in policy.ports:
        return None
    return f"port {port} is that of {owner}; the setting {PORTS_SETTING} can open it"


@lru_cache(maxsize=4_096)
def wrong_host(host: str) -> str | None:
    """Why a URL's host can never be called, whatever is opened; the words do not quote it. None for all others.

    Numbers are taken for an address in one spelling only: getaddrinfo and libcurl know many more.
    """
    address = _literal(host)
    if isinstance(address, str):
        return address
    reason = None if address is None else _never(address)
    return None if reason is None else f"is {reason}, which no setting opens"


def foreseen(host: str, port: int, policy: EgressPolicy, *, protocol: str) -> str | None:
    """Why workers with this policy will refuse a host and port, as far as that can be told without asking for names."""
    if reason := judge_port(port, policy, protocol=protocol):
        return reason
    name = _plain(host)
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3: never anything but loopback
        return judge(str(LOOPBACK_4), policy, host=host)
    address = _literal(host)
    return None if address is None else judge(str(address), policy, host=host)


@lru_cache(maxsize=4_096)
def _known(address: str) -> tuple[Address, str | None, str | None]:
    """The address, why it is never called, and why it is closed. Raises ValueError."""
    parsed = ip_address(address)
    return parsed, _never(parsed), _closed(parsed)


@lru_cache(maxsize=4_096)
def _literal(host: str) -> Address | str | None:
    """The address that a host is, or why it is none though it looks like one; None for a name."""
    if host.startswith("[") or ":" in host:
        try:
            return IPv6Address(host.strip("[]"))
        except ValueError:
            return "is not an IPv6 address"
    if not NUMBER.fullmatch(_plain(host).rpartition(".")[2]):
        return None
    try:
        return IPv4Address(host)
    except ValueError:
        return "ends in a number, but is not an IPv4 address in its plain form, such as 192.0.2.1"


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
