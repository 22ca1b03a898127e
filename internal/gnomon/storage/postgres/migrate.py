"""Brings the database's schema to the version of this code. Any number of processes may do so at once."""

import logging
from functools import cache
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.pool import NullPool

from gnomon.job.errors import Unavailable
from gnomon.storage.postgres.engine import autocommit, psycopg2_url, translated

log = logging.getLogger(__name__)

LOCK_KEY = 0x676E6F6D6F6E  # "gnomon": any number that other users of the database are unlikely to choose


def migrate(url: str) -> None:
    """Waits for its turn, then applies what is missing. Raises Unavailable if the database does not answer.

    It runs in a session without the time limits of the services: a migration may take as long as it needs.
    """
    engine = sqlalchemy.create_engine(psycopg2_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    config = _config()
    with translated(), engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        connection.execute(text("select pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
    log.info("the database is at schema version %s", latest_version())


@cache
def latest_version() -> str:
    """The schema version this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def require_latest(engine: Engine) -> None:
    """Raises Unavailable, saying what to run, unless the schema is the one this code needs."""
    with translated(), autocommit(engine).connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present != latest_version():
        raise Unavailable(
            f"the database is at schema version {present or 'none'}, this program needs {latest_version()}: "
            "run `gnomon migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config
