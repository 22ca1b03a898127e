"""The address of the database as SQLAlchemy and libpq take it: which driver, whose password, whether TLS.

And which servers an address names, that of a broker or cache too.
"""

from urllib.parse import parse_qs, quote, urlencode, urlsplit

from gnomon.job.address import is_loopback

DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}  # all others are Postgres
_DRIVER = "postgresql+psycopg2"  # SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3


def address_of(*, host: str, user: str, name: str) -> str:
    """A URL of its parts; `host` may carry a port, or be the folder of a Unix socket."""
    if host.startswith("/"):
        return f"postgresql://{quote(user, safe='')}@/{name}?host={host}"
    return f"postgresql://{quote(user, safe='')}@{host}/{name}"


def driver_url(url: str, *, password: str | None, disable_tls: bool, authorities: str | None = None) -> str:
    """`url` for our driver, with `password` where it has none, and with an sslmode and authorities where it needs them.

    `disable_tls` means disable; without it, a server beyond loopback is asked for verify-full. `authorities` is the
    file of certificates that vouch for it; without one libpq looks for ~/.postgresql/root.crt or PGSSLROOTCERT.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if password and ":" not in user:
        user, at = f"{user}:{quote(password, safe='')}", "@"
    query, said = parts.query, parse_qs(parts.query)
    added = {}
    if "sslmode" not in said and (disable_tls or not _is_local(hosts, query)):
        added["sslmode"] = "disable" if disable_tls else "verify-full"
    if authorities is not None and "sslrootcert" not in said and added.get("sslmode") != "disable":
        added["sslrootcert"] = authorities
    query = "&".join(filter(None, (query, urlencode(added, safe="/"))))
    return f"{_DRIVER}://{user}{at}{hosts}{parts.path}{'?' if query else ''}{query}"


def servers_of(url: str) -> list[tuple[str, int]]:
    """Hosts and ports that a URL of a database, broker or cache names, as libpq reads several; no Unix sockets."""
    parts = urlsplit(url)
    query = {name: ",".join(values) for name, values in parse_qs(parts.query).items()}
    places = parts.netloc.rpartition("@")[2].split(",")
    places += [place for name in ("host", "hostaddr") for place in query.get(name, "").split(",")]
    ports = [int(port) for port in query.get("port", "").split(",") if port.isdecimal()]
    default = DEFAULT_PORTS.get(parts.scheme, 5432)
    found = [
        (host, int(port) if port.isdecimal() else given)
        for host, port in map(_host_and_port, places)
        if host and not host.startswith("/")
        for given in (ports or [default])
    ]
    return list(dict.fromkeys(found))


def _host_and_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        return host, port.removeprefix(":")
    if place.count(":") > 1:  # an IPv6 address as hostaddr takes it
        return place, ""
    host, _, port = place.partition(":")
    return host, port


def _is_local(hosts: str, query: str) -> bool:
    """Whether every server is on this machine: loopback, or a Unix socket (no host at all, or a path)."""
    named = [*hosts.split(","), *",".join(parse_qs(query).get("host", [])).split(",")]
    return all(_is_local_host(host) for host in named if host)


def _is_local_host(host: str) -> bool:
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return bare.startswith("/") or is_loopback(bare)
