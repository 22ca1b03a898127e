"""Whether the books of a job are right: every moment that its schedule owes lies in exactly one row, and no other does.

Shares no code with what it checks: moments are enumerated with cronsim and by arithmetic, from the stored definitions,
and the audit trail says from when until when each of them held.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim

from support.world import World

END = datetime(2200, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A SCHEDULE execution; a SKIPPED one stands for `skipped` moments, up to `last`."""

    at: datetime
    skipped: int = 0
    last: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of the audit trail."""

    revision: int
    owed_from: datetime | None = None
    owed_until: datetime | None = None


def unbalanced_moments(
    world: World, job_id: UUID, *, since: datetime | None = None, until: datetime | None = None
) -> dict[datetime, int]:
    """Moments that lie in no row or in several, or that nobody owed, with how often they were booked.

    In the window [since, until), or in all of the job's life, up to `next_run`, at which the books are closed, and
    from where retention has left them whole. Empty when the books are right. Where nothing is next, the last moment may
    be booked before it has come.
    """
    whole_since = _whole_since(world, job_id)
    (job,) = world.sql(
        "select coalesce(next_run, now() + interval '1 minute') as closed_at from jobs where id = :id", id=job_id
    )
    definitions = {
        row.revision: row.definition
        for row in world.sql("select revision, definition from job_revisions where job_id = :id", id=job_id)
    }
    trail = [
        Entry(revision=row.revision, owed_from=row.owed_from, owed_until=row.owed_until)
        for row in world.sql("select * from job_events where job_id = :id order by id", id=job_id)
    ]
    rows = [
        Row(at=row.scheduled_at, skipped=row.skipped_count, last=row.skipped_until)
        for row in world.sql(
            "select scheduled_at, skipped_count, skipped_until from executions "
            "where job_id = :id and trigger = 'SCHEDULE'",
            id=job_id,
        )
    ]
    owed = owed_moments(job_id, definitions, trail, closed_at=job.closed_at, whole_since=whole_since)
    return unbalanced(owed, rows, since=max(filter(None, (since, whole_since)), default=None), until=until)


def _whole_since(world: World, job_id: UUID) -> datetime | None:
    """Retention may have removed rows of earlier moments."""
    (row,) = world.sql(
        "select max(until) as until from prunings where job_id in (:id, :nobody)", id=job_id, nobody=UUID(int=0)
    )
    return None if row.until is None else row.until + TICK


def unbalanced(
    owed: Iterable[datetime], rows: Iterable[Row], *, since: datetime | None = None, until: datetime | None = None
) -> dict[datetime, int]:
    """As `unbalanced_moments`, of plain values."""
    expected = sorted(owed)
    wanted, booked = Counter(expected), Counter[datetime]()
    for row in rows:
        booked.update(_moments_of(row, expected))
    first, end = since or datetime.min.replace(tzinfo=UTC), until or datetime.max.replace(tzinfo=UTC)
    return {
        moment: booked[moment]
        for moment in sorted(wanted | booked)
        if booked[moment] != wanted[moment] and first <= moment < end
    }


def owed_moments(
    job_id: UUID,
    definitions: Mapping[int, Mapping[str, Any]],
    trail: Sequence[Entry],
    *,
    closed_at: datetime,
    whole_since: datetime | None = None,
) -> list[datetime]:
    """What the job's schedules owed, in order. The definition of what ended before `whole_since` may be gone."""
    owed: list[datetime] = []
    for revision, first, end in _stretches(trail, closed_at):
        if whole_since is None or end > whole_since or revision in definitions:
            owed += schedule_moments(job_id, definitions[revision], first, end)
    return owed


def schedule_moments(job_id: UUID, definition: Mapping[str, Any], first: datetime, end: datetime) -> Iterator[datetime]:
    """The moments of one definition in [first, end)."""
    spread = definition.get("spread_seconds") or 0
    digest = int.from_bytes(hashlib.sha256(job_id.bytes).digest())
    shift = timedelta(seconds=digest % spread if spread else 0)
    first = max(first, _instant(definition, "starts_at") or first)
    end = min(end, (_instant(definition, "ends_at") or END) + TICK)
    for moment in _plain_moments(definition, first - shift):
        if moment + shift >= end:
            return
        yield moment + shift


def _stretches(trail: Sequence[Entry], closed_at: datetime) -> Iterator[tuple[int, datetime, datetime]]:
    open_since: tuple[int, datetime] | None = None
    for entry in trail:
        if entry.owed_until is not None and open_since is not None:
            yield (*open_since, entry.owed_until)
            open_since = None
        if entry.owed_from is not None:
            open_since = (entry.revision, entry.owed_from)
    if open_since is not None:
        yield (*open_since, closed_at)


def _plain_moments(definition: Mapping[str, Any], first: datetime) -> Iterator[datetime]:
    """From `first` on, without bounds and spread."""
    if definition.get("execute_at"):
        at = _instant(definition, "execute_at")
        assert at is not None
        yield from [at] if at >= first else []
    elif definition.get("interval_seconds"):
        step, anchor = timedelta(seconds=definition["interval_seconds"]), _instant(definition, "anchor_at")
        assert anchor is not None
        least = 0 if anchor == _instant(definition, "starts_at") else 1
        number = max(least, -((anchor - first) // step))
        yield from (anchor + step * k for k in itertools.count(number))
    else:
        zone = ZoneInfo(definition.get("timezone") or "UTC")
        start = first.replace(microsecond=0) - timedelta(seconds=1)
        moments = (moment.astimezone(UTC) for moment in CronSim(definition["cron_schedule"], start.astimezone(zone)))
        yield from itertools.dropwhile(lambda moment: moment < first, moments)


def _moments_of(row: Row, expected: Sequence[datetime]) -> list[datetime]:
    if row.last is None:
        return [row.at]
    covered = [moment for moment in expected if row.at <= moment <= row.last]
    # a count that does not fit is shown at the row's own moment
    return covered if len(covered) == row.skipped else [row.at] * (row.skipped + 2)


def _instant(definition: Mapping[str, Any], field: str) -> datetime | None:
    text = definition.get(field)
    return None if text is None else datetime.fromisoformat(text)
