"""When a failed attempt is repeated, and how long it waits."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.errors import InvalidJob
from gnomon.job.outcome import Failed, Sent
from gnomon.job.retry import GiveUp, Retry, RetryAttempt, RetryPolicy, WrongAnswer, decide_retry


def failed(**changes: Any) -> Failed:
    fields: dict[str, Any] = {"code": "status", "message": "503", "sent": Sent.ANSWERED, "permanent": False}
    return Failed(**fields | changes)


def decide(
    policy: RetryPolicy, failures: int, failure: Failed | None = None, *, at_most_once: bool = False, rand: float = 0.0
) -> Retry | GiveUp:
    return decide_retry(policy, failures=failures, failure=failure or failed(), at_most_once=at_most_once, rand=rand)


@pytest.mark.parametrize(
    ("failures", "rand", "seconds"),
    [
        (1, 0.0, 1.0),  # 1 · 2^0
        (2, 0.0, 2.0),  # 1 · 2^1
        (3, 0.0, 4.0),  # 1 · 2^2
        (9, 0.0, 256.0),  # 1 · 2^8
        (10, 0.0, 300.0),  # 2^9 = 512 is more than the maximum
        (3, 1.0, 2.0),  # 4 · (1 - 0.5 · 1)
        (3, 0.5, 3.0),  # 4 · (1 - 0.5 · 0.5)
        (10, 0.5, 225.0),  # 300 · (1 - 0.5 · 0.5): the cap comes before the jitter
    ],
)
def test_pause_doubles_up_to_the_maximum_and_jitter_shortens_it(failures: int, rand: float, seconds: float) -> None:
    assert decide(RetryPolicy(max_attempts=20), failures, rand=rand) == Retry(timedelta(seconds=seconds))


def test_default_policy_gives_up_after_the_fourth_failure() -> None:
    assert isinstance(decide(RetryPolicy(), 3), Retry)
    assert decide(RetryPolicy(), 4) == GiveUp("attempt 4 of 4 failed")


def test_one_attempt_means_no_retry() -> None:
    assert isinstance(decide(RetryPolicy(max_attempts=1), 1), GiveUp)


def test_permanent_failure_is_final_at_once() -> None:
    assert isinstance(decide(RetryPolicy(), 1, failed(permanent=True, sent=Sent.NOT_SENT)), GiveUp)


@pytest.mark.parametrize(
    ("sent", "verdict"), [(Sent.NOT_SENT, Retry), (Sent.MAYBE_SENT, GiveUp), (Sent.ANSWERED, GiveUp)]
)
def test_at_most_once_retries_only_what_was_not_sent(sent: Sent, verdict: type) -> None:
    assert isinstance(decide(RetryPolicy(), 1, failed(sent=sent), at_most_once=True), verdict)
    assert isinstance(decide(RetryPolicy(), 1, failed(sent=sent), at_most_once=False), Retry)


@pytest.mark.parametrize(
    ("asked", "delay"),
    [
        (timedelta(seconds=7), timedelta(seconds=7)),
        (timedelta(0), timedelta(0)),
        (timedelta(seconds=-7), timedelta(0)),
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(days=300), timedelta(hours=1)),
    ],
)
def test_retry_after_replaces_the_pause_within_an_hour(asked: timedelta, delay: timedelta) -> None:
    assert decide(RetryPolicy(), 1, failed(retry_after=asked), rand=0.9) == Retry(delay)


def test_retry_after_does_not_buy_another_attempt() -> None:
    assert isinstance(decide(RetryPolicy(), 4, failed(retry_after=timedelta(seconds=1))), GiveUp)


@pytest.mark.parametrize("multiplier", [1.0, 1.0000001, 2.0, 10.0])
def test_a_million_failures_do_not_overflow(multiplier: float) -> None:
    policy = RetryPolicy(multiplier=multiplier)
    object.__setattr__(policy, "max_attempts", 10**7)  # more than a policy may have
    verdict = decide(policy, 10**6)
    assert isinstance(verdict, Retry)
    assert timedelta(seconds=1) <= verdict.delay <= timedelta(seconds=300)


def test_no_initial_pause_never_grows() -> None:
    policy = RetryPolicy(max_attempts=100, initial=timedelta(0), multiplier=10)
    assert {decide(policy, failures) for failures in range(1, 100)} == {Retry(timedelta(0))}


seconds = st.integers(0, 86_400).map(lambda value: timedelta(seconds=value))
policies = st.builds(
    lambda attempts, bounds, multiplier, jitter: RetryPolicy(
        max_attempts=attempts, initial=min(bounds), multiplier=multiplier, maximum=max(bounds), jitter=jitter
    ),
    st.integers(2, 100),
    st.tuples(seconds, seconds),
    st.floats(1, 10),
    st.floats(0, 1),
)


@settings(deadline=None)
@given(policies, st.integers(1, 99), st.floats(0, 1, exclude_max=True))
def test_pause_stays_within_its_bounds_and_never_shrinks(policy: RetryPolicy, failures: int, rand: float) -> None:
    verdict = decide(policy, failures, rand=rand)
    if failures >= policy.max_attempts:
        assert isinstance(verdict, GiveUp)
        return
    assert isinstance(verdict, Retry)
    lowest = policy.initial * (1 - policy.jitter)
    assert lowest - timedelta(microseconds=1) <= verdict.delay <= policy.maximum
    following = decide(policy, failures + 1, rand=rand)
    assert isinstance(following, GiveUp) or following.delay >= verdict.delay


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("max_attempts", {"max_attempts": 0}),
        ("max_attempts", {"max_attempts": 101}),
        ("initial_seconds", {"initial": timedelta(seconds=-1)}),
        ("max_seconds", {"maximum": timedelta(days=1, seconds=1)}),
        ("max_seconds", {"initial": timedelta(seconds=301)}),  # more than the default maximum of 300 s
        ("multiplier", {"multiplier": 0.99}),
        ("multiplier", {"multiplier": 10.1}),
        ("multiplier", {"multiplier": float("nan")}),
        ("jitter", {"jitter": -0.1}),
        ("jitter", {"jitter": 1.1}),
        ("jitter", {"jitter": float("nan")}),
        ("strategy", {"strategy": ""}),
        ("strategy", {"strategy": "a b"}),
        ("strategy", {"strategy": "a\x00"}),
    ],
)
def test_policy_names_the_field_that_is_wrong(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob) as caught:
        RetryPolicy(**changes)
    assert [error.pointer for error in caught.value.errors] == [f"/retry/{field}"]


def test_policy_names_every_field_that_is_wrong() -> None:
    with pytest.raises(InvalidJob) as caught:
        RetryPolicy(max_attempts=0, jitter=2)
    assert [error.pointer for error in caught.value.errors] == ["/retry/max_attempts", "/retry/jitter"]


NAMED = RetryPolicy(max_attempts=4, strategy="patient")


def decide_with(answer: Any, failure: Failed | None = None, failures: int = 1, **more: Any) -> Retry | GiveUp:
    def strategy(attempt: RetryAttempt) -> Any:
        asked.append(attempt)
        return answer

    asked: list[RetryAttempt] = []
    decision = decide_retry(
        NAMED,
        **{"failures": failures, "failure": failure or failed(), "at_most_once": False, "rand": 0.5, **more},
        strategy=strategy,
        elapsed=timedelta(seconds=3),
    )
    assert len(asked) <= 1
    return decision if asked else GiveUp("not asked")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (timedelta(minutes=7), 420),
        (90, 90),
        (0.25, 0.25),
        (0, 0),
        (-5, 0),
        (timedelta(days=-1), 0),
        (timedelta(days=300), 86_400),
        (1e300, 86_400),
        (float("inf"), 86_400),
        (10**400, 86_400),
    ],
)
def test_strategy_decides_on_the_pause_within_a_day(answer: Any, seconds: float) -> None:
    assert decide_with(answer, failed(retry_after=timedelta(seconds=1))) == Retry(timedelta(seconds=seconds))


def test_strategy_gives_up_with_none() -> None:
    decision = decide_with(None)
    assert isinstance(decision, GiveUp)
    assert "patient" in decision.reason


@pytest.mark.parametrize("answer", ["5", float("nan"), True, [], object()])
def test_answer_that_is_no_pause_is_an_error(answer: Any) -> None:
    with pytest.raises(WrongAnswer):
        decide_with(answer)


@pytest.mark.parametrize(
    "case",
    [{"failures": 4}, {"failure": failed(permanent=True)}, {"at_most_once": True}],
    ids=["attempts used up", "permanent", "answered at most once"],
)
def test_strategy_is_not_asked_where_no_attempt_is_allowed(case: dict[str, Any]) -> None:
    assert decide_with(5, **case) == GiveUp("not asked")


def test_strategy_is_told_what_happened() -> None:
    told: list[RetryAttempt] = []

    def strategy(attempt: RetryAttempt) -> int:
        told.append(attempt)
        return 1

    failure = failed(response_status=503, retry_after=timedelta(seconds=9))
    decide_retry(
        NAMED, failures=2, failure=failure, at_most_once=False, rand=0, strategy=strategy, elapsed=timedelta(seconds=3)
    )
    assert told == [
        RetryAttempt(
            failures=2,
            max_attempts=4,
            error_code="status",
            error_message="503",
            response_status=503,
            elapsed=timedelta(seconds=3),
            retry_after=timedelta(seconds=9),
        )
    ]
