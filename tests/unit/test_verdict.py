"""What a failure means for its execution where the job names a retry strategy."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from gnomon.job.model import Definition, Delivery, State
from gnomon.job.outcome import Failed, Sent
from gnomon.job.ports import Claimed, Record
from gnomon.job.retry import RetryAttempt, RetryPolicy
from gnomon.job.schedule import Every, Timing
from gnomon.job.target import HttpTarget
from gnomon.worker import verdict
from gnomon.worker.verdict import Tried, judge

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FAILURE = Failed(code="status", message="503", sent=Sent.ANSWERED, permanent=False, response_status=503)
CLAIMED = Claimed(id=uuid4(), attempt=1, job_id=uuid4(), revision=1, failures=0, scheduled_at=NOW)
DEFINITION = Definition(
    target=HttpTarget(url="https://example.com"),
    timing=Timing(schedule=Every(60, NOW)),
    retry=RetryPolicy(initial=timedelta(seconds=2), jitter=0, strategy="patient"),
)


def judged(strategies: dict[str, Any], *, cancelled: bool = False) -> Record:
    tried = Tried(claimed=CLAIMED, owner=uuid4(), duration=timedelta(seconds=1), cancelled=cancelled, rand=0)
    return judge(DEFINITION, tried, FAILURE, strategies)


def raises(_: RetryAttempt) -> float:
    raise LookupError("its own trouble")


def test_strategy_of_the_worker_decides() -> None:
    record = judged({"patient": lambda attempt: 60 * attempt.failures})
    assert (record.state, record.delay) == (State.PENDING, timedelta(seconds=60))
    assert judged({"patient": lambda attempt: None}).state is State.FAILED
    assert judged({"patient": lambda attempt: 1}, cancelled=True).state is State.CANCELLED


@pytest.mark.parametrize(
    ("sent", "state"),
    [(Sent.NOT_SENT, State.CANCELLED), (Sent.MAYBE_SENT, State.UNKNOWN), (Sent.ANSWERED, State.FAILED)],
)
def test_cancelled_at_most_once_only_what_was_not_sent_is_cancelled(sent: Sent, state: State) -> None:
    tried = Tried(claimed=CLAIMED, owner=uuid4(), duration=timedelta(seconds=1), cancelled=True, rand=0)
    definition = replace(DEFINITION, delivery=Delivery.AT_MOST_ONCE)
    assert judge(definition, tried, replace(FAILURE, sent=sent)).state is state


@pytest.mark.parametrize(
    ("strategies", "level", "words"),
    [
        ({}, logging.WARNING, "known: none"),
        ({"hasty": lambda attempt: 0}, logging.WARNING, "known: hasty"),
        ({"patient": raises}, logging.ERROR, "its own trouble"),
        ({"patient": lambda attempt: "soon"}, logging.ERROR, "not str"),
    ],
)
def test_without_an_answer_the_numbers_of_the_job_decide_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture, strategies: dict[str, Any], level: int, words: str
) -> None:
    record = judged(strategies)
    assert (record.state, record.delay) == (State.PENDING, timedelta(seconds=2))
    (logged,) = caplog.records
    assert logged.levelno == level
    assert words in caplog.text
    assert "'patient'" in logged.getMessage()
    assert str(CLAIMED.job_id) in logged.getMessage()


def test_slow_strategy_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "SLOW_SECONDS", -1)
    assert judged({"patient": lambda attempt: 1}).delay == timedelta(seconds=1)
    assert "'patient' took" in caplog.text
