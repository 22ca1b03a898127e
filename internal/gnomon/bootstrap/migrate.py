"""The command that brings the database's schema up to date."""

from gnomon.bootstrap.logs import start_logging
from gnomon.settings import Settings
from gnomon.storage.postgres.migrate import migrate


def run(settings: Settings) -> int:
    """Returns the exit code; raises Unavailable when the database does not answer."""
    start_logging(settings, role="migrate")
    migrate(settings.database_url())
    return 0
