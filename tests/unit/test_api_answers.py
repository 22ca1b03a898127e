from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gnomon.api.answers import execution_answer
from gnomon.job.model import Attempt, Execution, State, Trigger

DUE = datetime(2030, 1, 1, 9, tzinfo=UTC)
PENDING = Execution(
    id=UUID(int=1),
    job_id=UUID(int=2),
    revision=1,
    scheduled_at=DUE,
    trigger=Trigger.SCHEDULE,
    state=State.PENDING,
    attempt=0,
    failures=0,
    max_attempts=4,
    created_at=DUE,
    available_at=DUE,
)
FIRST_TRY = Attempt(
    attempt=1,
    worker="worker-1",
    claimed_at=DUE,
    finished_at=DUE + timedelta(seconds=1),
    outcome="FAILED",
    error_code="status",
    error_message="503",
    response_status=503,
)
SUCCEEDED = replace(
    PENDING,
    state=State.SUCCEEDED,
    attempt=2,
    failures=1,
    attempts=(FIRST_TRY,),
    first_started_at=DUE + timedelta(milliseconds=250),
    claimed_at=DUE + timedelta(seconds=3),
    finished_at=DUE + timedelta(seconds=4),
    response_status=200,
    worker="worker-2",
)


def test_times_are_measured_from_the_first_attempt() -> None:
    answer = execution_answer(SUCCEEDED)
    assert answer["start_time"] == "2030-01-01T09:00:00.250000Z"
    assert answer["end_time"] == "2030-01-01T09:00:04Z"
    assert answer["lateness_seconds"] == 0.25
    assert answer["duration_seconds"] == 3.75


def test_attempts_list_the_one_that_ended_the_execution() -> None:
    attempts = execution_answer(SUCCEEDED)["attempts"]
    assert [(tried["attempt"], tried["outcome"], tried["worker"]) for tried in attempts] == [
        (1, "FAILED", "worker-1"),
        (2, "SUCCEEDED", "worker-2"),
    ]


def test_an_execution_cancelled_between_attempts_has_no_attempt_of_that_outcome() -> None:
    cancelled = replace(SUCCEEDED, state=State.CANCELLED, attempt=1)
    assert [tried["outcome"] for tried in execution_answer(cancelled)["attempts"]] == ["FAILED"]


@pytest.mark.parametrize(
    ("state", "success"),
    [
        (State.WAITING, None),
        (State.PENDING, None),
        (State.RUNNING, None),
        (State.SUCCEEDED, True),
        (State.FAILED, False),
        (State.UNKNOWN, False),
        (State.CANCELLED, False),
        (State.SKIPPED, False),
    ],
)
def test_success_is_null_until_the_end(state: State, success: bool | None) -> None:
    assert execution_answer(replace(PENDING, state=state))["success"] is success
