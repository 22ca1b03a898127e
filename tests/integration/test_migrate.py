"""The schema: any number of processes may bring it up to date at once, and it is what tables.py says."""

import threading
from collections.abc import Iterator

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import make_url, text

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.errors import ConfigurationError, Unavailable
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


def test_tables_live_in_the_schema_that_is_named_and_leave_others_alone(database_url: str) -> None:
    for schema in ("one", "another"):
        migrate(database_url, schema=schema)
    engine = create_engine(database_url, schema="one")
    require_latest(engine)
    with engine.begin() as connection:
        connection.execute(text("insert into job_events (job_id, action, revision) values (gen_random_uuid(), 'X', 1)"))
        counts = [
            connection.execute(text(f"select count(*) from {schema}.job_events")).scalar_one()
            for schema in ("one", "another", "public")
        ]
    engine.dispose()
    assert counts == [1, 0, 0]


def test_schema_that_exists_needs_no_right_to_create_it(database_url: str, postgres: EmbeddedPostgres) -> None:
    _administer(postgres, "create role guest login password 'guest'")
    admin = create_engine(database_url)
    with admin.begin() as connection:
        connection.execute(text("create schema given authorization guest"))
    admin.dispose()
    as_guest = make_url(database_url).set(username="guest", password="guest").render_as_string(hide_password=False)
    migrate(as_guest, schema="given")
    engine = create_engine(as_guest, schema="given")
    require_latest(engine)
    engine.dispose()


def test_schema_of_a_newer_program_is_not_touched(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigurationError, match="9999"):
        migrate(database_url)
