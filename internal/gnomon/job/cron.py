"""Cron expressions: which are accepted, and stepping through them on wall-clock time.

croniter parses and steps. What it reads otherwise than cron does, or differently at each reading, is refused here:
random and hashed values, years, ranges that wrap around or hold one value (croniter takes `5-5` for the whole field),
`*` among other values, and an nth or nearest weekday beside another restricted day (croniter drops one of the two).
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise, product
from typing import NoReturn

from croniter import CroniterBadDateError, CroniterError, croniter

from gnomon.job.errors import InvalidJob

POINTER = "/cron_schedule"
MAX_LENGTH = 200
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001 - on the wall clock
DAY = timedelta(days=1)
WINDOW = 5 * 366 * DAY  # from EARLIEST on: two 29ths of February
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Name of each field, and what it takes, in the order of the long form.
FIELDS = (
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31, L for the last day, 15W for the weekday nearest to the 15th"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT, where 0 and 7 are Sunday; 1#2 for the second Monday, L5 for the last Friday"),
)
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAMES = {**{day: n for n, day in enumerate(WEEKDAYS)}, **{month: n for n, month in enumerate(MONTHS, 1)}, "l": 31}
RANGE = re.compile(r"([^-/#]+)-([^-/#]+)")


@dataclass(frozen=True)
class CronRule:
    """A parsed expression. `fixed`: neither the minute nor the hour is a wildcard (`*`, `*/5`).

    `hourly`: the hour is nothing but `*`.
    """

    template: "croniter[datetime]"
    fixed: bool
    hourly: bool

    def after(self, wall: datetime) -> datetime | None:
        """The first match later than the naive wall-clock time; None when none follows within 50 years."""
        stepper = copy.copy(self.template)  # stepping moves the object, and the template is shared by all threads
        try:
            # Whole seconds: croniter counts in floats, which round microseconds.
            return stepper.get_next(datetime, start_time=wall.replace(microsecond=0))
        except CroniterBadDateError:
            return None

    def closest(self) -> timedelta | None:
        """How close two moments that follow each other can get, by the clock on the wall; None for a single one.

        Exact: the times are the same on all days that match, and the days are looked at over five years.
        """
        minutes, hours, _, _, _, *more = self.template.expanded
        times = sorted(
            timedelta(hours=hour, minutes=minute, seconds=second)
            for hour, minute, second in product(
                _values(hours, 24), _values(minutes, 60), _values(more[0], 60) if more else [0]
            )
        )
        within = min((late - early for early, late in pairwise(times)), default=None)
        over_night = DAY - times[-1] + times[0]
        if within is not None and within <= over_night:
            return within
        apart = self._days_apart()
        found = [gap for gap in (within, apart and apart - DAY + over_night) if gap is not None]
        return min(found, default=None)

    def _days_apart(self) -> timedelta | None:
        """The least distance of two days that match."""
        least, last = None, None
        moment = self.after(EARLIEST - DAY)
        while moment is not None and moment < EARLIEST + WINDOW:
            day = moment.replace(hour=0, minute=0, second=0)
            if last is not None:
                least = day - last if least is None else min(least, day - last)
            if least == DAY:
                return least
            last = day
            moment = self.after(day + DAY - timedelta(seconds=1))
        return least


def _values(field: Sequence[object], size: int) -> list[int]:
    return list(range(size)) if "*" in field else [value for value in field if isinstance(value, int)]


@lru_cache(maxsize=4096)
def compile_cron(expression: str) -> CronRule:
    """Parses and checks an expression of five fields, six with seconds first, or a nickname.

    Raises InvalidJob at /cron_schedule with the field and the reason.
    """
    if len(expression) > MAX_LENGTH:
        raise InvalidJob.at(POINTER, f"is longer than {MAX_LENGTH} characters")
    fields = _split(expression)
    for position, field in enumerate(fields):
        _check_items(fields, position, field)
    plain = " ".join(fields)
    try:
        croniter.expand(plain, strict=True, second_at_beginning=True)
    except CroniterError as error:
        _refuse_unreadable(fields, error)
    _check_days(fields)
    rule = CronRule(
        # The "cron bug" is Debian's rule: a day field that starts with * is no restriction, so both must match.
        template=croniter(plain, EARLIEST, datetime, second_at_beginning=True, implement_cron_bug=True),
        fixed="*" not in fields[-5] and "*" not in fields[-4],
        hourly=fields[-4] == "*",
    )
    if rule.after(EARLIEST) is None:
        raise InvalidJob.at(POINTER, f"{expression!r} never fires")
    return rule


def _split(expression: str) -> list[str]:
    text = expression.strip().lower()
    if text.startswith("@"):
        if text not in NICKNAMES:
            raise InvalidJob.at(POINTER, f"{text!r} is not known", f"known: {', '.join(NICKNAMES)}, @every 5m")
        text = NICKNAMES[text]
    fields = text.split()
    if len(fields) == 7:
        raise InvalidJob.at(POINTER, "field 7 (year) is not supported", "set starts_at and ends_at instead")
    if len(fields) not in (5, 6):
        hint = "minute, hour, day of month, month, day of week; with seconds, they come first"
        raise InvalidJob.at(POINTER, f"has {len(fields)} fields, not 5 or 6", hint)
    return fields


def _check_items(fields: list[str], position: int, field: str) -> None:
    items = field.split(",")
    if "*" in items[1:] or items[0] == "*" != field:
        _refuse(fields, position, "lists * beside other values", "write * alone, or only the values")
    for item in items:
        if item[:1] in ("r", "h"):
            kind = "random" if item[0] == "r" else "hashed"
            _refuse(fields, position, f"is {kind}, which is not supported", "set spread_seconds to spread jobs out")
        if match := RANGE.match(item):
            low, high = (NAMES.get(end) if end in NAMES else _number(end) for end in match.groups())
            if low is not None and high is not None and low >= high:
                hint = "write two ranges, as in 22-23,0-2; Sunday is also 7; one value needs no range"
                _refuse(fields, position, f"has a range that does not ascend ({match[0]})", hint)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def _check_days(fields: list[str]) -> None:
    day, weekday = fields[-3], fields[-1]
    special = "w" in day or "#" in weekday or "l" in weekday
    if special and day[0] not in "*?" and weekday[0] not in "*?":
        hint = "make it two jobs, or let one of the two days be *"
        _refuse(fields, len(fields) - 1, "can't be combined with a day of month when one uses W, # or L", hint)


def _refuse_unreadable(fields: list[str], error: CroniterError) -> NoReturn:
    """croniter does not say which field it could not read: ask it about each alone."""
    for position, field in enumerate(fields):
        alone = ["*"] * len(fields)
        alone[position] = field
        try:
            croniter.expand(" ".join(alone), strict=True, second_at_beginning=True)
        except CroniterError:
            takes = FIELDS[position - len(fields)][1]
            _refuse(fields, position, "can't be read", f"it takes {takes}, with lists, ranges a-b and steps /n")
    if "never occur" in str(error):
        _refuse(fields, len(fields) - 3, f"never occurs in month {fields[-2]}", None)
    raise InvalidJob.at(POINTER, str(error)) from error


def _refuse(fields: list[str], position: int, reason: str, hint: str | None) -> NoReturn:
    name = FIELDS[position - len(fields)][0]
    raise InvalidJob.at(POINTER, f"field {position + 1} ({name}) {fields[position]!r} {reason}", hint)
