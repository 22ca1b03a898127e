"""Where a request comes from, as far as that can be known."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# By any of these a proxy says that it passes on what somebody else sent: headers, by their names in WSGI.
FORWARDED = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP")


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The address of the client: the last one in X-Forwarded-For that no trusted proxy has.

    What stands before that anybody may have written.
    """
    if not trusted:
        return peer
    address = peer
    for named in reversed(forwarded_for.split(",")):
        if not _is_in(address, trusted):
            break
        parsed = _parsed(named.strip())
        if parsed is None:
            break
        address = str(parsed)
    return address


@lru_cache(maxsize=1_024)  # as are these
def block_of(address: str) -> str:
    """What one client can take addresses from: with IPv6, 64 bits."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


@lru_cache(maxsize=1_024)  # most requests name the same one
def can_be_host(host: str | None) -> bool:
    """Whether a Host header fits into the DNS, as far as lengths go."""
    try:
        return bool(host and host.encode("idna"))
    except UnicodeError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there: an address of loopback, or localhost."""
    parsed = _parsed(host)
    return host.lower() == "localhost" if parsed is None else parsed.is_loopback


def is_own_name(host: str, names: Sequence[str]) -> bool:
    """Whether a Host header (with a port, perhaps) names this machine, and not by a name that others may hand out.

    A name of somebody else's may lead to any address, and its pages may read what is answered under it.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return _parsed(name) is not None or name in ("localhost", *names)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of this Origin came from where the request went to."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(maxsize=256)  # asked several times in each request
def _parsed(text: str) -> Address | None:
    try:
        parsed = ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
