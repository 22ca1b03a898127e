"""What an outcome means for its execution: pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never
from uuid import UUID

from gnomon.job.model import Definition, Delivery, State
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Claimed, Record, Token
from gnomon.job.retry import GiveUp, Retry, decide_retry

MAX_EXCUSED = 20  # attempts of one execution that end without a failure counted


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attempt that is over. `owner` is the delivery that claimed it; `rand` in [0, 1) spreads the retries."""

    claimed: Claimed
    owner: UUID
    duration: timedelta
    cancelled: bool
    rand: float


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """The attempt was broken off through no fault of the job's: its worker stops."""

    sent: Sent
    message: str


def judge(definition: Definition, tried: Tried, outcome: Outcome | Interrupted) -> Record:
    """The record of an attempt: its final state, or PENDING with the delay until the next attempt."""
    match outcome:
        case Interrupted():
            return _judge_interruption(definition, tried, outcome)
        case Succeeded():
            return _record(tried, State.SUCCEEDED, outcome)
        case Failed():
            return _judge_failure(definition, tried, outcome)
        case _:
            assert_never(outcome)


def unreadable(tried: Tried) -> Record:
    """The record of an execution whose definition this version can't read: calling it again would not help."""
    failure = Failed(
        code="definition_unreadable",
        message=f"revision {tried.claimed.revision} of the job can't be read by this worker: edit the job to mend it",
        sent=Sent.NOT_SENT,
        permanent=True,
    )
    return _record(tried, State.FAILED, failure, failed=True)


def not_begun(tried: Tried, *, delay: timedelta) -> Record:
    """The record of an attempt that was claimed and given back before anything was sent."""
    failure = Failed(
        code="interrupted",
        message="the worker gave it back before the call had begun",
        sent=Sent.NOT_SENT,
        permanent=False,
    )
    return _record(tried, State.PENDING, failure, delay=delay)


def _judge_interruption(definition: Definition, tried: Tried, interrupted: Interrupted) -> Record:
    """Tried again at once and at no cost, unless a second effect is forbidden, or this happened too often.

    Without that bound a call that takes longer than workers live would be tried for ever.
    """
    failure = Failed(code="interrupted", message=interrupted.message, sent=interrupted.sent, permanent=False)
    excused_before = tried.claimed.attempt - 1 - tried.claimed.failures
    at_most_once = definition.delivery is Delivery.AT_MOST_ONCE
    doubtful = at_most_once and interrupted.sent is not Sent.NOT_SENT
    if doubtful or tried.cancelled or excused_before >= MAX_EXCUSED:
        return _judge_failure(definition, tried, failure)
    return _record(tried, State.PENDING, failure)


def _judge_failure(definition: Definition, tried: Tried, failure: Failed) -> Record:
    at_most_once = definition.delivery is Delivery.AT_MOST_ONCE
    if at_most_once and failure.sent is Sent.MAYBE_SENT:
        return _record(tried, State.UNKNOWN, failure, failed=True)
    if tried.cancelled:
        return _record(tried, State.CANCELLED, failure, failed=True)
    decision = decide_retry(
        definition.retry,
        failures=tried.claimed.failures + 1,
        failure=failure,
        at_most_once=at_most_once,
        rand=tried.rand,
    )
    match decision:
        case Retry(delay=delay):
            return _record(tried, State.PENDING, failure, failed=True, delay=delay)
        case GiveUp():
            return _record(tried, State.FAILED, failure, failed=True)
        case _:
            assert_never(decision)


def _record(
    tried: Tried, state: State, outcome: Outcome, *, failed: bool = False, delay: timedelta = timedelta(0)
) -> Record:
    return Record(
        token=Token(id=tried.claimed.id, attempt=tried.claimed.attempt),
        owner=tried.owner,
        state=state,
        duration=tried.duration,
        delay=delay,
        failed=failed,
        error_code=outcome.code if isinstance(outcome, Failed) else None,
        error_message=outcome.message if isinstance(outcome, Failed) else None,
        response_status=outcome.response_status,
        response_excerpt=outcome.response_excerpt,
    )
