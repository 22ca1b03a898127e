"""What an outcome means for its execution: pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never
from uuid import UUID

from gnomon.job.model import Definition, Delivery, State
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Claimed, Record, Token
from gnomon.job.retry import GiveUp, Retry, decide_retry


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attempt that is over. `owner` is the delivery that claimed it; `rand` in [0, 1) spreads the retries."""

    claimed: Claimed
    owner: UUID
    duration: timedelta
    cancelled: bool
    rand: float


def judge(definition: Definition, tried: Tried, outcome: Outcome) -> Record:
    """The record of an attempt: its final state, or PENDING with the delay until the next attempt."""
    match outcome:
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
