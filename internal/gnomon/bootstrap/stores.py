"""From a URL to the stores behind it, for processes that keep their jobs there: what the library runs on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from gnomon.job.address import travels_in_clear
from gnomon.job.database_url import driver_url
from gnomon.job.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Engine

    from gnomon.job.instance import Identity
    from gnomon.job.ports import (
        Clock,
        DispatchStore,
        ExecutionStore,
        HistoryStore,
        HousekeepingStore,
        InstanceStore,
        JobStore,
        RunStore,
        Waker,
    )

    Names = Callable[[], Collection[str]]

KINDS = {
    "memory": "memory",
    "redis": "redis",
    "rediss": "redis",
    "postgresql": "postgres",
    "postgres": "postgres",
    "postgresql+psycopg2": "postgres",
}
EXAMPLES = "memory://, rediss://host:6379/0 or postgresql://user@host:5432/name"
NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")
RESERVED = ("public", "information_schema")  # the service's own tables are in the former


@dataclass(frozen=True, kw_only=True)
class House:
    """What is needed to keep house. One process of all that share a store does: the earliest that lives."""

    identity: Identity
    instances: InstanceStore
    housekeeping: HousekeepingStore


@dataclass(frozen=True, kw_only=True)
class Stores:
    """One store seen through each port, and what wakes a scheduler that sleeps. `close` ends all connections.

    `house`: how history is bounded, where that is not done by the store itself.
    """

    jobs: JobStore
    runs: RunStore
    history: HistoryStore
    dispatch: DispatchStore
    executions: ExecutionStore
    waker: Waker
    close: Callable[[], None]
    house: House | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a process does at a time, and how soon others notice that it is gone.

    `interval` is the longest sleep between looks at the store.
    """

    concurrency: int
    lease: timedelta
    interval: timedelta


def check_url(url: str) -> str:
    """The kind of store that is meant. Raises ConfigurationError, which repeats nothing of what may be secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError):  # their texts may hold a part of the password
        raise ConfigurationError(
            f"the store's URL can't be read: write {EXAMPLES}, and percent-encode what is special in a password"
        ) from None
    kind = KINDS.get(parts.scheme)
    if kind is None:
        named = f"{parts.scheme}:// is no store known here" if "://" in url else "the store is not given as a URL"
        raise ConfigurationError(f"{named}: write {EXAMPLES}")
    if kind == "memory" and url.rstrip("/") != "memory:":
        raise ConfigurationError("memory:// takes nothing behind it: each Scheduler has a memory of its own")
    if kind != "memory" and port == 0:
        raise ConfigurationError(f"the store's URL names port 0: write {EXAMPLES}")
    if kind == "postgres" and not parts.path.strip("/"):
        raise ConfigurationError("the store's URL names no database: write postgresql://user@host:5432/name")
    return kind


def secured_url(url: str, *, disable_tls: bool, ca_file: str | None) -> str:
    """The store's URL with all that TLS needs where it leads to another machine, as `disable_tls` does not forbid.

    Raises ConfigurationError, also for a Redis there without TLS.
    """
    kind = check_url(url)
    if kind == "postgres":
        return driver_url(url, password=None, disable_tls=disable_tls, authorities=ca_file)
    if travels_in_clear(url) and not disable_tls:
        raise ConfigurationError(
            "the store's URL leads to another machine without TLS: write rediss://, or disable_tls=True where the"
            " network itself is trusted"
        )
    if url.startswith("rediss:") and ca_file is not None:
        return f"{url}{'&' if '?' in url else '?'}{urlencode({'ssl_ca_certs': ca_file}, safe='/')}"
    return url


def check_namespace(namespace: str) -> str:
    """A plain identifier, which can be a schema's name and part of a key. Raises ConfigurationError."""
    if not NAMESPACE.fullmatch(namespace) or namespace in RESERVED or namespace.startswith("pg_"):
        raise ConfigurationError(
            f"{namespace[:80]!r} can't be a namespace: write a letter, then up to 47 small letters, digits and '_'; "
            f"not {', '.join(RESERVED)} or pg_…"
        )
    return namespace


def open_stores(url: str, *, namespace: str, names: Names, worker: str, clock: Clock) -> Stores:
    """Connects and creates what is missing there. Only jobs of `names` are dispatched; `worker` stands in executions.

    Raises ConfigurationError and Unavailable. `clock` is that of the store in memory; the others have their own.
    """
    kind = check_url(url)
    try:
        if kind == "memory":
            return _memory(names, worker, clock)
        if kind == "redis":
            return _redis(url, namespace, names, worker)
        return _postgres(url, namespace, names, worker)
    except ImportError as error:
        raise ConfigurationError(f"a store of kind {kind} needs the Python package {error.name}: install it") from error


def _memory(names: Names, worker: str, clock: Clock) -> Stores:
    from gnomon.storage.memory.dispatch import MemoryDispatchStore
    from gnomon.storage.memory.executions import MemoryExecutionStore
    from gnomon.storage.memory.history import MemoryHistoryStore
    from gnomon.storage.memory.jobs import MemoryJobStore
    from gnomon.storage.memory.runs import MemoryRunStore
    from gnomon.storage.memory.state import Memory
    from gnomon.storage.memory.waker import MemoryWaker

    memory = Memory(clock=clock)
    return Stores(
        jobs=MemoryJobStore(memory),
        runs=MemoryRunStore(memory),
        history=MemoryHistoryStore(memory),
        dispatch=MemoryDispatchStore(memory, names=names),
        executions=MemoryExecutionStore(memory, worker=worker),
        waker=MemoryWaker(memory),
        close=lambda: None,
    )


def _redis(url: str, namespace: str, names: Names, worker: str) -> Stores:
    from gnomon.storage.redis.client import connect
    from gnomon.storage.redis.database import RedisDatabase
    from gnomon.storage.redis.dispatch import RedisDispatchStore
    from gnomon.storage.redis.executions import RedisExecutionStore
    from gnomon.storage.redis.history import RedisHistoryStore
    from gnomon.storage.redis.jobs import RedisJobStore
    from gnomon.storage.redis.runs import RedisRunStore
    from gnomon.storage.redis.waker import RedisWaker

    database = RedisDatabase(connect(url), namespace=namespace)
    database.open()
    waker = RedisWaker(database)

    def close() -> None:
        waker.close()
        database.close()

    return Stores(
        jobs=RedisJobStore(database),
        runs=RedisRunStore(database),
        history=RedisHistoryStore(database),
        dispatch=RedisDispatchStore(database, names=names),
        executions=RedisExecutionStore(database, worker=worker),
        waker=waker,
        close=close,
    )


def _postgres(url: str, namespace: str, names: Names, worker: str) -> Stores:
    from gnomon.storage.postgres.dispatch import PostgresDispatchStore
    from gnomon.storage.postgres.engine import create_engine
    from gnomon.storage.postgres.executions import PostgresExecutionStore
    from gnomon.storage.postgres.history import PostgresHistoryStore
    from gnomon.storage.postgres.housekeeping import PostgresHousekeepingStore
    from gnomon.storage.postgres.instances import PostgresInstanceStore
    from gnomon.storage.postgres.jobs import PostgresJobStore
    from gnomon.storage.postgres.runs import PostgresRunStore
    from gnomon.storage.postgres.waker import PostgresWaker

    engine = create_engine(url, check_first=True, schema=namespace)
    _migrate(url, engine, namespace)
    waker = PostgresWaker(engine)
    identity = _identity(worker)

    def close() -> None:
        waker.close()
        engine.dispose()

    return Stores(
        jobs=PostgresJobStore(engine),
        runs=PostgresRunStore(engine),
        history=PostgresHistoryStore(engine),
        dispatch=PostgresDispatchStore(engine, instance=identity.id, names=names),
        executions=PostgresExecutionStore(engine, instance=identity.id, worker=worker),
        waker=waker,
        close=close,
        house=House(
            identity=identity,
            instances=PostgresInstanceStore(engine),
            housekeeping=PostgresHousekeepingStore(engine),
        ),
    )


def _identity(worker: str) -> Identity:
    from gnomon import __version__
    from gnomon.job.instance import Identity, Role

    return Identity(
        id=uuid4(), name=worker, role=Role.SCHEDULER, host=gethostname(), pid=os.getpid(), version=__version__
    )


def _migrate(url: str, engine: Engine, namespace: str) -> None:
    """Where the tables are as they should be, no right to change them is needed."""
    from gnomon.storage.postgres.migrate import latest_version, migrate, schema_version

    if schema_version(engine) != latest_version():
        migrate(url, schema=namespace)
