"""JobStore on Redis: definitions, revisions and where each job stands."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from gnomon.job.errors import Conflict, NotFound, RevisionMismatch
from gnomon.job.model import Action, Job
from gnomon.job.ports import Event, JobChange, JobQuery, NewJob, Page
from gnomon.storage.cursors import read_cursor, write_cursor
from gnomon.storage.redis.database import SCRIPT_ROWS, RedisDatabase, instant, micros, parts, present
from gnomon.storage.redis.documents import job_columns, job_version, read_job, write_document
from gnomon.storage.refusals import name_taken, no_job, no_job_named

SCANNED_AT_ONCE = 1_000
SHOWN_AT_ONCE = 50


class RedisJobStore:
    """JobStore on Redis. A decision is written only where the job is still as it was when it was decided on."""

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database

    def create(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """One script: the job, its first revision, and the announcement of its first moment."""
        now = self._database.run("clock")
        new = prepare(instant(now))
        created = self._database.run(
            "create",
            id=new.id,
            definition=write_document(new.definition),
            event=_event(Event(action=Action.CREATED, owed_from=instant(now)), 1),
            job={
                **job_columns(new.definition),
                **present({"next_run": new.next_run}),
                "status": "RUNNING",
                "revision": 1,
                "version": 1,
                "misfires_run": 0,
                "created_at": int(now),
                "updated_at": int(now),
            },
        )
        if created == "name_taken":
            raise name_taken(new.definition.name)
        if created == "exists":
            raise Conflict(f"a job {new.id} exists already")
        return read_job(created)

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound."""
        return self._read(no_job(job_id), id=job_id)[0]

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound."""
        return self._read(no_job_named(name), name=name)[0]

    def list(self, query: JobQuery) -> Page[Job]:
        """Newest first. Filters look at each job, a thousand in one script."""
        position = "+" if query.cursor is None else f"({_member(*read_cursor(query.cursor))}"
        found: list[str] = []
        while position and len(found) <= query.offset + query.limit:
            last, *members = self._database.run("page_of_jobs", max=position, scan=SCANNED_AT_ONCE, **_filters(query))
            found += members
            position = f"({last}" if last else ""
        chosen = found[query.offset : query.offset + query.limit]
        items = [
            read_job(shown)
            for part in parts(chosen, SHOWN_AT_ONCE)
            for shown in self._database.run("jobs", ids=[member.partition(":")[2] for member in part])
        ]
        more = len(found) > query.offset + query.limit
        return Page(items=items, cursor=_cursor(chosen[-1]) if more else None)

    def update(self, job_id: UUID, decide: Callable[[Job, datetime], JobChange | None]) -> Job:
        """`decide` is asked again where another change, or a dispatch, was quicker."""

        def attempt() -> Job | None:
            job, now, version = self._read(no_job(job_id), id=job_id)
            change = decide(job, now)
            if change is None:
                return job
            written = self._database.run("update", id=job_id, version=version, **_changes(job, change, now))
            if written == "name_taken":
                raise name_taken(None if change.definition is None else change.definition.name)
            if written == "not_found":
                raise no_job(job_id)
            return None if written == "changed" else read_job(written)

        return self._database.decided(attempt, f"job {job_id}")

    def delete(self, job_id: UUID, *, if_revision: int | None = None) -> None:
        """The job is gone with the first script; where very much waits, it is cancelled in parts."""
        left = self._database.run("delete", id=job_id, revision=if_revision, limit=SCRIPT_ROWS)
        if left == "not_found":
            raise no_job(job_id)
        if isinstance(left, list):
            RevisionMismatch.check(job_id, int(left[0]), if_revision)
        while left:
            left = self._database.run("sweep", id=job_id, limit=SCRIPT_ROWS)

    def _read(self, missing: NotFound, **reference: Any) -> tuple[Job, datetime, str]:
        found = self._database.run("job", **reference)
        if found is None:
            raise missing
        now, shown = found
        return read_job(shown), instant(now), job_version(shown)


def _changes(job: Job, change: JobChange, now: datetime) -> dict[str, Any]:
    edited = change.definition if change.definition != job.definition else None
    revision = job.revision if edited is None else job.revision + 1
    return {
        "status": change.status.value,
        "revision": revision,
        "next_run": change.next_run,
        "pause_reason": change.pause_reason,
        "paused_until": change.paused_until,
        "updated_at": now,
        "event": _event(change.event, revision),
        "columns": None if edited is None else job_columns(edited),
        "definition": None if edited is None else write_document(edited),
    }


def _event(event: Event, revision: int) -> dict[str, Any]:
    entry = {
        "action": event.action.value,
        "revision": revision,
        # as texts: what Lua writes as JSON has fourteen digits
        "owed_from": None if event.owed_from is None else str(micros(event.owed_from)),
        "owed_until": None if event.owed_until is None else str(micros(event.owed_until)),
        "reason": event.reason,
    }
    return present(entry)


def _filters(query: JobQuery) -> dict[str, Any]:
    return {
        "status": query.status and query.status.value,
        "kind": query.kind,
        "tags": list(query.tags),
        "name": None if query.name_contains is None else query.name_contains.lower(),
        "queue": query.queue,
        "next_run_after": query.next_run_after,
        "next_run_before": query.next_run_before,
    }


def _member(created_at: datetime, job_id: UUID) -> str:
    return f"{micros(created_at):016d}:{job_id}"


def _cursor(member: str) -> str:
    created_at, _, job_id = member.partition(":")
    return write_cursor(instant(created_at), UUID(job_id))
