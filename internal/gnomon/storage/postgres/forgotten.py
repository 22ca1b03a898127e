"""Moments whose executions retention has removed: they were booked, though no row says so any more."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from gnomon.job.model import Job
from gnomon.storage.postgres.tables import job_events, prunings

EVERY_JOB = UUID(int=0)  # in `prunings`


def forgotten_moments(connection: Connection, job: Job, moments: Collection[datetime]) -> set[datetime]:
    """Those that the schedule owed, by the audit trail, and whose rows may be gone.

    Where the trail itself was trimmed, all moments of the job's life count as owed: rather one too few is made up for
    than one done twice.
    """
    chosen = select(func.max(prunings.c.until)).where(prunings.c.job_id.in_([job.id, EVERY_JOB]))
    until = connection.execute(chosen).scalar_one()
    early = [] if until is None else [moment for moment in moments if job.created_at <= moment <= until]
    if not early:
        return set()
    trail = connection.execute(
        select(job_events.c.owed_from, job_events.c.owed_until)
        .where(job_events.c.job_id == job.id)
        .order_by(job_events.c.id)
    ).all()
    first = next((entry.owed_from for entry in trail if entry.owed_from is not None), None)
    stretches = [*_stretches(trail)]
    return {
        moment
        for moment in early
        if first is None
        or moment < first
        or any(begin <= moment and not _over(end, moment) for begin, end in stretches)
    }


def _stretches(
    trail: Iterable[Row[Any, Any]],
) -> Iterator[tuple[datetime, datetime | None]]:
    """From when (inclusive) until when (exclusive) moments were owed; None: they still are."""
    begin: datetime | None = None
    for entry in trail:
        if begin is not None and entry.owed_until is not None:
            yield begin, entry.owed_until
            begin = None
        begin = entry.owed_from or begin
    if begin is not None:
        yield begin, None


def _over(end: datetime | None, moment: datetime) -> bool:
    return end is not None and end <= moment
