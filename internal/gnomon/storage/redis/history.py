"""HistoryStore on Redis: what became of executions."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from gnomon.job.ids import id_bounds
from gnomon.job.model import Execution, State
from gnomon.job.ports import DURATION_BUCKETS, ExecutionQuery, Page, Tally
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.redis.database import RedisDatabase, mapping, parts
from gnomon.storage.redis.documents import read_execution
from gnomon.storage.refusals import no_execution, no_job

SCANNED_AT_ONCE = 1_000
SHOWN_AT_ONCE = 100
FAILED = {State.FAILED, State.UNKNOWN}


class RedisHistoryStore:
    """HistoryStore on Redis. Of each job it knows what has not ended, and what ended last (RedisDatabase: `kept`)."""

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database

    def get(self, execution_id: UUID) -> Execution:
        """With the attempts that did not end it."""
        found = self._read([execution_id])
        if not found:
            raise no_execution(execution_id)
        return found[0]

    def list(self, job_id: UUID | None, query: ExecutionQuery) -> Page[Execution]:
        """In the order of their ids, which is that of their moments; with the attempts that did not end them."""
        wanted = query.offset + query.limit
        found = self._scan(_index(job_id, query), query, wanted + 1)
        if not found and job_id is not None and not self._database.run("history_exists", id=job_id):
            raise no_job(job_id)
        items = self._read(map(UUID, found[query.offset : wanted]))
        more = len(found) > wanted and items
        return Page(items=items, cursor=write_cursor(items[-1].scheduled_at, items[-1].id) if more else None)

    def tallies(self) -> Sequence[Tally]:
        """Summed over all processes that ever counted."""
        counted: dict[tuple[str, str], dict[str, int]] = {}
        for field, value in mapping(self._database.run("tallies")).items():
            outcome, what, kind = field.split("|", 2)
            counted.setdefault((kind, outcome), {})[what] = int(value)
        return [
            Tally(
                kind=kind,
                outcome=outcome,
                count=values["count"],
                duration_sum=values.get("sum", 0) / 1_000_000,
                duration_buckets=[values.get(str(bucket), 0) for bucket in range(len(DURATION_BUCKETS) + 1)],
            )
            for (kind, outcome), values in sorted(counted.items())
        ]

    def _scan(self, index: str, query: ExecutionQuery, wanted: int) -> Sequence[str]:
        """Ids that fit, as many as wanted; a thousand are looked at in one script."""
        low, position = _bounds(query)
        found: list[str] = []
        while position and len(found) < wanted:
            last, *fitting = self._database.run(
                "page_of_executions", index=index, max=position, min=low, scan=SCANNED_AT_ONCE, **_filters(query)
            )
            found += fitting
            position = f"({last}" if last else ""
        return found[:wanted]

    def _read(self, ids: Iterable[UUID]) -> Sequence[Execution]:
        return [
            read_execution(shown)
            for part in parts(ids, SHOWN_AT_ONCE)
            for shown in self._database.run("executions", ids=part)
        ]


def _index(job_id: UUID | None, query: ExecutionQuery) -> str:
    if job_id is not None:
        return f"history:{job_id}"
    return "failed" if query.states and set(query.states) <= FAILED else "executions"


def _bounds(query: ExecutionQuery) -> tuple[str, str]:
    """An id begins with its moment, so that the order of ids serves both."""
    low = "-" if query.since is None else f"[{id_bounds(query.since)[0]}"
    high = None if query.until is None else id_bounds(query.until)[1]
    after = None if query.cursor is None else read_cursor(query.cursor)[1]
    if after is not None and (high is None or after <= high):
        return low, f"({after}"
    return low, "+" if high is None else f"[{high}"


def _filters(query: ExecutionQuery) -> dict[str, Any]:
    return {
        "states": {state.value: True for state in query.states} or None,
        "trigger": query.trigger and query.trigger.value,
        "since": query.since,
        "until": query.until,
    }
