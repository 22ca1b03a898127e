"""What people look at to see how it goes: counts, depths, lateness, and what is recorded of one job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gnomon.job.model import Execution, Job, JobStatus, State


@dataclass(frozen=True, kw_only=True)
class QueueDepth:
    """The unfinished executions of one queue; of each state no more than COUNTED are looked at.

    `due` ones could begin now, `later` ones wait for a moment or a retry, `waiting` ones for another execution of their
    job. `sent`: those of the due ones for which a message was published. `oldest_due_at` is when the first was due.
    """

    name: str
    due: int
    sent: int
    later: int
    waiting: int
    running: int
    oldest_due_at: datetime | None
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of a number of durations."""

    median: timedelta
    p95: timedelta
    p99: timedelta
    longest: timedelta


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Jobs as they are, and the executions of the moments in a window that ends now.

    `held`: jobs whose schedule can't be computed. `overdue`: running jobs whose next run passed over ten seconds ago.
    `counted`: how many executions were looked at, the newest first; `complete`: whether those were all.
    """

    at: datetime
    jobs: Mapping[JobStatus, int]
    held: int
    overdue: int
    executions: Mapping[State, int]
    counted: int
    complete: bool
    lateness: Spread | None
    duration: Spread | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is recorded of a job: the newest executions, and those that are unfinished; the newest first."""

    at: datetime
    job: Job
    executions: Sequence[Execution]
