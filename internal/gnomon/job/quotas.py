"""What the operator lets jobs be. What exists goes on when a quota is lowered, and may be edited and deleted."""

from dataclasses import dataclass
from datetime import timedelta

from gnomon.job.errors import InvalidJob
from gnomon.job.schedule import Schedule, closest


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """`min_interval` is the least time between two moments of a schedule.

    `jobs` is how many there may be in all, and `jobs_per_key` that one key may have created; `backlog` is how many
    executions of a job may wait because somebody asked for them. 0 is any number.
    """

    min_interval: timedelta = timedelta(seconds=1)
    jobs: int = 0
    jobs_per_key: int = 0
    backlog: int = 0

    def check_schedule(self, schedule: Schedule, before: Schedule | None, *, pointer: str) -> None:
        """Raises InvalidJob for one that is too frequent, unless it was as frequent `before` the edit."""
        if self.min_interval <= timedelta(seconds=1):  # no schedule can be more frequent than that
            return
        apart = closest(schedule)
        if apart is None or apart >= self.min_interval or (before is not None and apart == closest(before)):
            return
        raise InvalidJob.at(
            pointer,
            f"has moments {_words(apart)} apart; at least {_words(self.min_interval)} are allowed here",
            "make it less frequent; the operator's setting is limits.min_interval",
        )


def _words(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"
