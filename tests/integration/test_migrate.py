"""The schema: any number of processes may bring it up to date at once, and it is what tables.py says."""

import threading
from collections.abc import Iterator

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.errors import Unavailable
from gnomon.storage.postgres.engine import create_engine
from gnomon.storage.postgres.migrate import migrate, require_latest
from gnomon.storage.postgres.tables import metadata


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without any table."""
    postgres.start()
    _administer(postgres, "create database empty_one")
    yield postgres.url_of("empty_one")
    _administer(postgres, "drop database empty_one with (force)")


def _administer(postgres: EmbeddedPostgres, statement: str) -> None:
    connection = psycopg2.connect(postgres.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_ten_processes_may_migrate_at_once(empty_database_url: str) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            migrate(empty_database_url)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    engine = create_engine(empty_database_url)
    require_latest(engine)
    engine.dispose()


def test_old_schema_is_named_with_the_command_that_mends_it(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with pytest.raises(Unavailable, match="gnomon migrate"):
        require_latest(engine)
    engine.dispose()


def test_migrated_schema_is_the_one_that_the_code_describes(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
