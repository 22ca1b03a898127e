"""Rows of the database as values of the courtyard, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from gnomon.job.errors import InvalidJob
from gnomon.job.model import Definition
from gnomon.job.schedule import At, Cron, Every, Schedule, Timing
from gnomon.job.stored import read_stored, write_stored
from gnomon.job.target import type_of

# The columns of `jobs` that a definition decides: what dispatch and lists read without opening it.
DEFINED = (
    "name",
    "type",
    "queue",
    "cron_schedule",
    "interval_seconds",
    "anchor_at",
    "execute_at",
    "timezone",
    "starts_at",
    "ends_at",
    "spread_seconds",
    "misfire_policy",
    "misfire_grace_seconds",
    "misfire_limit",
    "overlap",
    "max_attempts",
    "tags",
)


def read_timing(row: Row[Any]) -> Timing:
    """The timing that the schedule columns of `jobs` describe."""
    schedule = _schedule(row.cron_schedule, row.timezone, row.interval_seconds, row.anchor_at, row.execute_at)
    return _timing(schedule, row.starts_at, row.ends_at, row.spread_seconds)


@lru_cache(maxsize=4096)
def _schedule(
    cron: str | None, timezone: str, seconds: int | None, anchor_at: datetime | None, execute_at: datetime | None
) -> Schedule:
    if cron is not None:
        return Cron(cron, timezone)
    if seconds is not None and anchor_at is not None:
        return Every(seconds, anchor_at)
    assert execute_at is not None
    return At(execute_at)


@lru_cache(maxsize=4096)
def _timing(schedule: Schedule, starts_at: datetime | None, ends_at: datetime | None, spread_seconds: int) -> Timing:
    return Timing(schedule=schedule, starts_at=starts_at, ends_at=ends_at, spread_seconds=spread_seconds)


@dataclass(frozen=True)
class Unreadable:
    """What is stored is no definition that this version knows. The reason shows nothing of it but names of fields."""

    reason: str


def read_stored_definition(document: Mapping[str, Any]) -> Definition | Unreadable:
    """What `definition_document` made, maybe in another version, or by another hand."""
    try:
        return read_stored(document)
    except InvalidJob as error:
        return Unreadable(str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return Unreadable(type(error).__name__)


def definition_columns(definition: Definition) -> dict[str, Any]:
    """A value for each of DEFINED."""
    schedule = definition.timing.schedule
    return {
        "name": definition.name,
        "type": type_of(definition.target),
        "queue": definition.target.queue,
        "cron_schedule": schedule.expression if isinstance(schedule, Cron) else None,
        "interval_seconds": schedule.seconds if isinstance(schedule, Every) else None,
        "anchor_at": schedule.anchor_at if isinstance(schedule, Every) else None,
        "execute_at": schedule.at if isinstance(schedule, At) else None,
        "timezone": schedule.timezone if isinstance(schedule, Cron) else "UTC",
        "starts_at": definition.timing.starts_at,
        "ends_at": definition.timing.ends_at,
        "spread_seconds": definition.timing.spread_seconds,
        "misfire_policy": definition.misfire.policy.value,
        "misfire_grace_seconds": definition.misfire.grace.total_seconds(),
        "misfire_limit": definition.misfire.limit,
        "overlap": definition.overlap.value,
        "max_attempts": definition.retry.max_attempts,
        "tags": list(definition.tags),
    }


def definition_document(definition: Definition) -> dict[str, Any]:
    """What `job_revisions.definition` holds."""
    return write_stored(definition)
