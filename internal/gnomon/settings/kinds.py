"""The kinds of values a setting can have: how each is read, its limits, and what is expected in words."""

import ipaddress
import re
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from gnomon.job.api_key import read_key
from gnomon.settings.sources import parse_duration


@dataclass(frozen=True)
class Expects:
    """What a value looks like, in words: the unit in the tables, and the second half of an error message."""

    text: str


def _read_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("not a duration")  # noqa: TRY004 - pydantic reports ValueErrors
    try:
        return parse_duration(str(value))
    except OverflowError as error:
        raise ValueError("too long") from error


def _read_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _read_numbers(value: object) -> object:
    """In a file one port may stand without a list around it."""
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else _read_list(value)


def parse_size(text: str) -> int | None:
    """Bytes; None for 0, which is no limit. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,12})(|KiB|MiB|GiB)", text)
    if not match:
        raise ValueError("not a size")
    return int(match[1]) * 1024 ** ("", "KiB", "MiB", "GiB").index(match[2]) or None


def _check_size(text: str) -> str:
    parse_size(text)
    return text


def _check_listen_address(address: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\s\[\]]+):(\d{1,5})", address)
    if not match or int(match[1]) > 65535:
        raise ValueError("not host:port")
    return address


def _check_network(item: str) -> str:
    if "/" in item:
        ipaddress.ip_network(item)
    elif not re.fullmatch(r"[\w.:-]+", item):
        raise ValueError("neither a network nor a host")
    return item


def _check_certificates(path: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # an SSLError is one too
        raise ValueError("holds no certificates that can be read") from error
    return path


def _check_scheme(*schemes: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError("another scheme")
        urlsplit(text)
        return url

    return AfterValidator(check)


def _check_proxy(item: str) -> str:
    ipaddress.ip_network(item)
    return item


def _check_key(text: SecretStr) -> SecretStr:
    if read_key(text.get_secret_value().strip()) is None:
        raise ValueError("not a key")
    return text


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    Field(gt=timedelta(0)),
    Expects("a duration above 0, such as 10s or 500ms"),
]
Lease = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    Field(ge=timedelta(seconds=1), le=timedelta(hours=1)),
    Expects("a duration from 1s to 1h"),
]
LookAhead = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    Field(ge=timedelta(0), le=timedelta(seconds=5)),
    Expects("a duration of up to 5s, or 0s for none"),
]
Age = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    Field(ge=timedelta(minutes=1), le=timedelta(days=36_500)),
    Expects("a duration from 1m to 36500d"),
]
Threads = Annotated[int, Field(ge=1, le=1024), Expects("a whole number from 1 to 1024")]
Count = Annotated[int, Field(ge=1, le=20_000), Expects("a whole number from 1 to 20000")]
Many = Annotated[int, Field(ge=1, le=1_000_000), Expects("a whole number from 1 to 1000000")]
Frequency = Annotated[int, Field(ge=0, le=100_000), Expects("a whole number from 0 to 100000")]
Limit = Annotated[int, Field(ge=0, le=10_000_000), Expects("a whole number from 0 to 10000000")]
Few = Annotated[int, Field(ge=0, le=1000), Expects("a whole number from 0 to 1000")]
Text = Annotated[str, Field(min_length=1, max_length=200), Expects("text")]
Switch = Annotated[bool, Expects("true or false")]
Address = Annotated[str, AfterValidator(_check_listen_address), Expects("host:port")]
Names = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")], ...],
    BeforeValidator(_read_list),
    Field(min_length=1),
    Expects("names of letters, digits, '.', '_' and '-', separated by commas"),
]
Modules = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=200)], ...],
    BeforeValidator(_read_list),
    Expects("names of Python modules, separated by commas"),
]
Size = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) and not isinstance(value, bool) else value),
    AfterValidator(_check_size),
    Expects("a size such as 512MiB or 2GiB, or 0 for no limit"),
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_check_network)], ...],
    BeforeValidator(_read_list),
    Expects("networks such as 10.0.0.0/8 and host names, separated by commas"),
]
Proxies = Annotated[
    tuple[Annotated[str, AfterValidator(_check_proxy)], ...],
    BeforeValidator(_read_list),
    Expects("addresses and networks such as 10.0.0.0/8, separated by commas"),
]
Hosts = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")], ...],
    BeforeValidator(_read_list),
    Expects("host names in small letters, separated by commas"),
]
Certificates = Annotated[
    str, AfterValidator(_check_certificates), Expects("the path of a file with certificates in PEM")
]
Ports = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65_535)], ...],
    BeforeValidator(_read_numbers),
    Expects("port numbers, separated by commas"),
]
Secret = Annotated[SecretStr, Expects("text")]
SecretKeys = Annotated[
    SecretStr, Expects("keys, separated by commas or white space; `gnomon sealing generate` makes them")
]
ApiKeyText = Annotated[SecretStr, AfterValidator(_check_key), Expects("a key as `gnomon keys create` prints it")]
DatabaseUrl = Annotated[
    SecretStr,
    _check_scheme("postgresql", "postgres", "postgresql+psycopg2"),
    Expects("a URL that begins with postgresql://"),
]
BrokerUrl = Annotated[
    SecretStr,
    _check_scheme("redis", "rediss", "amqp", "amqps"),
    Expects("a URL that begins with redis://, rediss://, amqp:// or amqps://"),
]
CacheUrl = Annotated[
    SecretStr,
    _check_scheme("redis", "rediss"),
    Expects("a URL that begins with redis:// or rediss://"),
]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
    Expects("DEBUG, INFO, WARNING or ERROR"),
]
QueueType = Annotated[Literal["classic", "quorum"], Expects("classic or quorum")]
Format = Annotated[Literal["auto", "json", "text"], Expects("auto, json or text")]
