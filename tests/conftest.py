"""The servers, one of each per test session, started when a test first asks; real ones, private, gone at the end.

`database_url` is a fresh, migrated database for each test; `redis_url` an emptied Valkey; `rabbitmq_url` a fresh vhost;
`queue_url` runs the test on both brokers. A server a test killed is up again for the next one.
What can't be had is skipped with its reason; with CI=true in the environment that is a failure.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from servers.rabbitmq import RabbitMQ
from servers.target import Target
from support.missing import give_up
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import ConfigurationError

_TEMPLATE = "template_gnomon"
_numbers = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a long test begin first: none is left to run alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tests that run side by side send their reports over a line that takes no half characters."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """Where the session's servers keep their files; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="gnomon-tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """One Postgres for the session, without fsync. Tests may kill it."""
    server = EmbeddedPostgres(server_dir / "postgres", fsync=False, settings={"max_connections": "300"})
    start_or_skip(server.start)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database to copy."""
    from gnomon.storage.postgres.migrate import migrate

    _administer(postgres, f"CREATE DATABASE {_TEMPLATE}")
    migrate(postgres.url_of(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, _template: str) -> Iterator[str]:
    """A fresh database with the current schema."""
    postgres.start()
    name = f"test_{next(_numbers)}"
    _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {_template}")
    yield postgres.url_of(name)
    postgres.start()
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """That database seen through every store."""
    opened = World(database_url)
    yield opened
    opened.close()


@pytest.fixture
def target() -> Iterator[Target]:
    """An HTTP server that remembers its calls and answers as told."""
    with Target() as started:
        yield started


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """One Valkey for the session, nothing kept on disk. Tests may kill it."""
    server = EmbeddedValkey(None)
    start_or_skip(server.start)
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """The session's Valkey, emptied."""
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def rabbitmq(server_dir: Path) -> Iterator[RabbitMQ]:
    """One RabbitMQ for the session. Tests may kill it."""
    server = RabbitMQ(server_dir / "rabbitmq")
    start_or_skip(server.start)
    yield server
    server.stop()


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ) -> Iterator[str]:
    """A fresh vhost."""
    rabbitmq.start()
    name = f"test_{next(_numbers)}"
    yield rabbitmq.add_vhost(name)
    rabbitmq.start()
    rabbitmq.delete_vhost(name)


@pytest.fixture(params=["redis", "rabbitmq"])
def queue_url(request: pytest.FixtureRequest) -> str:
    """The broker's URL; the test runs once on each broker."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def start_or_skip(start: Callable[[], None]) -> None:
    """Start a server; when this machine can't have it, skip the test, or fail it under CI."""
    try:
        start()
    except ConfigurationError as error:
        give_up(f"SERVER MISSING: {error}")


def _administer(postgres: EmbeddedPostgres, statement: str) -> None:
    with contextlib.closing(psycopg2.connect(postgres.url_of("postgres"))) as session, session.cursor() as cursor:
        session.autocommit = True
        cursor.execute(statement)
