"""What every case lies on: the servers, started once per run, and ways to a fresh database, broker and stack."""

import contextlib
import itertools
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg2
import redis
from servers.rabbitmq import RabbitMQ
from support.cluster import Cluster, Role, cluster, wait_until
from support.world import World

from bench.sink import Sink
from bench.usage import Meter, Usage, usage
from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.processes import Server
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.storage.postgres.migrate import migrate

Made = TypeVar("Made")
S = TypeVar("S", bound=Server)

ROOT = Path(__file__).parents[1]
# of the bench's own environment, where peers and matplotlib are
PYTHON = ROOT / "bench/.venv/bin/python"
_TEMPLATE = "template_gnomon"
_READY_SECONDS = 300.0  # on a machine that is busy with something else; it takes two
# What is set on any server that does work. Commits wait for the disk (fsync and synchronous_commit are on), full pages
# are written, autovacuum runs: as Postgres comes.
POSTGRES = {"max_connections": "300", "shared_buffers": "1GB", "max_wal_size": "4GB"}

# For a scheduler that creates executions at their moment, and not before.
NO_LOOK_AHEAD = {"SCHEDULER_SCHEDULER_AHEAD": "0s"}


class Bed:
    """`with Bed() as bed:` A server is started when it is first asked for, and stopped at the end."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._kept: dict[str, Any] = {}
        self._group = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.drop_kept()
        finally:
            self._opened.close()

    @cached_property
    def postgres(self) -> EmbeddedPostgres:
        server = EmbeddedPostgres(self.folder / "postgres", fsync=True, settings=POSTGRES)
        self._start(server)
        _administer(server, f"CREATE DATABASE {_TEMPLATE}")
        migrate(server.url_of(_TEMPLATE))
        return server

    @cached_property
    def valkey(self) -> EmbeddedValkey:
        return self._start(EmbeddedValkey(None))

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        return self._start(RabbitMQ(self.folder / "rabbitmq"))

    @cached_property
    def sink(self) -> Sink:
        return self._start(Sink(self.folder / "sink"))

    @property
    def peers_python(self) -> Path:
        """The interpreter that has the peers."""
        return PYTHON

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a fresh database, with Gnomon's tables or empty."""
        server = self.postgres
        name = f"bench_{next(self._numbers)}"
        _administer(server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if migrated else 'template1'}")
        try:
            yield server.url_of(name)
        finally:
            _administer(server, f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def world(self, database_url: str) -> Iterator[World]:
        """A database seen through the product's own stores and the API's service."""
        opened = World(database_url)
        try:
            yield opened
        finally:
            opened.close()

    @contextlib.contextmanager
    def queue(self, broker: str) -> Iterator[str]:
        """The URL of an empty broker: "redis" (Valkey, emptied) or "rabbitmq" (a fresh vhost)."""
        if broker == "redis":
            with redis.Redis.from_url(self.valkey.url) as client:
                client.flushall()
            yield self.valkey.url
            return
        name = f"bench_{next(self._numbers)}"
        url = self.rabbitmq.add_vhost(name)
        try:
            yield url
        finally:
            self.rabbitmq.delete_vhost(name)

    @contextlib.contextmanager
    def stack(self, *, database_url: str, queue_url: str, **settings: str) -> Iterator["Stack"]:
        """Gnomon's own processes. `settings` are environment variables for all of them (SCHEDULER_…)."""
        folder = self.folder / f"stack-{next(self._numbers)}"
        folder.mkdir()
        with cluster(database_url=database_url, queue_url=queue_url, folder=folder, **settings) as started:
            yield Stack(self, started)

    def keep(self, key: str, make: Callable[[], AbstractContextManager[Made]]) -> Made:
        """What several cases or rounds share (a seeded database): made once, ended with the group of cases."""
        if key not in self._kept:
            self._kept[key] = self._group.enter_context(make())
        kept: Made = self._kept[key]
        return kept

    def drop_kept(self) -> None:
        """Ends what was kept; for whoever runs the cases."""
        self._kept.clear()
        self._group.close()

    def servers(self) -> dict[str, int]:
        """The process of each server that runs."""
        started = {name: vars(self)[name] for name in ("postgres", "valkey", "rabbitmq", "sink") if name in vars(self)}
        return {name: server.pid for name, server in started.items() if server.pid}

    def versions(self) -> dict[str, str]:
        """Of each server that runs."""
        told: dict[str, Callable[[], str]] = {
            "postgres": self._version_of_postgres,
            "valkey": self._version_of_valkey,
            "rabbitmq": lambda: self.rabbitmq.evaluate("rabbit_misc:version()").strip('"'),
            "sink": lambda: f"nginx {self.sink.version()}",
        }
        return {name: told[name]() for name in self.servers()}

    def _version_of_postgres(self) -> str:
        with contextlib.closing(psycopg2.connect(self.postgres.url_of("postgres"))) as session:
            return str(session.get_parameter_status("server_version")).split()[0]

    def _version_of_valkey(self) -> str:
        with redis.Redis.from_url(self.valkey.url) as client:
            told = client.info("server")
        return str(told.get("valkey_version", told["redis_version"]))

    def _start(self, server: S) -> S:
        self._opened.enter_context(server)
        return server


class Stack:
    """Gnomon's processes of one case."""

    def __init__(self, bed: Bed, started: Cluster) -> None:
        self._bed = bed
        self._cluster = started

    def start_ready(self, *roles: str, **settings: str) -> list[Role]:
        """Several at once ("scheduler", "worker"), all ready when it returns."""
        started = [self._cluster.start(role, **settings) for role in roles]
        for role in started:
            role.wait_ready(_READY_SECONDS)
        return started

    def start_api(self) -> str:
        """One that answers; its URL."""
        address = f"{LOOPBACK}:{free_port()}"
        started = self._cluster.start("api", SCHEDULER_WEB_API_HOST=address)
        url = f"http://{address}"
        wait_until(f"{started.name} answers", lambda: _is_served(f"{url}/v1/health/ready"), seconds=_READY_SECONDS)
        return url

    @property
    def processes(self) -> dict[str, int]:
        """The process of each that was started: scheduler-1, worker-2."""
        return {role.name: role.pid for role in self._cluster.roles}

    def usage(self) -> dict[str, Usage]:
        """What each has used since its start."""
        return {name: usage(pid) for name, pid in self.processes.items()}

    def meter(self) -> Meter:
        """From now on: CPU seconds of each process and of each server."""
        return Meter({**self.processes, **self._bed.servers()})


def _is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def _administer(server: EmbeddedPostgres, statement: str) -> None:
    with contextlib.closing(psycopg2.connect(server.url_of("postgres"))) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(statement)
