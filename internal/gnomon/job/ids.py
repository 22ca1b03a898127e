"""Execution ids. That of a scheduled moment follows from job and moment: the primary key is their uniqueness."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # the least moment that an id can hold
VERSION_AND_VARIANT = 7 << 76 | 2 << 62
OTHER_BITS = (1 << 76) - 1 & ~(3 << 62)


def scheduled_id(job_id: UUID, moment: datetime) -> UUID:
    """The id of the execution of `job_id` at `moment`: a UUIDv7 (RFC 9562) whose time is the moment.

    Its 74 other bits are a hash of the job and the moment in µs: inserting it twice is harmless, and ids sort by time.
    """
    return _moment_id(f"schedule:{job_id}", moment)


def backfill_id(request_id: UUID, job_id: UUID, moment: datetime) -> UUID:
    """As `scheduled_id`, for a moment that a request makes up for: repeating the request is harmless."""
    return _moment_id(f"backfill:{request_id}:{job_id}", moment)


def repeat_id(request_id: UUID, execution_id: UUID, moment: datetime) -> UUID:
    """As `scheduled_id`, for an execution that a request tries again beside others."""
    return _moment_id(f"repeat:{request_id}:{execution_id}", moment)


def manual_id(moment: datetime) -> UUID:
    """A random id that sorts by time with the others."""
    return _moment_id(f"manual:{uuid4()}", moment)


def id_bounds(moment: datetime) -> tuple[UUID, UUID]:
    """The least and the greatest id that any execution of this moment can have."""
    return UUID(int=_millis(moment) << 80), UUID(int=(_millis(moment) + 1 << 80) - 1)


def moment_of(execution_id: UUID) -> datetime:
    """The moment that an id begins with, to the millisecond."""
    return EPOCH + timedelta(milliseconds=execution_id.int >> 80)


def _moment_id(source: str, moment: datetime) -> UUID:
    micros = (moment - EPOCH) // MICROSECOND
    digest = int.from_bytes(hashlib.sha256(f"{source}:{micros}".encode()).digest()[:16])
    return UUID(int=micros // 1000 << 80 | VERSION_AND_VARIANT | digest & OTHER_BITS)


def _millis(moment: datetime) -> int:
    return (moment - EPOCH) // (1000 * MICROSECOND)
