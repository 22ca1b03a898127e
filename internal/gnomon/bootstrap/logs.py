"""How a process writes its log, as the settings want it."""

import logging

from gnomon.monitoring.logs import configure_logging
from gnomon.settings import Settings


def start_logging(settings: Settings, *, role: str) -> None:
    """The first thing a process does."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # two lines for each look at the schema's version
    configure_logging(level=settings.log.level, format=settings.log.format, role=role)
