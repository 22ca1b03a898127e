"""Brings the database's schema to the version of this code. Any number of processes may do so at once.

Alembic is imported where something is migrated: services only compare two numbers, and it takes 8 MB.
"""

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Connection, Engine, text
from sqlalchemy.pool import NullPool

from gnomon.job.errors import ConfigurationError, Unavailable
from gnomon.storage.postgres.engine import autocommit, psycopg2_url, translated

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).with_name("migrations")
LOCK_KEY = 0x676E6F6D6F6E  # "gnomon": any number that other users of the database are unlikely to choose


def migrate(url: str, *, schema: str | None = None) -> None:
    """Waits for its turn, then applies what is missing. Raises Unavailable if the database does not answer.

    With `schema` (a plain identifier) the tables are there, and it is created where it is missing. Raises
    ConfigurationError where a newer program has migrated it.
    It runs in a session without the time limits of the services: a migration may take as long as it needs.
    """
    from alembic import command

    arguments: dict[str, Any] = {"connect_timeout": 5}
    if schema is not None:
        arguments["options"] = f"-c search_path={schema}"
    engine = sqlalchemy.create_engine(psycopg2_url(url), poolclass=NullPool, connect_args=arguments)
    config = _config()
    with translated(), engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        _create_schema(connection, schema)
        connection.commit()
        _refuse_newer(_version(connection))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        connection.execute(text("select pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
    log.info("the database is at schema version %s", latest_version())


def _refuse_newer(present: str | None) -> None:
    if present is not None and present not in _known_versions():
        raise ConfigurationError(
            f"the database is at schema version {present}, which this program ({latest_version()}) does not know: "
            "it was migrated by a newer one; update this program"
        )


def _create_schema(connection: Connection, schema: str | None) -> None:
    """Not with "if not exists": that asks for the right to create it even where it exists."""
    known = text("select true from pg_namespace where nspname = :schema")
    if schema is not None and connection.execute(known, {"schema": schema}).first() is None:
        connection.execute(text(f"create schema {schema}"))


@cache
def _known_versions() -> frozenset[str]:
    """Files of migrations begin with their number."""
    return frozenset(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def latest_version() -> str:
    """The schema version this code needs."""
    return max(_known_versions())


def schema_version(engine: Engine) -> str | None:
    """The one that is there; None where there are no tables of ours."""
    with translated(), autocommit(engine).connect() as connection:
        return _version(connection)


def _version(connection: Connection) -> str | None:
    if connection.execute(text("select to_regclass('alembic_version')")).scalar_one() is None:
        return None
    version: str | None = connection.execute(text("select version_num from alembic_version")).scalar_one_or_none()
    return version


def require_latest(engine: Engine) -> None:
    """Raises Unavailable, saying what to run, unless the schema is the one this code needs."""
    present = schema_version(engine)
    if present != latest_version():
        raise Unavailable(
            f"the database is at schema version {present or 'none'}, this program needs {latest_version()}: "
            "run `gnomon migrate`"
        )


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
