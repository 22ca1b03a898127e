"""What is kept of a job and of an execution beyond what the ports show."""

from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from gnomon.job.model import Definition, Execution, Job, Overlap, State
from gnomon.job.target import type_of

SERIAL = "serial"  # overlap of those that wait their turn, however many


@dataclass(kw_only=True, slots=True)
class Row:
    """An execution, and how it is published, leased and kept apart from others of its job."""

    execution: Execution
    kind: str
    queue: str
    overlap: str
    next_publish_at: datetime | None = None
    publish_count: int = 0
    published_at: datetime | None = None
    lease_owner: UUID | None = None
    lease_expires_at: datetime | None = None
    effect_started_at: datetime | None = None

    def change(self, **changes: Any) -> None:
        """What the ports show of it, but never its state."""
        self.execution = replace(self.execution, **changes)

    @property
    def id(self) -> UUID:
        """The execution's."""
        return self.execution.id

    @property
    def state(self) -> State:
        """The execution's."""
        return self.execution.state

    @property
    def in_the_way(self) -> bool:
        """Whether its job may have no other active execution that minds."""
        return self.overlap != Overlap.ALLOW


@dataclass(kw_only=True, slots=True)
class JobRow:
    """A job, its revisions, and the ids of its executions, in order of their moments.

    `active` is the PENDING or RUNNING one that minds others, `queued` the one that waits because the job queues.
    `pruned_until` is the latest moment whose execution is no longer kept.
    """

    job: Job
    revisions: dict[int, Definition]
    misfires_run: int = 0
    deleted: bool = False
    executions: list[UUID] = field(default_factory=list)
    waiting: list[UUID] = field(default_factory=list)
    running: list[UUID] = field(default_factory=list)
    active: UUID | None = None
    queued: UUID | None = None
    finished: int = 0
    last_started: UUID | None = None
    pruned_until: datetime | None = None

    @property
    def definition(self) -> Definition:
        """The one that holds."""
        return self.revisions[self.job.revision]

    def name_in(self, names: Collection[str]) -> bool:
        """Whether it lives under one of these names."""
        return not self.deleted and self.job.name in names

    @property
    def unfinished(self) -> int:
        """How many executions are not in a final state."""
        return len(self.executions) - self.finished

    def define(self, revision: int, definition: Definition) -> None:
        """Makes this the definition that holds."""
        self.revisions[revision] = definition
        self.job = replace(
            self.job,
            definition=definition,
            revision=revision,
            name=definition.name,
            kind=type_of(definition.target),
            tags=definition.tags,
        )

    def note_start(self, execution: Execution) -> None:
        """Of its first attempt."""
        if self.last_started is None or execution.id > self.last_started:
            self.last_started = execution.id
            self.job = replace(self.job, last_run=execution.scheduled_at)

    def admits(self, row: Row) -> bool:
        """Whether the overlap of the executions allows this one in its state."""
        if row.state is State.PENDING and row.in_the_way:
            return self.active is None
        return not (row.state is State.WAITING and row.overlap == Overlap.QUEUE and self.queued is not None)

    def enter(self, row: Row) -> None:
        """Notes an execution in its state."""
        if row.state is State.WAITING:
            insort(self.waiting, row.id)
            self.queued = row.id if row.overlap == Overlap.QUEUE else self.queued
        elif row.state is State.RUNNING:
            insort(self.running, row.id)
        elif row.state.final:
            self.finished += 1
        if row.state in (State.PENDING, State.RUNNING) and row.in_the_way:
            self.active = row.id

    def leave(self, row: Row) -> None:
        """Takes back what `enter` noted."""
        if row.state is State.WAITING:
            del self.waiting[bisect_left(self.waiting, row.id)]
            self.queued = None if self.queued == row.id else self.queued
        elif row.state is State.RUNNING:
            del self.running[bisect_left(self.running, row.id)]
        elif row.state.final:
            self.finished -= 1
        if self.active == row.id:
            self.active = None
