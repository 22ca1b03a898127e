"""How long history is kept."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is kept of the past. Unfinished executions are kept in any case.

    `succeeded`: for how long what ended SUCCEEDED or SKIPPED; `failed`: FAILED, UNKNOWN or CANCELLED. `per_job`: the
    most of each of these two kinds that one job keeps. `newest`: so many of a job's executions are kept whatever their
    age, so that one that runs once a month shows how it went. `trail`: for how long what was done to jobs.
    """

    succeeded: timedelta = timedelta(days=7)
    failed: timedelta = timedelta(days=30)
    per_job: int = 10_000
    newest: int = 10
    trail: timedelta = timedelta(days=365)
