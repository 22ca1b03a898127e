"""The values of an AMQP publication that need rules of their own: where the broker is, and what a table can carry."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from gnomon.job.address import wrong_host
from gnomon.job.errors import FieldError, InvalidJob

MASK = "***"
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
MAX_SHORT_STRING = 255  # bytes: AMQP 0-9-1 gives its length one octet
MAX_TABLE_DEPTH = 8
MAX_TABLE_BYTES = 65_536  # half of RabbitMQ's largest frame, which all properties of a message share
MAX_URL_LENGTH = 2_048

HOST = re.compile(r"[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?\.?|\[[0-9A-Fa-f:.]+\]")
UNSAFE = re.compile(r"[^\x21-\x7e]|[\\\"<>^`{|}]")


@dataclass(frozen=True, kw_only=True)
class Broker:
    """What an amqp:// or amqps:// URL says. The password is a secret: it is sent, never shown."""

    tls: bool
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str

    @classmethod
    @lru_cache(maxsize=1_024)
    def parse(cls, url: str) -> "Broker":
        """Raises InvalidJob at /connection; its words quote nothing of the URL, of which any part may be a password."""
        parts, port = _split(url)
        login, _, address = parts.netloc.rpartition("@")
        host = re.sub(r":\d*$", "", address)
        if not HOST.fullmatch(host) or len(host) > MAX_SHORT_STRING:
            raise InvalidJob.at("/connection", "names no host", "write it like amqp://user:password@host:5672/vhost")
        if reason := wrong_host(host):
            raise InvalidJob.at("/connection", f"the host {reason}")
        if port is None and address != host:
            raise InvalidJob.at("/connection", "has a colon after the host, but no port", "leave the colon out")
        user, _, password = login.partition(":")
        return cls(
            tls=parts.scheme == "amqps",
            host=host.strip("[]").lower(),
            port=port or DEFAULT_PORTS[parts.scheme],
            user=_decoded(user) if login else "guest",
            password=_decoded(password) if login else "guest",
            vhost=_decoded(parts.path[1:]) or "/",
        )

    def __str__(self) -> str:
        """All of it that may be shown."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def masked(url: str) -> str:
    """The URL with *** for its password."""
    parts = urlsplit(url)
    login, at, address = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    return parts._replace(netloc=f"{user}:{MASK}@{address}").geturl() if at and colon and password else url


def with_password(url: str, password: str) -> str:
    """The URL, which has a password, with this one for it."""
    parts = urlsplit(url)
    user, address = parts.netloc.partition(":")[0], parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}").geturl()


def keeps_password(url: str, stored: str) -> bool:
    """Whether the URL says *** for the password of the stored one.

    Not where that is for another user or host: a password must not leave for a host that it was not given for.
    """
    try:
        wanted, known = Broker.parse(url), Broker.parse(stored)
    except InvalidJob:
        return False
    return wanted.password == MASK and (wanted.user, wanted.host) == (known.user, known.host)


def short_string_errors(pointer: str, text: str) -> list[FieldError]:
    """What keeps a text from being a short string of AMQP and of the database."""
    if not _is_storable(text):
        return [FieldError(pointer=pointer, detail="holds a NUL character or half a surrogate pair")]
    size = len(text.encode())
    if size > MAX_SHORT_STRING:
        return [FieldError(pointer=pointer, detail=f"is {size} bytes; at most {MAX_SHORT_STRING} are allowed")]
    return []


def table_errors(pointer: str, table: Mapping[str, object]) -> list[FieldError]:
    """What keeps a JSON object from being sent as a table of AMQP."""
    errors = list(_table_errors(pointer, table, 1))
    if not errors and (size := table_size(table)) > MAX_TABLE_BYTES:
        errors.append(FieldError(pointer=pointer, detail=f"are {size} bytes; at most {MAX_TABLE_BYTES} are allowed"))
    return errors


def table_size(value: object) -> int:
    """How many bytes a value takes in a table, its type and length included; no less than it will be."""
    match value:
        case str():
            return 5 + len(value.encode())
        case Mapping():
            return 5 + sum(1 + len(name.encode()) + table_size(below) for name, below in value.items())
        case list():
            return 5 + sum(map(table_size, value))
        case _:
            return 9


def _split(url: str) -> tuple[SplitResult, int | None]:
    if len(url) > MAX_URL_LENGTH:
        raise InvalidJob.at("/connection", f"is {len(url)} characters; at most {MAX_URL_LENGTH} are allowed")
    if UNSAFE.search(url):
        raise InvalidJob.at("/connection", "holds a character that a URL can't hold", "percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        hint = "percent-encode what is special in the user name and the password"
        raise InvalidJob.at("/connection", "is not a URL", hint) from None
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidJob.at("/connection", "the scheme must be amqp or amqps", "write amqp://user:password@host/vhost")
    if parts.query or parts.fragment:
        raise InvalidJob.at("/connection", "must hold neither options (?) nor a fragment (#)", "leave them out")
    if port == 0:
        raise InvalidJob.at("/connection", "port 0 can't be called")
    if "/" in parts.path[1:]:
        raise InvalidJob.at("/connection", "names more than a vhost after the host", "write a / in its name as %2F")
    return parts, port


def _decoded(text: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidJob.at("/connection", "is not UTF-8 when percent-decoded") from None
    if any(ord(char) < 32 or ord(char) == 127 for char in decoded) or len(decoded.encode()) > MAX_SHORT_STRING:
        raise InvalidJob.at("/connection", f"has a part with control characters or of over {MAX_SHORT_STRING} bytes")
    return decoded


def _table_errors(pointer: str, table: Mapping[str, object], depth: int) -> Iterator[FieldError]:
    for name, value in table.items():
        below = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        yield from short_string_errors(below, name)
        yield from _value_errors(below, value, depth)


def _value_errors(pointer: str, value: object, depth: int) -> Iterator[FieldError]:
    if isinstance(value, Mapping | list) and depth >= MAX_TABLE_DEPTH:
        yield FieldError(pointer=pointer, detail=f"is nested more than {MAX_TABLE_DEPTH} deep")
    elif isinstance(value, Mapping):
        yield from _table_errors(pointer, value, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _value_errors(f"{pointer}/{index}", item, depth + 1)
    elif (reason := _scalar_fault(value)) is not None:
        yield FieldError(pointer=pointer, detail=reason)


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is an integer of more than 64 bits"
    if isinstance(value, float):
        return "is a number that is no integer, which pika can't send: write it as a string"
    if isinstance(value, str) and not _is_storable(value):
        return "holds a NUL character or half a surrogate pair"
    return None


def _is_storable(text: str) -> bool:
    return not any(char == "\x00" or 0xD800 <= ord(char) <= 0xDFFF for char in text)
