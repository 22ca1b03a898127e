"""Definitions as rows of the database."""

from gnomon.job.document import read_definition
from gnomon.storage.postgres.rows import DEFINED, definition_columns


def test_columns_that_are_written_are_those_that_a_definition_decides() -> None:
    """One that is left out of either would keep what an older revision said."""
    document = {"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "https://example.com/"}}
    assert tuple(definition_columns(read_definition(document))) == DEFINED
