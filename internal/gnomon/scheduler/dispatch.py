"""D: due jobs become executions, and their ids messages."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from gnomon.job.errors import Contended
from gnomon.job.plan import DueJob, Plan, plan_due
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
        """One batch. A batch whose rows are locked is halved, down to one job, and grows again when it passes."""
        try:
            done = self._store.dispatch(plan_batch, limit=self._batch)
        except Contended:
            self._batch = max(1, self._batch // 2)
            log.warning("due jobs are locked by another session; going on with batches of %s", self._batch)
            return Dispatched(jobs=0, published={}, held={}, full=self._batch > 1, behind=False)
        self._batch = min(self._largest, self._batch * 2)
        for job_id, reason in done.held.items():
            log.error("job %s is held for an hour: %s", job_id, reason, extra={"job_id": str(job_id)})
        for queue, ids in done.published.items():
            self._publisher.submit(queue, ids)
        return done


def plan_batch(
    jobs: Sequence[DueJob], now: datetime, *, clock: Callable[[], float] = time.monotonic
) -> list[Plan | Hold]:
    """One plan for each job, in order. The budget is shared evenly among those that are left.

    When the time is up, each job left gets a few steps, so that even then every one of them advances.
    """
    deadline = clock() + BATCH_TIME.total_seconds()
    plans: list[Plan | Hold] = []
    left = BATCH_STEPS
    for index, job in enumerate(jobs):
        share = max(LEAST_STEPS, left // (len(jobs) - index)) if clock() < deadline else LEAST_STEPS
        plan = _plan(job, now, share)
        plans.append(plan)
        left -= plan.examined if isinstance(plan, Plan) else 0
    return plans


def _plan(job: DueJob, now: datetime, limit: int) -> Plan | Hold:
    try:
        return plan_due(job, now, limit)
    except Exception as error:  # a schedule that can't be computed must not stop the others
        log.exception("job %s: its schedule can't be computed", job.id, extra={"job_id": str(job.id)})
        return Hold(reason=f"the schedule can't be computed: {type(error).__name__}: {error}"[:500])
