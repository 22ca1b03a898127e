"""Values of the courtyard as the documents that are answered."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from gnomon.job.bulk import Chosen, Outcome
from gnomon.job.document import format_instant, plain_seconds, write_definition
from gnomon.job.handlers import HandlerInfo
from gnomon.job.instance import Instance
from gnomon.job.model import Attempt, Execution, Job, JobStatus, State
from gnomon.job.overview import QueueDepth, Spread, Stats
from gnomon.job.ports import Entry, Repeatable, Repeated
from gnomon.job.preview import Preview
from gnomon.job.schedule import describe
from gnomon.job.service import upcoming
from gnomon.job.why import Reason

Answer = dict[str, Any]


def job_answer(job: Job) -> Answer:
    """The definition without its secrets, and where the job stands."""
    return {
        "id": str(job.id),
        **_definition_answer(job),
        "status": job.status.value,
        "next_run": _instant(job.next_run),
        "last_run": _instant(job.last_run),
        "locked_until": _instant(job.locked_until),
        "locked_by": job.locked_by,
        "revision": job.revision,
        "created_at": _instant(job.created_at),
        "updated_at": _instant(job.updated_at),
        "held_until": _instant(job.held_until),
        "hold_reason": job.hold_reason,
        "pause_reason": job.pause_reason,
        "paused_until": _instant(job.paused_until),
        "unreadable": job.unreadable,
    }


def export_answer(job: Job) -> Answer:
    """What an import makes the same job of, but for its secrets."""
    return {
        "id": str(job.id),
        **_definition_answer(job),
        "status": job.status.value,
        "pause_reason": job.pause_reason,
        "paused_until": _instant(job.paused_until),
        **({} if job.unreadable is None else {"unreadable": job.unreadable}),
    }


def changed_answer(job: Job, warnings: Sequence[str]) -> Answer:
    """The job with what keeps it from running as defined."""
    return {**job_answer(job), "warnings": list(warnings)}


def created_answer(job: Job, warnings: Sequence[str]) -> Answer:
    """The job with what its schedule means: the next five moments, and words."""
    return {
        **changed_answer(job, warnings),
        "next_runs": [_instant(moment) for moment in upcoming(job, 5)],
        "schedule_text": None if job.definition is None else describe(job.definition.timing.schedule),
    }


def preview_answer(found: Preview) -> Answer:
    """What a schedule would do, by the clocks of its zone too."""
    return {
        "schedule_text": found.words,
        "timezone": found.zone.key,
        "runs": [
            {"at": _instant(moment), "local": moment.astimezone(found.zone).isoformat()} for moment in found.moments
        ],
        "warnings": list(found.warnings),
    }


def execution_answer(execution: Execution) -> Answer:
    """One occurrence with all its attempts that ended, the last one included."""
    return {
        "id": str(execution.id),
        "job_id": str(execution.job_id),
        "scheduled_at": _instant(execution.scheduled_at),
        "state": execution.state.value,
        "trigger": execution.trigger.value,
        "attempt": execution.attempt,
        "start_time": _instant(execution.first_started_at),
        "end_time": _instant(execution.finished_at),
        "success": execution.state is State.SUCCEEDED if execution.state.final else None,
        "error_code": execution.error_code,
        "error_message": execution.error_message,
        "response_status": execution.response_status,
        "response_excerpt": execution.response_excerpt,
        "revision": execution.revision,
        "repeats": None if execution.repeats is None else str(execution.repeats),
        "lateness_seconds": None if execution.lateness is None else plain_seconds(execution.lateness),
        "duration_seconds": None if execution.duration is None else plain_seconds(execution.duration),
        "cancel_requested_at": _instant(execution.cancel_requested_at),
        "skipped_count": execution.skipped_count,
        "skipped_until": _instant(execution.skipped_until),
        "worker": execution.worker,
        "attempts": [*map(_attempt_answer, execution.attempts), *_last_attempt(execution)],
    }


def backfill_answer(moments: Sequence[datetime], *, dry_run: bool) -> Answer:
    """The moments that are made up for, or would be."""
    return {"dry_run": dry_run, "count": len(moments), "moments": [_instant(moment) for moment in moments]}


def instance_answer(instance: Instance) -> Answer:
    """A process, living or ended."""
    return {
        "id": str(instance.id),
        "name": instance.name,
        "role": instance.role.value,
        "host": instance.host,
        "pid": instance.pid,
        "version": instance.version,
        "queues": list(instance.queues),
        "started_at": _instant(instance.started_at),
        "last_seen_at": _instant(instance.heartbeat_at),
        "left_at": _instant(instance.left_at),
        "alive": instance.alive,
        "leader": instance.leader,
    }


def handler_answer(handler: HandlerInfo) -> Answer:
    """What can be the type of a job."""
    return {
        "name": handler.name,
        "queue": handler.queue,
        "schema": handler.schema,
        "last_seen_at": _instant(handler.last_seen_at),
        "alive": handler.alive,
    }


def chosen_answer(action: str, found: Chosen) -> Answer:
    """To which jobs it would be done."""
    return {
        "action": action,
        "dry_run": True,
        "count": found.count,
        "sample": [job_answer(job) for job in found.newest],
    }


def bulk_answer(action: str, outcome: Outcome) -> Answer:
    """To which jobs it was done, and to which not."""
    return {
        "action": action,
        "dry_run": False,
        "count": outcome.matched,
        "done": [
            {**_named(one.job), "execution_id": None if one.execution_id is None else str(one.execution_id)}
            for one in outcome.done
        ],
        "refused": [{**_named(one.job), "code": one.code, "reason": one.reason} for one in outcome.refused],
        "cursor": outcome.cursor,
    }


def why_answer(job: Job, at: datetime, found: Sequence[Reason]) -> Answer:
    """What holds of a job, and what became of its executions, in sentences."""
    return {
        "job_id": str(job.id),
        "at": _instant(at),
        "reasons": [
            {
                "code": reason.code,
                "text": reason.text,
                "execution_id": None if reason.execution_id is None else str(reason.execution_id),
            }
            for reason in found
        ],
    }


def queue_answer(name: str, depth: QueueDepth | None, workers: int) -> Answer:
    """What is unfinished of a queue (None: nothing), and who takes from it."""
    oldest = None if depth is None else depth.oldest_due_at
    age = None if depth is None or oldest is None else max(depth.at - oldest, timedelta(0))
    return {
        "name": name,
        "workers": workers,
        "due": 0 if depth is None else depth.due,
        "sent": 0 if depth is None else depth.sent,
        "later": 0 if depth is None else depth.later,
        "waiting": 0 if depth is None else depth.waiting,
        "running": 0 if depth is None else depth.running,
        "oldest_due_at": _instant(oldest),
        "oldest_age_seconds": None if age is None else plain_seconds(age),
    }


def stats_answer(stats: Stats, window: timedelta) -> Answer:
    """How it goes."""
    return {
        "at": _instant(stats.at),
        "window_seconds": plain_seconds(window),
        "jobs": {
            **{status.value: stats.jobs.get(status, 0) for status in JobStatus},
            "held": stats.held,
            "overdue": stats.overdue,
        },
        "executions": {state.value: stats.executions[state] for state in State},
        "counted": stats.counted,
        "complete": stats.complete,
        "lateness_seconds": _spread(stats.lateness),
        "duration_seconds": _spread(stats.duration),
    }


def _spread(spread: Spread | None) -> Answer | None:
    if spread is None:
        return None
    return {
        "median": plain_seconds(spread.median),
        "p95": plain_seconds(spread.p95),
        "p99": plain_seconds(spread.p99),
        "max": plain_seconds(spread.longest),
    }


def _named(job: Job) -> Answer:
    return {"id": str(job.id), "name": job.name}


def repeatable_answer(found: Repeatable) -> Answer:
    """What would be tried again."""
    return {"dry_run": True, "count": found.count, "sample": [execution_answer(one) for one in found.oldest]}


def repeated_answer(done: Repeated) -> Answer:
    """What was tried again, and what was not."""
    return {
        "dry_run": False,
        "count": done.matched,
        "created": [_repetition(execution) for execution in done.created],
        "refused": [{"id": str(one.execution_id), "code": one.code, "reason": one.reason} for one in done.refused],
        "remaining": done.matched - len(done.created) - len(done.refused),
    }


def event_answer(entry: Entry) -> Answer:
    """An entry of an audit trail."""
    by = None if entry.principal_id is None else {"id": entry.principal_id, "name": entry.principal_name}
    return {
        "at": _instant(entry.at),
        "action": entry.action.value,
        "revision": entry.revision,
        "by": by,
        "reason": entry.reason,
        "changed": list(entry.changed),
    }


def _repetition(execution: Execution) -> Answer:
    return {
        "id": str(execution.id),
        "job_id": str(execution.job_id),
        "repeats": str(execution.repeats),
        "state": execution.state.value,
    }


def etag(job: Job) -> Mapping[str, str]:
    """The header that names the revision."""
    return {"ETag": f'"{job.revision}"'}


def _definition_answer(job: Job) -> Answer:
    """What is known of a definition that can't be read is its name, its kind and its tags."""
    if job.definition is None:
        return {"type": job.kind, "name": job.name, "tags": list(job.tags)}
    return write_definition(job.definition, secrets=False)


def _attempt_answer(attempt: Attempt) -> Answer:
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "claimed_at": _instant(attempt.claimed_at),
        "finished_at": _instant(attempt.finished_at),
        "outcome": attempt.outcome,
        "error_code": attempt.error_code,
        "error_message": attempt.error_message,
        "response_status": attempt.response_status,
    }


def _last_attempt(execution: Execution) -> list[Answer]:
    """The attempt that ended the execution is kept in the execution itself.

    One that was cancelled between two attempts ended without one.
    """
    known = {attempt.attempt for attempt in execution.attempts}
    if not execution.state.final or execution.attempt == 0 or execution.attempt in known:
        return []
    last = Attempt(
        attempt=execution.attempt,
        worker=execution.worker,
        claimed_at=execution.claimed_at,
        finished_at=execution.finished_at or execution.available_at,
        outcome=execution.state.value,
        error_code=execution.error_code,
        error_message=execution.error_message,
        response_status=execution.response_status,
    )
    return [_attempt_answer(last)]


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else format_instant(moment)
