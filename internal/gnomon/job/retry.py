"""Whether a failed attempt is repeated, and when. Pure: randomness is an argument."""

from dataclasses import dataclass
from datetime import timedelta

from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.outcome import Failed, Sent

MAX_ATTEMPTS = 100
MAX_DELAY = timedelta(days=1)
MAX_MULTIPLIER = 10.0
MAX_RETRY_AFTER = timedelta(hours=1)  # a target may ask for patience, not switch a job off


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """`max_attempts` counts the first one too. The n-th pause is initial · multiplier^(n-1), at most `maximum`.

    `jitter` is the share of each pause that chance may take away: 0 none, 1 all of it.
    """

    max_attempts: int = 4
    initial: timedelta = timedelta(seconds=1)
    multiplier: float = 2.0
    maximum: timedelta = timedelta(seconds=300)
    jitter: float = 0.5

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


def decide_retry(
    policy: RetryPolicy, *, failures: int, failure: Failed, at_most_once: bool, rand: float
) -> Retry | GiveUp:
    """What follows a failure. `failures` counts this one and the attempts lost before; `rand` is in [0, 1)."""
    if failure.permanent:
        return GiveUp(f"trying again can't help ({failure.code})")
    if at_most_once and failure.sent is not Sent.NOT_SENT:
        return GiveUp("the target may have seen the request, and the job is delivered at most once")
    if failures >= policy.max_attempts:
        return GiveUp(f"attempt {failures} of {policy.max_attempts} failed")
    if failure.retry_after is not None:
        return Retry(min(max(failure.retry_after, timedelta(0)), MAX_RETRY_AFTER))
    return Retry(_pause(policy, failures) * (1 - policy.jitter * rand))


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
