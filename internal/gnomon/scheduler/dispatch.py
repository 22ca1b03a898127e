"""D: due jobs become executions, and their ids messages."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from gnomon.job.errors import Contended, Unavailable
from gnomon.job.plan import DueJob, Plan, plan_ahead, plan_due
from gnomon.job.ports import Dispatched, DispatchStore, Hold
from gnomon.scheduler.publish import Publisher

log = logging.getLogger(__name__)

# A batch is one transaction. These bound it, however far behind its jobs are: what is not seen is left for the next.
BATCH_STEPS = 20_000
BATCH_TIME = timedelta(seconds=1)
# What a job gets even when the time is up: a job of one moment a second must not fall behind further with each batch.
LEAST_STEPS = 10


class Dispatcher:
    """Creates the executions that are due and hands their ids to the publisher."""

    def __init__(self, store: DispatchStore, publisher: Publisher, *, batch: int) -> None:
        self._store = store
        self._publisher = publisher
        self._largest = self._batch = batch

    def run_once(self) -> Dispatched:
        """One batch. One that fails is halved, down to one job, and grows again when it passes.

        It may have met locked rows, or outlasted the time that the database allows it.
        """
        try:
            done = self._store.dispatch(self._decide, limit=self._batch)
        except Contended:
            self._halve()
            log.warning("due jobs are locked by another session; going on with batches of %s", self._batch)
            return Dispatched(jobs=0, published={}, held={}, full=self._batch > 1, behind=False)
        except Unavailable:
            self._halve()
            raise
        self._batch = min(self._largest, self._batch * 2)
        for job_id, reason in done.held.items():
            log.error("job %s is held for an hour: %s", job_id, reason, extra={"job_id": str(job_id)})
        for queue, ids in done.published.items():
            self._publisher.submit(queue, ids)
        return done

    def _decide(self, jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        return plan_batch(jobs, now, steps=BATCH_STEPS * self._batch // self._largest)

    def _halve(self) -> None:
        self._batch = max(1, self._batch // 2)


def plan_batch(
    jobs: Sequence[DueJob], now: datetime, *, steps: int = BATCH_STEPS, clock: Callable[[], float] = time.monotonic
) -> list[Plan | Hold]:
    """One plan for each job, in order. The budget of `steps` is shared evenly among those that are left.

    When the time is up, each job left gets a few steps, so that even then every one of them advances.
    """
    deadline = clock() + BATCH_TIME.total_seconds()
    plans: list[Plan | Hold] = []
    left = steps
    for index, job in enumerate(jobs):
        share = max(LEAST_STEPS, left // (len(jobs) - index)) if clock() < deadline else LEAST_STEPS
        plan = _plan(job, now, share)
        plans.append(plan)
        left -= plan.examined if isinstance(plan, Plan) else 0
    return plans


def _plan(job: DueJob, now: datetime, limit: int) -> Plan | Hold:
    try:
        return plan_due(job, now, limit) if job.next_run <= now else plan_ahead(job)
    except Exception as error:  # a schedule that can't be computed must not stop the others
        log.exception("job %s: its schedule can't be computed", job.id, extra={"job_id": str(job.id)})
        return Hold(reason=f"the schedule can't be computed: {type(error).__name__}: {error}"[:500])
