"""The keys of one namespace, and the scripts that change them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

import redis

from gnomon.job.errors import ConfigurationError, Contended
from gnomon.job.ids import EPOCH, MICROSECOND
from gnomon.job.ports import DURATION_BUCKETS, Token
from gnomon.storage.redis.client import check_server, translated

Value = TypeVar("Value")

FORMAT = "1"
NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEPT_EXECUTIONS = 1_000
# The most rows that one script changes: a server that works on one thing at a time answers nobody else meanwhile.
SCRIPT_ROWS = 200
# A job that others change all the time is read and decided anew so often.
TRIES = 50


class RedisDatabase:
    """Jobs and executions in one Redis or Valkey (6.2 or later), as far as the stores of this folder share them.

    Every change is one Lua script: it happens as a whole or not at all, and nobody sees half of it. All keys begin with
    `{namespace}:`, so that they lie in one slot of a cluster. The scripts compute the keys they touch from that prefix
    and the ids they are given.

    It keeps what Redis keeps. With `appendonly yes` and `appendfsync always` whatever was acknowledged survives a
    crash of the server; with `everysec` up to a second of it is lost, with snapshots minutes, with neither everything.
    Replicas follow with a delay: a failover may lose the last acknowledged changes, and so repeat or lose executions.
    A server that evicts (`maxmemory-policy` other than noeviction) loses keys without a trace. Where that can't be
    accepted, use Postgres.

    History is bounded: of each job the `kept` executions that ended last are kept, and a deleted job with its history
    for 30 days.
    """

    def __init__(self, client: "redis.Redis", *, namespace: str = "gnomon", kept: int = KEPT_EXECUTIONS) -> None:
        if not NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(
                f"{namespace[:40]!r} is no namespace: write up to 100 letters, digits, '.', '_' or '-'"
            )
        if kept < 1:
            raise ConfigurationError("at least one finished execution of each job must be kept")
        self.client = client
        self.prefix = f"{{{namespace}}}:"
        self._kept = kept

    def open(self) -> None:
        """Raises ConfigurationError for a server or keys that can't be used, Unavailable while it is away."""
        check_server(self.client)
        try:
            found = self.run("open", format=FORMAT)
        except redis.ResponseError as error:
            raise ConfigurationError(
                f"Redis does not let us work on keys that begin with {self.prefix}: grant our user "
                f"~{self.prefix}* &{self.prefix}* +@all -@dangerous +info ({type(error).__name__})"
            ) from error
        if found != FORMAT:
            raise ConfigurationError(
                f"the keys that begin with {self.prefix} are of format {found}, and this version knows {FORMAT}: "
                "use the version that wrote them, or another namespace"
            )

    def close(self) -> None:
        """Ends the connections; they come back when used again."""
        self.client.close()

    def run(self, script: str, **arguments: Any) -> Any:
        """Carries out one script; arguments that are None are left out. Raises Unavailable.

        Raises UnicodeEncodeError for texts that UTF-8 can't carry.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        payload = json.dumps({**given, "keep": self._kept}, ensure_ascii=False, default=_plain, separators=(",", ":"))
        text, digest = _script(script)
        with translated():
            try:
                return self.client.evalsha(digest, 1, f"{self.prefix}clock", payload.encode())
            except redis.exceptions.NoScriptError:
                return self.client.eval(text, 1, f"{self.prefix}clock", payload.encode())

    def decided(self, attempt: Callable[[], Value | None], what: str) -> Value:
        """Reads, decides and writes until nobody was quicker (`attempt` answers something)."""
        for _ in range(TRIES):
            if (result := attempt()) is not None:
                return result
        raise Contended(f"{what} is being changed by others all the time")


def parts(items: Iterable[Value], size: int = SCRIPT_ROWS) -> Iterable[list[Value]]:
    """The items in lists of up to `size`."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def micros(moment: datetime) -> int:
    """µs since 1970: what scripts compute with."""
    return (moment - EPOCH) // MICROSECOND


def instant(text: str) -> datetime:
    """The other way round."""
    return EPOCH + timedelta(microseconds=int(text))


def optional_instant(text: str | None) -> datetime | None:
    """None stays None."""
    return None if text is None else instant(text)


def token_rows(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Fencing tokens as scripts read them."""
    return [{"id": token.id, "attempt": token.attempt} for token in tokens]


def mapping(flat: Sequence[str]) -> dict[str, str]:
    """What HGETALL answers inside a script."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value: Lua's JSON has no good null."""
    return {name: value for name, value in row.items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, timedelta):
        return value // MICROSECOND
    raise TypeError(f"{type(value).__name__} has no place in a script's arguments")


@cache
def _script(name: str) -> tuple[str, str]:
    folder = files("gnomon.storage.redis") / "lua"
    bounds = ", ".join(str(round(bound * 1_000_000)) for bound in DURATION_BUCKETS)
    text = "\n".join(
        [
            f"local DURATION_BUCKETS = {{{bounds}}}",
            (folder / "common.lua").read_text(encoding="utf-8"),
            (folder / f"{name}.lua").read_text(encoding="utf-8"),
        ]
    )
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
