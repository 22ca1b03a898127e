"""Execution ids. That of a scheduled moment follows from job and moment: the primary key is their uniqueness."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def scheduled_id(job_id: UUID, moment: datetime) -> UUID:
    """The id of the execution of `job_id` at `moment`: a UUIDv7 (RFC 9562) whose time is the moment.

    Its 74 other bits are a hash of the job and the moment in µs: inserting it twice is harmless, and ids sort by time.
    """
    return _moment_id(f"schedule:{job_id}", moment)


def _moment_id(source: str, moment: datetime) -> UUID:
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    digest = int.from_bytes(hashlib.sha256(f"{source}:{micros}".encode()).digest()[:16])
    value = (micros // 1000) << 80 | digest & ((1 << 80) - 1)
    value = value & ~(0xF << 76) | 7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
