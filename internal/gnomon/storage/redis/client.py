"""Connections to Redis or Valkey, what their errors mean to the rooms that call, and what is checked at the start."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gnomon.job.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0
OLDEST_VERSION = (6, 2)

# What the server says by a word at the beginning of an error, or, before Redis 7, somewhere inside it.
PASSING = {
    "LOADING": "it is still reading its data: wait",
    "READONLY": "it is a replica and only reads: let the URL lead to the primary",
    "MISCONF": "it can't write to its disk and refuses changes: look at its log and its free space",
    "OOM": "it has reached its maxmemory and refuses changes: raise maxmemory, or keep less history",
    "NOREPLICAS": "too few of its replicas are there (min-replicas-to-write)",
    "MASTERDOWN": "its primary does not answer",
    "CLUSTERDOWN": "its cluster is not complete",
    "TRYAGAIN": "its cluster is moving keys",
    "MOVED": "its cluster is moving keys",
    "BUSY": "it is busy with another script",
    "UNKILLABLE": "it is busy with another script",
}
_WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(PASSING)})(?![A-Za-z])")


def connect(
    url: str,
    *,
    connections: int = 20,
    answer_seconds: float = ANSWER_SECONDS,
    texts: bool = True,
    ca_file: str | None = None,
) -> "redis.Redis":
    """A pool that connects when first used, with a time limit on everything and no retries of its own.

    A script whose reply was lost may have been carried out: only the caller knows whether it may be sent again.
    Answers are texts, or bytes. rediss:// wants a certificate that is valid and bears the server's name; those in
    `ca_file`, and those that the system trusts, vouch for it.
    Raises ConfigurationError for a URL that is not one of Redis.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError("the address of a Redis must begin with redis://, rediss:// or unix://")
    authorities = {"ssl_ca_certs": ca_file} if url.startswith("rediss://") and ca_file else {}
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            **authorities,
            max_connections=connections,
            timeout=answer_seconds,
            socket_connect_timeout=min(CONNECT_SECONDS, answer_seconds),
            socket_timeout=answer_seconds,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 0),
            decode_responses=texts,
            client_name="gnomon",
        )
        return redis.Redis(connection_pool=pool)
    except (ValueError, TypeError) as error:  # their texts may hold the password
        raise ConfigurationError("the address of a Redis is not a URL: write redis://:password@host:6379/0") from error


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's passing troubles into Unavailable; lets defects through as they are."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise Unavailable("Redis refuses our password: set the one it knows") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable(f"Redis does not answer: {passing_reason(error) or _first_line(error)}") from error
    except redis.ResponseError as error:
        if reason := passing_reason(error):
            raise Unavailable(f"Redis does not serve: {reason}") from error
        raise


def passing_reason(error: redis.RedisError) -> str | None:
    """Why the same call may succeed later, and what to do for it; None for what is not known to pass."""
    for kind, word in (
        (redis.BusyLoadingError, "LOADING"),
        (redis.ReadOnlyError, "READONLY"),
        (redis.OutOfMemoryError, "OOM"),
        (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
        (redis.exceptions.MasterDownError, "MASTERDOWN"),
        (redis.exceptions.TryAgainError, "TRYAGAIN"),
        (redis.exceptions.MovedError, "MOVED"),
    ):
        if isinstance(error, kind):
            return PASSING[word]
    found = _WORD.search(str(error))
    return PASSING[found.group(1)] if found else None


def check_server(client: "redis.Redis") -> None:
    """Refuses a server that can't do what the store needs, and warns of one that may lose what it was given.

    Raises ConfigurationError for a password or a right that is missing and for an old version, Unavailable while the
    server is away.
    """
    try:
        with translated():
            client.ping()
            info = _information(client)
    except Unavailable as error:
        if isinstance(error.__cause__, redis.AuthenticationError):
            raise ConfigurationError("Redis refuses our password: write redis://user:password@host:6379/0") from error
        raise
    except redis.exceptions.NoPermissionError as error:
        raise ConfigurationError("Redis lets our user do too little: grant it +@all on its keys") from error
    except redis.ResponseError as error:
        raise ConfigurationError(f"Redis refuses us: {_first_line(error)}") from error
    version = tuple(int(part) for part in str(info.get("redis_version", "7.0")).split(".")[:2])
    if version < OLDEST_VERSION:
        raise ConfigurationError(f"Redis {info['redis_version']} is too old: 6.2 or later is needed")
    for warning in durability_warnings(info):
        log.warning("%s", warning)


def durability_warnings(info: Mapping[str, Any]) -> list[str]:
    """What may be lost, and the setting that ends it."""
    found = []
    policy = info.get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        found.append(
            f"Redis evicts keys when its memory is full (maxmemory-policy {policy}): jobs and executions may vanish "
            "without a trace. Set maxmemory-policy noeviction"
        )
    if info.get("aof_enabled") == 0:
        found.append(
            "Redis keeps no append-only file: what was stored since its last snapshot, or everything, is lost when it "
            "restarts. Set appendonly yes, and appendfsync always where no acknowledged change may be lost"
        )
    return found


def _information(client: "redis.Redis") -> dict[str, Any]:
    try:
        return {**client.info("server"), **client.info("memory"), **client.info("persistence")}
    except redis.exceptions.NoPermissionError:
        log.info("INFO is not allowed here: whether Redis keeps what it is given is not known")
        return {}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
