"""Rows of the database as values of the courtyard, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    return Timing(
        schedule=_read_schedule(row),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        spread_seconds=row.spread_seconds,
    )


def _read_schedule(row: Row[Any]) -> Schedule:
    if row.cron_schedule is not None:
        return Cron(row.cron_schedule, row.timezone)
    if row.interval_seconds is not None:
        return Every(row.interval_seconds, row.anchor_at)
    return At(row.execute_at)


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
