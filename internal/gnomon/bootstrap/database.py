"""The pool of database connections a process works with, as the settings want it."""

from sqlalchemy import Engine

from gnomon.settings import Settings
from gnomon.storage.postgres.engine import create_engine


def open_engine(settings: Settings, *, check_first: bool = False, by_index: bool = False) -> Engine:
    """Connects when first used. Raises ConfigurationError for an address that is none."""
    return create_engine(
        settings.database_url(),
        pool_size=settings.db.max_idle_conns,
        max_open=settings.db.max_open_conns,
        check_first=check_first,
        by_index=by_index,
    )
