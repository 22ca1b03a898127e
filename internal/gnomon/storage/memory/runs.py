"""RunStore in memory: executions that people ask for, or no longer want."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.ids import backfill_id, id_bounds, manual_id
from gnomon.job.model import Execution, Job, State, Trigger
from gnomon.job.ports import Once, Requested
from gnomon.storage.memory.births import Birth, give_birth
from gnomon.storage.memory.rows import JobRow, Row
from gnomon.storage.memory.state import KEY_KEPT, Memory
from gnomon.storage.refusals import key_reused, overlapping, refuse_cancel, refuse_repeat


class MemoryRunStore:
    """RunStore within this process; see `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def run(self, job_id: UUID, *, may_wait: bool, once: Once | None) -> Requested:
        """The key is written with the execution, or not at all."""
        with self._memory.transaction() as now:
            return self._once(
                once, now, lambda: self._create(self._memory.job(job_id), now, Trigger.MANUAL, may_wait=may_wait)
            )

    def retry(self, execution_id: UUID, *, same_revision: bool, may_wait: bool, once: Once | None) -> Requested:
        """As `run`."""

        def create() -> UUID:
            failed = self._memory.row(execution_id)
            job = self._memory.job(failed.execution.job_id)
            refuse_repeat(failed.execution)
            as_it_was = failed if same_revision else None
            return self._create(
                job, now, Trigger.RETRY_OF, may_wait=may_wait, repeats=execution_id, as_it_was=as_it_was
            )

        with self._memory.transaction() as now:
            return self._once(once, now, create)

    def backfill(
        self,
        job_id: UUID,
        choose: Callable[[Job, datetime], Sequence[datetime]],
        *,
        request_id: UUID,
        pace: timedelta,
        dry_run: bool,
    ) -> Sequence[datetime]:
        """The first is due at once; which others wait for it is for the overlap to say."""
        with self._memory.transaction() as now:
            job = self._memory.job(job_id)
            moments = [moment for moment in choose(self._memory.show(job), now) if not self._is_booked(job, moment)]
            if dry_run:
                return moments
            for number, moment in enumerate(moments):
                birth = Birth(
                    id=backfill_id(request_id, job_id, moment),
                    scheduled_at=moment,
                    available_at=now + pace * number,
                    trigger=Trigger.BACKFILL,
                    serial=True,
                )
                if not give_birth(self._memory, job, birth, State.PENDING, now):
                    give_birth(self._memory, job, birth, State.WAITING, now)
            self._memory.announce(now if moments else None)
            return moments

    def cancel(self, execution_id: UUID) -> Execution:
        """What has not begun ends at once; the worker of one that runs asks for the mark."""
        with self._memory.transaction() as now:
            row = self._memory.row(execution_id)
            was_active = row.state is State.PENDING and row.in_the_way
            if row.state in (State.WAITING, State.PENDING):
                self._memory.move(
                    row,
                    State.CANCELLED,
                    finished_at=now,
                    cancel_requested_at=now,
                    error_code="cancelled",
                    error_message="cancelled on request",
                )
            elif row.state is State.RUNNING and row.execution.cancel_requested_at is None:
                row.change(cancel_requested_at=now)
            if was_active:
                self._memory.promote(row.execution.job_id, now)
            refuse_cancel(row.execution)
            return row.execution

    def _once(self, once: Once | None, now: datetime, create: Callable[[], UUID]) -> Requested:
        """What was made with this key before; else what `create` makes."""
        if once is None:
            return Requested(execution=self._memory.row(create()).execution, replayed=False)
        self._forget_keys(now)
        known = self._memory.keys.get(once.key)
        if known is not None and known[0] != once.fingerprint:
            raise key_reused(once)
        execution_id = create() if known is None else known[1]
        if known is None:
            self._memory.keys[once.key] = (once.fingerprint, execution_id, now + KEY_KEPT)
        return Requested(execution=self._memory.row(execution_id).execution, replayed=known is not None)

    def _forget_keys(self, now: datetime) -> None:
        over = [key for key, (_, _, end) in self._memory.keys.items() if end <= now]
        for key in over:
            del self._memory.keys[key]

    def _create(
        self,
        job: JobRow,
        now: datetime,
        trigger: Trigger,
        *,
        may_wait: bool,
        repeats: UUID | None = None,
        as_it_was: Row | None = None,
    ) -> UUID:
        birth = Birth(
            id=manual_id(now),
            scheduled_at=now,
            available_at=now,
            trigger=trigger,
            repeats=repeats,
            as_it_was=as_it_was,
        )
        if give_birth(self._memory, job, birth, State.PENDING, now):
            self._memory.announce(now)
        elif may_wait:
            give_birth(self._memory, job, replace(birth, serial=True), State.WAITING, now)
        else:
            active = None if job.active is None else self._memory.rows[job.active]
            raise overlapping(job.job.id, None if active is None else (active.id, active.state))
        return birth.id

    def _is_booked(self, job: JobRow, moment: datetime) -> bool:
        """Whether an execution of this moment ran or will, or may have: what is no longer kept is not known."""
        if job.pruned_until is not None and moment <= job.pruned_until:
            return True
        first, last = id_bounds(moment)
        ids = job.executions[bisect_left(job.executions, first) : bisect_right(job.executions, last)]
        return any(
            row.execution.scheduled_at == moment
            and row.execution.trigger in (Trigger.SCHEDULE, Trigger.BACKFILL)
            and row.state is not State.SKIPPED
            for row in (self._memory.rows[execution_id] for execution_id in ids)
        )
