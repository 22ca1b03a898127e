"""Why a job has not run, was late, was skipped or ran twice: in sentences, from what is recorded. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from uuid import UUID

from gnomon.job.document import format_instant
from gnomon.job.handlers import HandlerInfo
from gnomon.job.instance import Instance, Role
from gnomon.job.model import Action, Execution, Job, JobStatus, State, Trigger
from gnomon.job.overview import Evidence
from gnomon.job.ports import Entry
from gnomon.job.target import HandlerTarget

LATE = timedelta(seconds=5)
LOST = "LOST"  # the outcome of an attempt whose worker went silent


@dataclass(frozen=True, kw_only=True)
class Reason:
    """`code` is a short stable word. `execution_id`: of which execution it is told; None of the job itself."""

    code: str
    text: str
    execution_id: UUID | None = None


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Who could run it. `handler`: what is known of the one that the job names, None where nothing is."""

    instances: Sequence[Instance]
    handler: HandlerInfo | None


def reasons(evidence: Evidence, trail: Sequence[Entry], fleet: Fleet) -> list[Reason]:
    """What holds of the job now, then what became of its executions, the newest first. Never empty.

    `trail`: what was done to the job, the latest first.
    """
    told = (_of_execution(one, evidence) for one in evidence.executions)
    return [*_of_job(evidence, trail), *_of_fleet(evidence.job, fleet), *chain.from_iterable(told)]


def _of_job(evidence: Evidence, trail: Sequence[Entry]) -> Iterator[Reason]:
    job, now = evidence.job, evidence.at
    if job.unreadable is not None:
        yield Reason(code="unreadable", text=f"Its stored definition can't be read ({job.unreadable}): edit it.")
    match job.status:
        case JobStatus.STOPPED:
            yield Reason(code="paused", text=_paused(evidence.job, trail))
        case JobStatus.COMPLETED:
            yield Reason(code="completed", text="Its schedule has no further moment; it can still be run by hand.")
        case JobStatus.RUNNING:
            yield from _of_schedule(job, now)
    if not evidence.executions:
        yield Reason(code="no_history", text="No execution of it is recorded.")


def _paused(job: Job, trail: Sequence[Entry]) -> str:
    paused = next((entry for entry in trail if entry.action is Action.PAUSED), None)
    since = job.updated_at if paused is None else paused.at
    who = "" if paused is None or paused.principal_name is None else f" by {paused.principal_name}"
    reason = "" if job.pause_reason is None else f", because: {job.pause_reason}"
    end = "until it is resumed" if job.paused_until is None else f"until {format_instant(job.paused_until)}"
    return f"It is paused{who} since {format_instant(since)}, {end}{reason}."


def _of_schedule(job: Job, now: datetime) -> Iterator[Reason]:
    if job.held_until is not None and job.held_until > now:
        until = format_instant(job.held_until)
        yield Reason(code="held", text=f"It is left alone until {until}: {job.hold_reason}. Edit its schedule.")
    elif job.next_run is not None and job.next_run > now:
        ahead = _span(job.next_run - now)
        yield Reason(code="not_due", text=f"It is due at {format_instant(job.next_run)}, in {ahead}.")
    elif job.next_run is not None:
        since = _span(now - job.next_run)
        yield Reason(
            code="overdue",
            text=f"It was due at {format_instant(job.next_run)}, {since} ago, and no scheduler has looked at it yet.",
        )


def _of_fleet(job: Job, fleet: Fleet) -> Iterator[Reason]:
    living = [instance for instance in fleet.instances if instance.alive]
    if not any(instance.role is Role.SCHEDULER for instance in living):
        yield Reason(code="no_scheduler", text="No scheduler lives: start one with `gnomon scheduler`.")
    if job.definition is None:
        return
    target = job.definition.target
    if not any(target.queue in instance.queues for instance in living if instance.role is Role.WORKER):
        how = f"gnomon worker --worker-queues {target.queue}"
        yield Reason(code="no_worker", text=f"No living worker takes the queue {target.queue!r}: start `{how}`.")
    elif isinstance(target, HandlerTarget) and (fleet.handler is None or not fleet.handler.alive):
        yield Reason(
            code="no_handler",
            text=f"No living worker has the handler {target.name!r}: list its module in --worker-handlers of one.",
        )


def _of_execution(one: Execution, evidence: Evidence) -> Iterator[Reason]:
    def reason(code: str, text: str) -> Reason:
        return Reason(code=code, text=text, execution_id=one.id)

    moment = f"That of {format_instant(one.scheduled_at)}"
    yield from (reason("asked_for", f"{moment} {text}.") for text in _asked(one))
    match one.state:
        case State.SKIPPED:
            yield reason("skipped", f"{moment} {_skipped(one)}.")
        case State.WAITING:
            yield reason("waits_its_turn", f"{moment} waits for {_in_the_way(evidence)} to end.")
        case State.PENDING:
            yield reason(*_pending(one, evidence.at, moment))
        case State.RUNNING:
            since = one.claimed_at or one.available_at
            yield reason("running", f"{moment} runs since {format_instant(since)} on {one.worker}.")
        case State.FAILED | State.UNKNOWN | State.CANCELLED:
            yield reason(one.state.lower(), f"{moment} ended {one.state}{_error(one)}.")
        case State.SUCCEEDED:
            pass
    if one.lateness is not None and one.lateness > LATE:
        yield reason("late", f"{moment} began {_span(one.lateness)} late: {_what_took(one)}.")
    yield from (reason("ran_again", f"{moment} {text}.") for text in _tried(one))


def _asked(one: Execution) -> Iterator[str]:
    match one.trigger:
        case Trigger.MANUAL:
            yield "was asked for by hand, beside the schedule"
        case Trigger.RETRY_OF:
            yield f"was asked for: it tries execution {one.repeats} again"
        case Trigger.BACKFILL:
            yield "was asked for by a backfill"
        case Trigger.SCHEDULE:
            return


def _skipped(one: Execution) -> str:
    until = "" if one.skipped_until in (None, one.scheduled_at) else f" to {format_instant(one.skipped_until)}"
    what = "was skipped" if one.skipped_count == 1 else f"stands for {one.skipped_count} moments{until}, all skipped"
    if one.error_code == "overlap":
        return f"{what}: another execution was unfinished, and the job does not overlap itself"
    return f"{what}: nothing ran then, and by its misfire policy the job does not make up for it"


def _in_the_way(evidence: Evidence) -> str:
    active = [other for other in evidence.executions if other.state in (State.PENDING, State.RUNNING)]
    if not active:
        return "another execution of the job"
    return f"execution {active[-1].id}, which is {active[-1].state},"


def _pending(one: Execution, now: datetime, moment: str) -> tuple[str, str]:
    if one.available_at > now:
        after = f" after {one.failures} failures{_error(one)}" if one.failures else ""
        return "waits_to_try", f"{moment} is tried at {format_instant(one.available_at)}{after}."
    since = _span(now - one.available_at)
    return "waits_for_a_worker", f"{moment} could begin since {since}, and no worker has taken it yet."


def _what_took(one: Execution) -> str:
    """Where the time went: with the schedulers, and from then on with the workers."""
    assert one.first_started_at is not None  # else there is no lateness
    created = max(one.created_at, one.scheduled_at)
    parts = [
        f"{_span(created - one.scheduled_at)} until a scheduler had created it",
        f"{_span(one.first_started_at - created)} until a worker began",
    ]
    return " and ".join(parts)


def _tried(one: Execution) -> Iterator[str]:
    lost = [attempt for attempt in one.attempts if attempt.outcome == LOST]
    if lost:
        yield (
            f"may have run twice: attempt {lost[0].attempt} on {lost[0].worker} went silent until "
            f"{format_instant(lost[0].finished_at)}, and another was made"
        )
    elif one.attempt > 1:
        yield f"was tried {one.attempt} times, because attempts failed{_error(one)}"


def _error(one: Execution) -> str:
    return "" if one.error_message is None else f" ({one.error_code}: {one.error_message})"


def _span(duration: timedelta) -> str:
    seconds = max(duration, timedelta(0)).total_seconds()
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
