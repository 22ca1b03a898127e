"""Whether a failed attempt is repeated, and when. Pure: randomness is an argument, and so is a strategy."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.handlers import NAME
from gnomon.job.outcome import Failed, Sent

MAX_ATTEMPTS = 100
MAX_DELAY = timedelta(days=1)
MAX_MULTIPLIER = 10.0
MAX_RETRY_AFTER = timedelta(hours=1)  # a target may ask for patience, not switch a job off


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """`max_attempts` counts the first one too. The n-th pause is initial · multiplier^(n-1), at most `maximum`.

    `jitter` is the share of each pause that chance may take away: 0 none, 1 all of it. `strategy` names a function that
    workers have registered: it decides on the pauses instead, within `max_attempts`.
    """

    max_attempts: int = 4
    initial: timedelta = timedelta(seconds=1)
    multiplier: float = 2.0
    maximum: timedelta = timedelta(seconds=300)
    jitter: float = 0.5
    strategy: str | None = None

    def __post_init__(self) -> None:
        delays = f"must be between 0 and {MAX_DELAY // timedelta(seconds=1)}"
        # Written as "not lowest <= value <= highest" so that a NaN is refused.
        rules = (
            ("max_attempts", 1 <= self.max_attempts <= MAX_ATTEMPTS, f"must be between 1 and {MAX_ATTEMPTS}"),
            ("initial_seconds", timedelta(0) <= self.initial <= MAX_DELAY, delays),
            ("multiplier", 1 <= self.multiplier <= MAX_MULTIPLIER, f"must be between 1 and {MAX_MULTIPLIER:g}"),
            ("max_seconds", timedelta(0) <= self.maximum <= MAX_DELAY, delays),
            ("max_seconds", self.initial <= self.maximum, "must not be less than initial_seconds"),
            ("jitter", 0 <= self.jitter <= 1, "must be between 0 and 1"),
            ("strategy", self.strategy is None or NAME.fullmatch(self.strategy), "is not the name of a strategy"),
        )
        errors = [FieldError(pointer=f"/retry/{field}", detail=detail) for field, holds, detail in rules if not holds]
        if errors:
            raise InvalidJob(errors)


@dataclass(frozen=True)
class Retry:
    """Try again, `delay` from now."""

    delay: timedelta


@dataclass(frozen=True)
class GiveUp:
    """Do not try again; the reason is for the operator."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class RetryAttempt:
    """What a strategy is told of the attempt that failed.

    `failures` counts this one and those before, also attempts that were lost. `elapsed` is how long it took, and
    `retry_after` what the target asked for.
    """

    failures: int
    max_attempts: int
    error_code: str
    error_message: str
    response_status: int | None
    elapsed: timedelta
    retry_after: timedelta | None


# The pause until the next attempt, also in seconds; None gives up.
Strategy = Callable[[RetryAttempt], timedelta | float | None]


class WrongAnswer(Exception):
    """A strategy answered what is no pause."""


def decide_retry(
    policy: RetryPolicy,
    *,
    failures: int,
    failure: Failed,
    at_most_once: bool,
    rand: float,
    strategy: Strategy | None = None,
    elapsed: timedelta = timedelta(0),
) -> Retry | GiveUp:
    """What follows a failure. `failures` counts this one and the attempts lost before; `rand` is in [0, 1).

    A `strategy` is asked only where another attempt is allowed. What it raises goes on, and WrongAnswer is raised for
    an answer that is no pause.
    """
    if failure.permanent:
        return GiveUp(f"trying again can't help ({failure.code})")
    if at_most_once and failure.sent is not Sent.NOT_SENT:
        return GiveUp("the target may have seen the request, and the job is delivered at most once")
    if failures >= policy.max_attempts:
        return GiveUp(f"attempt {failures} of {policy.max_attempts} failed")
    if strategy is not None:
        return _read_answer(policy, strategy(_attempt(policy, failures, failure, elapsed)))
    if failure.retry_after is not None:
        return Retry(min(max(failure.retry_after, timedelta(0)), MAX_RETRY_AFTER))
    return Retry(_pause(policy, failures) * (1 - policy.jitter * rand))


def _attempt(policy: RetryPolicy, failures: int, failure: Failed, elapsed: timedelta) -> RetryAttempt:
    return RetryAttempt(
        failures=failures,
        max_attempts=policy.max_attempts,
        error_code=failure.code,
        error_message=failure.message,
        response_status=failure.response_status,
        elapsed=elapsed,
        retry_after=failure.retry_after,
    )


def _read_answer(policy: RetryPolicy, answer: object) -> Retry | GiveUp:
    if answer is None:
        return GiveUp(f"the retry strategy {policy.strategy} gave up")
    seconds = answer.total_seconds() if isinstance(answer, timedelta) else answer
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # NaN
        raise WrongAnswer(f"must answer a timedelta, seconds or None, not {type(answer).__name__}")
    return Retry(timedelta(seconds=min(max(seconds, 0), MAX_DELAY.total_seconds())))


def _pause(policy: RetryPolicy, failures: int) -> timedelta:
    """The pause after the `failures`-th failure, before chance shortens it."""
    if not policy.initial:
        return timedelta(0)
    growth_wanted = policy.maximum / policy.initial
    try:
        growth = policy.multiplier ** (failures - 1)
    except OverflowError:
        return policy.maximum
    return policy.maximum if growth >= growth_wanted else policy.initial * growth
