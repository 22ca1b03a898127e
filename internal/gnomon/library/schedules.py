"""When a job of the library is due. `Cron` is job.schedule.Cron; the others are what people write, read here."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gnomon.job import schedule
from gnomon.job.errors import ConfigurationError, InvalidJob
from gnomon.job.model import Job
from gnomon.job.schedule import Cron
from gnomon.library.durations import Duration, read_duration


@dataclass(frozen=True, init=False)
class Every:
    """Each time so long after the last one: `Every("5m")`, `Every(minutes=5)`, `Every(30)`; whole seconds.

    The moments are counted from when the job was first registered with this interval, so they neither drift nor move
    when a process starts again.
    """

    seconds: int

    def __init__(
        self, interval: Duration = 0, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        more = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        total = (read_duration(interval) + more).total_seconds()
        if total != int(total) or not 1 <= total <= schedule.MAX_INTERVAL:
            raise InvalidJob.at(
                "/interval_seconds", f"must be whole seconds, 1 to {schedule.MAX_INTERVAL}, not {total:g}"
            )
        object.__setattr__(self, "seconds", int(total))


@dataclass(frozen=True, init=False)
class At:
    """Once, at an aware datetime or an ISO 8601 text with an offset: `At("2030-01-01T09:00:00+01:00")`."""

    at: datetime

    def __init__(self, at: datetime | str) -> None:
        try:
            instant = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError as error:
            raise InvalidJob.at("/execute_at", f"{at!r} is not an instant", "write 2030-01-01T09:00:00Z") from error
        object.__setattr__(self, "at", schedule.At(instant).at)


@dataclass(frozen=True, init=False)
class After:
    """Once, so long after it is registered: `After("10m")`, `After(seconds=30)`.

    Registering it again changes nothing while it is still to come; when it is over it is due anew, from then.
    """

    delay: timedelta

    def __init__(
        self, delay: Duration = 0, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        total = read_duration(delay) + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if not timedelta(0) <= total <= timedelta(days=3650):
            raise InvalidJob.at("/delay_seconds", f"must lie between 0 and ten years, not {total}")
        object.__setattr__(self, "delay", total)

    @property
    def tag(self) -> str:
        """How the job remembers its delay: another one is another definition."""
        return f"after {self.delay.total_seconds():g} s"


Schedule = Cron | Every | At | After


def resolve(given: Schedule, job: Job | None, now: datetime) -> schedule.Schedule:
    """The moments that are meant, given what is stored: an interval keeps its anchor, a delay its moment."""
    stored = None if job is None or job.definition is None else job.definition.timing.schedule
    match given:
        case Cron():
            return given
        case At(at=at):
            return schedule.At(at)
        case Every(seconds=seconds):
            kept = isinstance(stored, schedule.Every) and stored.seconds == seconds
            return stored if kept and stored is not None else schedule.Every(seconds, now)
        case After(delay=delay):
            waits = job is not None and job.next_run is not None and given.tag in job.tags
            return stored if waits and isinstance(stored, schedule.At) else schedule.At(now + delay)
        case _:
            raise ConfigurationError(f"{given!r} is no schedule: give Cron, Every, At or After")


def with_timezone(given: Schedule, timezone: str | None) -> Schedule:
    """The schedule in this zone. Raises ConfigurationError where it has none, or another."""
    if timezone is None:
        return given
    if not isinstance(given, Cron):
        raise ConfigurationError(f"only a Cron has a time zone; leave out timezone={timezone!r}")
    if given.timezone not in ("UTC", timezone):
        raise ConfigurationError(f"timezone={timezone!r} contradicts the Cron's own {given.timezone!r}: keep one")
    return Cron(given.expression, timezone)
