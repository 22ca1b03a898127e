"""What a schedule would do, and what may surprise whoever wrote it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from gnomon.job.cron import CronRule, compile_cron
from gnomon.job.daylight import SECOND, ClockChange, clock_changes, find_zone
from gnomon.job.schedule import Cron, Timing, describe, moments_from

MAX_COUNT = 500
OFTEN = timedelta(minutes=1)
DAY = timedelta(days=1)
AHEAD = 400 * DAY  # every clock that changes does so within a year
MINUTE = "%Y-%m-%d %H:%M"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """`moments` are instants; `zone` is the one whose clocks the schedule follows, UTC where it follows none."""

    words: str
    zone: ZoneInfo
    moments: Sequence[datetime]
    warnings: Sequence[str]


def preview(timing: Timing, since: datetime, *, count: int, shift: timedelta = timedelta(0)) -> Preview:
    """The first `count` moments at or after `since`."""
    moments = list(islice(moments_from(timing, since, shift=shift), count))
    cron = timing.schedule if isinstance(timing.schedule, Cron) else None
    return Preview(
        words=describe(timing.schedule),
        zone=find_zone("UTC" if cron is None else cron.timezone),
        moments=moments,
        warnings=[
            *_never(moments, since),
            *_too_often(moments),
            *(() if cron is None or not moments else _clocks(cron, since, timing.ends_at)),
        ],
    )


def _never(moments: Sequence[datetime], since: datetime) -> Iterator[str]:
    if not moments:
        yield f"it never fires from {since.isoformat().replace('+00:00', 'Z')} on"


def _too_often(moments: Sequence[datetime]) -> Iterator[str]:
    least = min((later - earlier for earlier, later in pairwise(moments)), default=OFTEN)
    if least < OFTEN:
        yield (
            f"some moments are only {least / SECOND:g} s apart, at which pace a day has {DAY // least:,}: what takes "
            "longer overlaps itself, and overlap says what becomes of that"
        )


def _clocks(cron: Cron, since: datetime, ends_at: datetime | None) -> Iterator[str]:
    rule, zone = compile_cron(cron.expression), find_zone(cron.timezone)
    if rule.hourly and not rule.fixed:
        return  # it follows elapsed time, whatever the clocks show
    for change in clock_changes(zone, since, min(since + AHEAD, ends_at or datetime.max.replace(tzinfo=UTC))):
        matched = rule.after(change.first - SECOND)
        if matched is not None and matched < change.end:
            yield _what_becomes(rule, cron.timezone, change)


def _what_becomes(rule: CronRule, timezone: str, change: ClockChange) -> str:
    times = f"{change.first:{MINUTE}} to {change.end:%H:%M}"
    if change.skips:
        fate = f"runs at {change.end:%H:%M}, once" if rule.fixed else "does not run"
        return f"the clocks of {timezone} skip {times}: what is due in between {fate}"
    fate = "runs the first time only" if rule.fixed else "runs both times"
    return f"the clocks of {timezone} show {times} twice: what is due in between {fate}"
