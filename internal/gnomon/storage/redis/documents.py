"""Rows of Redis as values of the courtyard, and back."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gnomon.job.errors import InvalidJob
from gnomon.job.model import (
    Attempt,
    Definition,
    Execution,
    Job,
    JobStatus,
    Misfire,
    MisfirePolicy,
    State,
    Trigger,
)
from gnomon.job.plan import DueJob
from gnomon.job.schedule import At, Cron, Every, Schedule, Timing
from gnomon.job.stored import read_stored, write_stored
from gnomon.job.target import type_of
from gnomon.storage.redis.database import instant, mapping, micros, optional_instant


def write_document(definition: Definition) -> str:
    """What is stored of a revision."""
    return json.dumps(write_stored(definition), separators=(",", ":"))


def read_document(text: str | None) -> Definition | str:
    """The definition, or why it can't be read: maybe another version, or another hand, wrote it."""
    try:
        return read_stored(json.loads(text or ""))
    except InvalidJob as error:
        return str(error)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return type(error).__name__


def job_columns(definition: Definition) -> dict[str, Any]:
    """What dispatch and lists read without opening the definition."""
    columns = {
        "name": definition.name,
        "type": type_of(definition.target),
        "queue": definition.target.queue,
        "overlap": definition.overlap.value,
        "max_attempts": definition.retry.max_attempts,
        "tags": json.dumps(list(definition.tags)),
        "timing": json.dumps(_timing_columns(definition), default=micros),
    }
    return {name: value for name, value in columns.items() if value is not None}


def _timing_columns(definition: Definition) -> dict[str, Any]:
    timing = definition.timing
    columns: dict[str, Any] = {
        "starts_at": timing.starts_at,
        "ends_at": timing.ends_at,
        "spread_seconds": timing.spread_seconds,
        "misfire_policy": definition.misfire.policy.value,
        "misfire_grace_seconds": definition.misfire.grace.total_seconds(),
        "misfire_limit": definition.misfire.limit,
    }
    match timing.schedule:
        case Cron(expression=expression, timezone=timezone):
            return columns | {"cron_schedule": expression, "timezone": timezone}
        case Every(seconds=seconds, anchor_at=anchor_at):
            return columns | {"interval_seconds": seconds, "anchor_at": anchor_at}
        case At(at=at):
            return columns | {"execute_at": at}


def read_due_job(job_id: UUID, *, revision: str, next_run: str, misfires_run: str | None, timing: str) -> DueJob:
    """What dispatch plans with. Raises whatever a row raises that was written by another hand."""
    columns = json.loads(timing)
    return DueJob(
        id=job_id,
        revision=int(revision),
        timing=Timing(
            schedule=_schedule(columns),
            starts_at=_moment(columns["starts_at"]),
            ends_at=_moment(columns["ends_at"]),
            spread_seconds=columns["spread_seconds"],
        ),
        misfire=Misfire(
            policy=MisfirePolicy(columns["misfire_policy"]),
            grace=timedelta(seconds=columns["misfire_grace_seconds"]),
            limit=columns["misfire_limit"],
        ),
        next_run=instant(next_run),
        misfires_run=int(misfires_run or 0),
    )


def _schedule(columns: Mapping[str, Any]) -> Schedule:
    if "cron_schedule" in columns:
        return Cron(columns["cron_schedule"], columns["timezone"])
    if "interval_seconds" in columns:
        return Every(columns["interval_seconds"], instant(columns["anchor_at"]))
    return At(instant(columns["execute_at"]))


def _moment(value: int | None) -> datetime | None:
    return None if value is None else instant(str(value))


def read_job(shown: Sequence[Any]) -> Job:
    """Of what `shown_job` of common.lua answers."""
    job_id, flat, document, lease = shown
    row = mapping(flat)
    stored = read_document(document)
    locked_by, locked_until = lease or (None, None)
    return Job(
        id=UUID(job_id),
        definition=stored if isinstance(stored, Definition) else None,
        unreadable=None if isinstance(stored, Definition) else stored,
        name=row.get("name"),
        kind=row["type"],
        tags=tuple(json.loads(row["tags"])),
        status=JobStatus(row["status"]),
        revision=int(row["revision"]),
        next_run=optional_instant(row.get("next_run")),
        created_at=instant(row["created_at"]),
        updated_at=instant(row["updated_at"]),
        held_until=optional_instant(row.get("held_until")),
        hold_reason=row.get("hold_reason"),
        pause_reason=row.get("pause_reason"),
        paused_until=optional_instant(row.get("paused_until")),
        last_run=optional_instant(row.get("last_run")),
        locked_by=locked_by,
        locked_until=optional_instant(locked_until),
    )


def job_version(shown: Sequence[Any]) -> str:
    """What a decision about this job is written against."""
    return mapping(shown[1])["version"]


def read_execution(shown: Sequence[Any]) -> Execution:
    """Of what `shown_execution` of common.lua answers."""
    execution_id, flat, tried = shown
    row = mapping(flat)
    return Execution(
        id=UUID(execution_id),
        job_id=UUID(row["job_id"]),
        revision=int(row["revision"]),
        scheduled_at=instant(row["scheduled_at"]),
        trigger=Trigger(row["trigger"]),
        state=State(row["state"]),
        attempt=int(row["attempt"]),
        failures=int(row["failures"]),
        max_attempts=int(row["max_attempts"]),
        created_at=instant(row["created_at"]),
        available_at=instant(row["available_at"]),
        first_started_at=optional_instant(row.get("first_started_at")),
        claimed_at=optional_instant(row.get("claimed_at")),
        finished_at=optional_instant(row.get("finished_at")),
        cancel_requested_at=optional_instant(row.get("cancel_requested_at")),
        error_code=row.get("error_code"),
        error_message=row.get("error_message"),
        response_status=None if row.get("response_status") is None else int(row["response_status"]),
        response_excerpt=row.get("response_excerpt"),
        worker=row.get("worker"),
        skipped_count=int(row["skipped_count"]),
        skipped_until=optional_instant(row.get("skipped_until")),
        repeats=None if row.get("repeats") is None else UUID(row["repeats"]),
        attempts=tuple(_read_attempt(json.loads(entry)) for entry in tried),
    )


def _read_attempt(entry: Mapping[str, Any]) -> Attempt:
    return Attempt(
        attempt=entry["attempt"],
        worker=entry.get("worker"),
        claimed_at=optional_instant(entry.get("claimed_at")),
        finished_at=instant(entry["finished_at"]),
        outcome=entry["outcome"],
        error_code=entry.get("error_code"),
        error_message=entry.get("error_message"),
        response_status=entry.get("response_status"),
    )
