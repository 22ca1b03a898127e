"""HistoryStore in memory: what became of executions."""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from uuid import UUID

from gnomon.job.ids import id_bounds
from gnomon.job.model import Execution
from gnomon.job.ports import ExecutionQuery, Page, Tally
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.memory.state import Memory
from gnomon.storage.refusals import no_job


class MemoryHistoryStore:
    """HistoryStore within this process; see `Memory` for how much of it is kept."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def get(self, execution_id: UUID) -> Execution:
        """Raises NotFound, also for one that is no longer kept."""
        with self._memory.transaction():
            return self._memory.row(execution_id).execution

    def list(self, job_id: UUID | None, query: ExecutionQuery) -> Page[Execution]:
        """In the order of their ids, which is that of their moments."""
        with self._memory.transaction():
            if job_id is not None and job_id not in self._memory.jobs:
                raise no_job(job_id)
            jobs = self._memory.jobs.values() if job_id is None else [self._memory.jobs[job_id]]
            ids = heapq.merge(*(_newest_first(job.executions, query) for job in jobs), reverse=True)
            found = (execution for execution in map(self.get, ids) if _fits(execution, query))
            part = list(islice(found, query.offset, query.offset + query.limit + 1))
        items, more = part[: query.limit], len(part) > query.limit
        return Page(items=items, cursor=write_cursor(items[-1].scheduled_at, items[-1].id) if more else None)

    def tallies(self) -> Sequence[Tally]:
        """Since the process began."""
        with self._memory.transaction():
            return self._memory.tallies()


def _newest_first(ids: Sequence[UUID], query: ExecutionQuery) -> Iterator[UUID]:
    """Those that the cursor and the bounds can mean: an id begins with its moment."""
    start, end = 0, len(ids)
    if query.since is not None:
        start = bisect_left(ids, id_bounds(query.since)[0])
    if query.until is not None:
        end = bisect_right(ids, id_bounds(query.until)[1])
    if query.cursor is not None:
        end = min(end, bisect_left(ids, read_cursor(query.cursor)[1]))
    return (ids[place] for place in range(end - 1, start - 1, -1))


def _fits(execution: Execution, query: ExecutionQuery) -> bool:
    return (
        (not query.states or execution.state in query.states)
        and (query.trigger is None or execution.trigger is query.trigger)
        and (query.since is None or execution.scheduled_at >= query.since)
        and (query.until is None or execution.scheduled_at <= query.until)
    )
