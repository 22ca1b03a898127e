"""When a job is due: the three kinds of schedule, their bounds, and the next moment.

Moments are instants in UTC. With `spread_seconds`, every moment of a job is shifted by one constant; whatever leaves
this module, and the bounds, mean the shifted moment.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import assert_never
from uuid import UUID

from gnomon.job.cron import NICKNAMES, compile_cron
from gnomon.job.cron import POINTER as CRON_POINTER
from gnomon.job.daylight import elapsed_after, find_zone, fixed_after
from gnomon.job.errors import InvalidJob

YEARS = range(2000, 2201)
LATEST = datetime(2200, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
TICK = timedelta(microseconds=1)  # the resolution of the database and of datetime
EVEN_STEPS = frozenset(str(step) for step in range(1, 31) if 60 % step == 0)
MAX_INTERVAL = 315_576_000  # ten years
MAX_SPREAD = 86_400  # a day

ZONE_PREFIX = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.DOTALL)
EVERY_PREFIX = re.compile(r"@every\s+(.*)", re.DOTALL | re.IGNORECASE)
DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(h|ms|m|s)", re.ASCII)
UNIT_SECONDS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}


@dataclass(frozen=True)
class Cron:
    """Wall-clock times of one zone. See cron.py for the language, daylight.py for changes of the clock."""

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        compile_cron(self.expression)
        find_zone(self.timezone)


@dataclass(frozen=True)
class Every:
    """anchor_at + k · seconds. The anchor itself is a moment (k = 0) only where it is the job's `starts_at`."""

    seconds: int
    anchor_at: datetime

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= MAX_INTERVAL:
            raise InvalidJob.at("/interval_seconds", f"must be between 1 and {MAX_INTERVAL}")
        object.__setattr__(self, "anchor_at", _checked_instant("/anchor_at", self.anchor_at))


@dataclass(frozen=True)
class At:
    """One moment."""

    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", _checked_instant("/execute_at", self.at))


Schedule = Cron | Every | At


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A schedule within bounds: no moment lies before `starts_at` or after `ends_at` (both may be moments)."""

    schedule: Schedule
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    spread_seconds: int = 0

    def __post_init__(self) -> None:
        for field in ("starts_at", "ends_at"):
            instant = getattr(self, field)
            if instant is not None:
                object.__setattr__(self, field, _checked_instant(f"/{field}", instant))
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise InvalidJob.at("/ends_at", "must be later than starts_at")
        if not 0 <= self.spread_seconds <= MAX_SPREAD:
            raise InvalidJob.at("/spread_seconds", f"must be between 0 and {MAX_SPREAD}")
        if self.spread_seconds and isinstance(self.schedule, At):
            raise InvalidJob.at("/spread_seconds", "does not fit execute_at: one moment has nothing to spread")

    def shift(self, job_id: UUID) -> timedelta:
        """The constant by which all moments of this job are shifted: whole seconds, less than `spread_seconds`."""
        if not self.spread_seconds:
            return timedelta(0)
        digest = hashlib.sha256(job_id.bytes).digest()
        return timedelta(seconds=int.from_bytes(digest) % self.spread_seconds)


def next_run_after(timing: Timing, after: datetime, *, shift: timedelta = timedelta(0)) -> datetime | None:
    """The first moment strictly later than `after`; None when there is none up to the year 2200."""
    since = after.astimezone(UTC) - shift
    if timing.starts_at is not None:
        since = max(since, timing.starts_at - shift - TICK)
    moment = _moment_after(timing, since)
    if moment is None or moment + shift > (timing.ends_at or LATEST):
        return None
    return moment + shift


def first_run(timing: Timing, now: datetime, *, shift: timedelta = timedelta(0)) -> datetime | None:
    """The first moment at or after `now`; for an interval without `starts_at`, not before one interval has passed."""
    return next_run_after(timing, now - TICK, shift=shift)


def moments_from(timing: Timing, since: datetime, *, shift: timedelta = timedelta(0)) -> Iterator[datetime]:
    """All moments at or after `since`, one after the other."""
    moment = first_run(timing, since, shift=shift)
    while moment is not None:
        yield moment
        moment = next_run_after(timing, moment, shift=shift)


def closest(schedule: Schedule) -> timedelta | None:
    """How close two moments of it can get, by the clock on the wall: daylight saving apart. None for a single one."""
    match schedule:
        case Cron(expression=expression):
            return compile_cron(expression).closest()
        case Every(seconds=seconds):
            return timedelta(seconds=seconds)
        case At():
            return None
        case _:
            assert_never(schedule)


def parse_cron(text: str, *, timezone: str, anchor_at: datetime) -> Cron | Every:
    """Reads `cron_schedule` in every spelling: fields, nicknames, `@every 1h30m`, behind `TZ=` or `CRON_TZ=`.

    An interval is anchored at `anchor_at`. Raises InvalidJob, also where the prefix contradicts a `timezone` that is
    not the default.
    """
    text = text.strip()
    if prefixed := ZONE_PREFIX.fullmatch(text):
        named, text = prefixed.groups()
        if timezone not in ("UTC", named):
            raise InvalidJob.at("/timezone", f"{timezone!r} contradicts the prefix TZ={named}", "keep one of the two")
        timezone = named
    if every := EVERY_PREFIX.fullmatch(text):
        if timezone != "UTC":
            raise InvalidJob.at("/timezone", "an interval has no time zone", "leave it out")
        return Every(seconds=_parse_duration(every[1]), anchor_at=anchor_at)
    return Cron(expression=text, timezone=timezone)


def describe(schedule: Schedule) -> str:
    """The schedule in plain English where that is short, else the expression."""
    match schedule:
        case Cron():
            words = _cron_words(schedule.expression)
            return f"{words}, {schedule.timezone}" if words else f"cron {schedule.expression!r} in {schedule.timezone}"
        case Every():
            return _every_words(schedule.seconds)
        case At():
            return f"once at {schedule.at.isoformat().replace('+00:00', 'Z')}"
        case _:
            assert_never(schedule)


def _moment_after(timing: Timing, after: datetime) -> datetime | None:
    match timing.schedule:
        case Cron(expression=expression, timezone=timezone):
            return _cron_after(expression, timezone, after)
        case Every(seconds=seconds, anchor_at=anchor_at):
            first = 0 if anchor_at == timing.starts_at else 1
            count = (after - anchor_at) // timedelta(seconds=seconds) + 1
            return anchor_at + timedelta(seconds=seconds * max(first, count))
        case At(at=at):
            return at if at > after else None
        case _:
            assert_never(timing.schedule)


# What is due at one moment has few schedules: ten thousand jobs of every minute ask the same once.
@lru_cache(maxsize=4096)
def _cron_after(expression: str, timezone: str, after: datetime) -> datetime | None:
    rule = compile_cron(expression)
    step = fixed_after if rule.fixed else elapsed_after
    return step(rule, find_zone(timezone), after)


def _checked_instant(pointer: str, instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise InvalidJob.at(pointer, "has no UTC offset", "write it like 2030-01-01T09:00:00Z")
    if instant.year not in YEARS or instant.astimezone(UTC).year not in YEARS:
        raise InvalidJob.at(pointer, f"must lie between the years {YEARS[0]} and {YEARS[-1]}")
    return instant.astimezone(UTC)


def _parse_duration(text: str) -> int:
    hint = "write a duration like 1h30m, 5m or 90s"
    parts = DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise InvalidJob.at(CRON_POINTER, f"{text[:40]!r} is not a duration", hint)
    seconds = sum(Decimal(number) * UNIT_SECONDS[unit] for number, unit in parts)
    if seconds != int(seconds) or not 1 <= seconds <= MAX_INTERVAL:
        raise InvalidJob.at(CRON_POINTER, f"@every takes whole seconds between 1 and {MAX_INTERVAL}", hint)
    return int(seconds)


def _cron_words(expression: str) -> str | None:
    match NICKNAMES.get(expression, expression).split():
        case ["*", "*", "*", "*", "*"]:
            return "every minute"
        case [minute, "*", "*", "*", "*"] if minute[:2] == "*/" and minute[2:] in EVEN_STEPS:
            return _every_words(60 * int(minute[2:]))
        case [minute, "*", "*", "*", "*"] if minute.isdecimal():
            return f"at minute {int(minute)} of every hour"
        case [minute, hour, "*", "*", "*"] if minute.isdecimal() and hour.isdecimal():
            return f"at {int(hour):02}:{int(minute):02} every day"
        case _:
            return None


def _every_words(seconds: int) -> str:
    sizes = (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, count = next((unit, seconds // size) for unit, size in sizes if seconds % size == 0)
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"
