"""Durations as people write them ("90s", "1h30m", "2d"), and the clock."""

import re
from datetime import UTC, datetime, timedelta

from gnomon.job.errors import ConfigurationError

PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d|w)", re.ASCII)
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Duration = timedelta | float | str


def read_duration(value: Duration) -> timedelta:
    """A timedelta, a number of seconds, or a text like "1h30m". Raises ConfigurationError."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        parts = PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ConfigurationError(f"{value[:40]!r} is not a duration: write it like 90s, 5m, 1h30m or 2d")
        return timedelta(seconds=sum(float(number) * UNITS[unit] for number, unit in parts))
    try:
        return timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{value!r} is not a duration: give a timedelta, seconds, or a text like 5m"
        ) from error


def utc_now() -> datetime:
    """The clock of the store in memory."""
    return datetime.now(UTC)
