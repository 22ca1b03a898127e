"""New executions."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.model import Execution, Overlap, State, Trigger
from gnomon.job.target import type_of
from gnomon.storage.memory.rows import SERIAL, JobRow, Row
from gnomon.storage.memory.state import Memory


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What is not simply the job's. `serial`: waits its turn, however many do; `as_it_was`: repeats this one exactly.

    `slot` is how long its first message has; without one it is due to be published at once.
    """

    id: UUID
    scheduled_at: datetime
    available_at: datetime
    trigger: Trigger
    serial: bool = False
    slot: timedelta | None = None
    reason: str | None = None
    count: int = 0
    until: datetime | None = None
    repeats: UUID | None = None
    as_it_was: Row | None = None


def give_birth(memory: Memory, job: JobRow, birth: Birth, state: State, now: datetime) -> bool:
    """Whether neither the id nor the overlap of the job is in the way of an execution in this state."""
    pattern, definition = birth.as_it_was, job.definition
    execution = Execution(
        id=birth.id,
        job_id=job.job.id,
        revision=job.job.revision if pattern is None else pattern.execution.revision,
        scheduled_at=birth.scheduled_at,
        trigger=birth.trigger,
        state=state,
        attempt=0,
        failures=0,
        max_attempts=definition.retry.max_attempts if pattern is None else pattern.execution.max_attempts,
        created_at=now,
        available_at=birth.available_at,
        finished_at=now if state is State.SKIPPED else None,
        error_code=birth.reason,
        skipped_count=birth.count,
        skipped_until=birth.until,
        repeats=birth.repeats,
    )
    row = Row(
        execution=execution,
        kind=type_of(definition.target) if pattern is None else pattern.kind,
        queue=definition.target.queue if pattern is None else pattern.queue,
        overlap=SERIAL if birth.serial and definition.overlap is not Overlap.ALLOW else definition.overlap,
    )
    if state is State.PENDING:
        row.next_publish_at = birth.available_at if birth.slot is None else now + birth.slot
        row.publish_count = 0 if birth.slot is None else 1
        row.published_at = None if birth.slot is None else now
    return memory.insert(row)
