"""What a job is: the values every room speaks of.

*Job* a definition with its state · *Revision* one immutable version of the definition · *Execution* one occurrence ·
*Attempt* one try of an execution. All instants are aware and UTC.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from gnomon.job.retry import RetryPolicy
from gnomon.job.schedule import Timing
from gnomon.job.target import Target


class JobStatus(StrEnum):
    """RUNNING jobs get new executions; STOPPED ones are paused; COMPLETED ones have no further moment."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"


class State(StrEnum):
    """Where an execution is; see docs/protocol.md for the arrows between them."""

    WAITING = "WAITING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    @property
    def final(self) -> bool:
        """True for the states that never change again."""
        return self not in (State.WAITING, State.PENDING, State.RUNNING)


REPEATABLE = frozenset((State.FAILED, State.UNKNOWN, State.CANCELLED))  # what ended so can be tried again


class Trigger(StrEnum):
    """Why an execution exists."""

    SCHEDULE = "SCHEDULE"
    MANUAL = "MANUAL"
    BACKFILL = "BACKFILL"
    RETRY_OF = "RETRY_OF"


class Action(StrEnum):
    """What was done to a job, as its audit trail says."""

    CREATED = "CREATED"
    EDITED = "EDITED"
    PAUSED = "PAUSED"
    RESUMED = "RESUMED"
    DELETED = "DELETED"


class Overlap(StrEnum):
    """What happens to an occurrence that is due while another of the same job is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"


class Delivery(StrEnum):
    """Whether a doubtful effect is repeated (at least once) or left in doubt (at most once)."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class MisfirePolicy(StrEnum):
    """What happens to moments older than the grace: see plan.py."""

    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Misfire:
    """`grace`: how late a moment may be and still simply run. `limit`: the most that `run_all` makes up for."""

    policy: MisfirePolicy = MisfirePolicy.RUN_ONCE
    grace: timedelta = timedelta(seconds=60)
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a revision fixes: the target, the schedule and the policies. Immutable, so caches of it never go stale."""

    target: Target
    timing: Timing
    name: str | None = None
    tags: tuple[str, ...] = ()
    timeout: timedelta = timedelta(seconds=30)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    misfire: Misfire = field(default_factory=Misfire)
    overlap: Overlap = Overlap.SKIP
    delivery: Delivery = Delivery.AT_LEAST_ONCE


@dataclass(frozen=True, kw_only=True)
class Job:
    """A definition and where it stands. `next_run` is None when nothing more is due.

    `definition` is None when what is stored can't be read, and `unreadable` says why: `name`, `kind` and `tags` are
    known even then. `held_until` is set, with `hold_reason`, when the schedule could not be computed: dispatch leaves
    the job alone until then. A paused job resumes by itself at `paused_until`, if it is set.
    """

    id: UUID
    definition: Definition | None
    name: str | None
    kind: str
    tags: tuple[str, ...]
    status: JobStatus
    revision: int
    next_run: datetime | None
    created_at: datetime
    updated_at: datetime
    held_until: datetime | None = None
    hold_reason: str | None = None
    pause_reason: str | None = None
    paused_until: datetime | None = None
    unreadable: str | None = None
    last_run: datetime | None = None
    locked_by: str | None = None
    locked_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try that did not end its execution (the try that did is in the execution itself)."""

    attempt: int
    worker: str | None
    claimed_at: datetime | None
    finished_at: datetime
    outcome: str
    error_code: str | None
    error_message: str | None
    response_status: int | None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One occurrence of a job, from creation to its final state.

    A SKIPPED execution stands for `skipped_count` moments, from `scheduled_at` to `skipped_until` inclusive.
    """

    id: UUID
    job_id: UUID
    revision: int
    scheduled_at: datetime
    trigger: Trigger
    state: State
    attempt: int
    failures: int
    max_attempts: int
    created_at: datetime
    available_at: datetime
    first_started_at: datetime | None = None
    claimed_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    response_status: int | None = None
    response_excerpt: str | None = None
    worker: str | None = None
    skipped_count: int = 0
    skipped_until: datetime | None = None
    repeats: UUID | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def lateness(self) -> timedelta | None:
        """Start of the first attempt minus the moment it was due; None while it has not started."""
        return None if self.first_started_at is None else self.first_started_at - self.scheduled_at

    @property
    def duration(self) -> timedelta | None:
        """From the start of the first attempt to the final state; None before that."""
        if self.first_started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.first_started_at
