"""What an outcome means for its execution: pure, but for chance, and for asking a retry strategy of the user's."""

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from types import MappingProxyType
from typing import assert_never
from uuid import UUID

from gnomon.job.errors import SecretUnreadable
from gnomon.job.model import Definition, Delivery, State
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Claimed, Record, Token
from gnomon.job.retry import GiveUp, Retry, Strategy, decide_retry

log = logging.getLogger(__name__)

Strategies = Mapping[str, Strategy]
NO_STRATEGIES: Strategies = MappingProxyType({})
MAX_EXCUSED = 20  # attempts of one execution that end without a failure counted
SLOW_SECONDS = 0.1  # a strategy is asked on the event loop: meanwhile nothing else on it goes on


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attempt that is over. `owner` is the delivery that claimed it; `rand` in [0, 1) spreads the retries."""

    claimed: Claimed
    owner: UUID
    duration: timedelta
    cancelled: bool
    rand: float

    @classmethod
    def of(cls, claimed: Claimed, owner: UUID, duration: timedelta, *, cancelled: bool = False) -> "Tried":
        """With any `rand`."""
        rand = random.random()  # noqa: S311 - spreads retries
        return cls(claimed=claimed, owner=owner, duration=duration, cancelled=cancelled, rand=rand)


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """The attempt was broken off through no fault of the job's: its worker stops."""

    sent: Sent
    message: str


def judge(
    definition: Definition,
    tried: Tried,
    outcome: Outcome | Interrupted,
    strategies: Strategies = NO_STRATEGIES,
) -> Record:
    """The record of an attempt: its final state, or PENDING with the delay until the next attempt.

    `strategies` are the retry strategies that this worker has, by name.
    """
    match outcome:
        case Interrupted():
            return _judge_interruption(definition, tried, outcome, strategies)
        case Succeeded():
            return _record(tried, State.SUCCEEDED, outcome)
        case Failed():
            return _judge_failure(definition, tried, outcome, strategies)
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


def closed(error: SecretUnreadable) -> Failed:
    """The outcome of an attempt whose job has a secret that can't be opened; another worker may have the key."""
    return Failed(code="secret_unreadable", message=str(error), sent=Sent.NOT_SENT, permanent=error.permanent)


def not_begun(tried: Tried, *, delay: timedelta) -> Record:
    """The record of an attempt that was claimed and given back before anything was sent."""
    failure = Failed(
        code="interrupted",
        message="the worker gave it back before the call had begun",
        sent=Sent.NOT_SENT,
        permanent=False,
    )
    return _record(tried, State.PENDING, failure, delay=delay)


def _judge_interruption(
    definition: Definition, tried: Tried, interrupted: Interrupted, strategies: Strategies
) -> Record:
    """Tried again at once and at no cost, unless a second effect is forbidden, or this happened too often.

    Without that bound a call that takes longer than workers live would be tried for ever.
    """
    failure = Failed(code="interrupted", message=interrupted.message, sent=interrupted.sent, permanent=False)
    excused_before = tried.claimed.attempt - 1 - tried.claimed.failures
    at_most_once = definition.delivery is Delivery.AT_MOST_ONCE
    doubtful = at_most_once and interrupted.sent is not Sent.NOT_SENT
    if doubtful or tried.cancelled or excused_before >= MAX_EXCUSED:
        return _judge_failure(definition, tried, failure, strategies)
    return _record(tried, State.PENDING, failure)


def _judge_failure(definition: Definition, tried: Tried, failure: Failed, strategies: Strategies) -> Record:
    at_most_once = definition.delivery is Delivery.AT_MOST_ONCE
    if at_most_once and failure.sent is Sent.MAYBE_SENT:
        return _record(tried, State.UNKNOWN, failure, failed=True)
    # at most once, CANCELLED means that nothing was sent: one that was answered has FAILED
    if tried.cancelled and not (at_most_once and failure.sent is Sent.ANSWERED):
        return _record(tried, State.CANCELLED, failure, failed=True)
    decision = _decide(definition, tried, failure, strategies)
    match decision:
        case Retry(delay=delay):
            return _record(tried, State.PENDING, failure, failed=True, delay=delay)
        case GiveUp():
            return _record(tried, State.FAILED, failure, failed=True)
        case _:
            assert_never(decision)


def _decide(definition: Definition, tried: Tried, failure: Failed, strategies: Strategies) -> Retry | GiveUp:
    """Where the strategy is missing or fails, the numbers of the job's policy decide."""
    name = definition.retry.strategy
    if name is None:
        return _ask(definition, tried, failure, None)
    where = {"execution_id": str(tried.claimed.id), "job_id": str(tried.claimed.job_id)}
    strategy = strategies.get(name)
    if strategy is None:
        known = ", ".join(sorted(strategies)) or "none"
        log.warning(
            "job %s: this worker has no retry strategy %r (known: %s); the pause is that of the job's other numbers",
            tried.claimed.job_id,
            name,
            known,
            extra=where,
        )
        return _ask(definition, tried, failure, None)
    asked_at = monotonic()
    try:
        return _ask(definition, tried, failure, strategy)
    except Exception:
        log.exception(
            "job %s: the retry strategy %r failed; the pause is that of the job's other numbers",
            tried.claimed.job_id,
            name,
            extra=where,
        )
        return _ask(definition, tried, failure, None)
    finally:
        if (took := monotonic() - asked_at) > SLOW_SECONDS:
            log.warning(
                "the retry strategy %r took %.1f s, and all calls of this worker waited", name, took, extra=where
            )


def _ask(definition: Definition, tried: Tried, failure: Failed, strategy: Strategy | None) -> Retry | GiveUp:
    return decide_retry(
        definition.retry,
        failures=tried.claimed.failures + 1,
        failure=failure,
        at_most_once=definition.delivery is Delivery.AT_MOST_ONCE,
        rand=tried.rand,
        strategy=strategy,
        elapsed=tried.duration,
    )


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
