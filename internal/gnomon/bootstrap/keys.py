"""API keys, for the command line and for the API's start."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from gnomon.bootstrap.database import open_engine
from gnomon.job.api_key import ApiKey, NewKey, make_key, read_key, to_store
from gnomon.job.ports import KeyStore
from gnomon.job.principal import Role
from gnomon.settings import Settings
from gnomon.storage.postgres.api_keys import PostgresKeyStore
from gnomon.storage.postgres.migrate import require_latest


@contextmanager
def open_keys(settings: Settings) -> Iterator[KeyStore]:
    """The keys in the database. Raises Unavailable where it does not answer or is not migrated."""
    engine = open_engine(settings)
    try:
        require_latest(engine)
        yield PostgresKeyStore(engine)
    finally:
        engine.dispose()


def create_key(store: KeyStore, *, name: str, role: Role, expires_at: datetime | None, by: str) -> tuple[str, ApiKey]:
    """The key itself, which can't be had again, and how it is stored. Raises NameTaken."""
    key = make_key()
    return key.text, store.add(to_store(key, name=name, role=role, expires_at=expires_at, created_by=by))


def keys_of_settings(settings: Settings) -> Sequence[NewKey]:
    """Those that the API brings along."""
    auth = settings.auth
    given = {("auth.admin_key", Role.ADMIN): auth.admin_key, ("auth.metrics_key", Role.METRICS): auth.metrics_key}
    brought = []
    for (name, role), text in given.items():
        key = None if text is None else read_key(text.get_secret_value().strip())
        if key is not None:
            brought.append(to_store(key, name=name, role=role, expires_at=None, created_by=name))
    return brought
