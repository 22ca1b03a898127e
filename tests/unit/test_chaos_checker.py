"""The checker of chaos finds each kind of broken promise in books that are right but for that."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chaos.checker import DOUBLED, EARLY, LOST, STUCK, TWICE, check
from chaos.evidence import Effect, Evidence, Row, publications, read_effects, read_messages
from chaos.recovery import Episode, Recovery, percentile, recoveries

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=10)
JOB = "job-1"


def at(number: int) -> datetime:
    """The job's `number`th moment; its first is 1."""
    return NOON + number * STEP


def execution(number: int, **changes: Any) -> Row:
    return {
        "id": f"execution-{number}",
        "job_id": JOB,
        "revision": 1,
        "trigger": "SCHEDULE",
        "scheduled_at": at(number),
        "state": "SUCCEEDED",
        "attempt": 1,
        "error_code": None,
        "first_started_at": at(number) + timedelta(seconds=0.1),
        "skipped_count": 0,
        "skipped_until": None,
        **changes,
    }


def skipped(number: int, count: int) -> Row:
    until = at(number + count - 1)
    return execution(number, state="SKIPPED", skipped_count=count, skipped_until=until, first_started_at=None)


def effect(number: int, **changes: Any) -> Effect:
    given = {"key": f"execution-{number}", "at": at(number) + timedelta(seconds=0.2), "attempt": "1", "status": 200}
    return Effect(**{**given, "path": "/ok", **changes})


def transitions(execution_id: str, *states: str) -> list[Row]:
    notes = []
    for old, new in zip((None, *states[:-1]), states, strict=True):
        notes.append({"execution_id": execution_id, "old": old, "new": new, "at": NOON})
    return notes


def books(
    *rows: Row, job: Mapping[str, Any] | None = None, definition: Mapping[str, Any] | None = None, **more: Any
) -> Evidence:
    """Of a job every ten seconds, created at noon and closed before its fifth moment; by default all is right."""
    executions = list(rows) or [execution(1), execution(2), execution(3), execution(4)]
    succeeded = [row for row in executions if row["state"] == "SUCCEEDED"]
    schedule = {"interval_seconds": 10, "anchor_at": NOON.isoformat(), "delivery": "at_least_once"}
    event = {"job_id": JOB, "revision": 1, "owed_from": NOON, "owed_until": None}
    given: dict[str, Any] = {
        "jobs": [{"id": JOB, "created_at": NOON, "deleted_at": None, "next_run": at(5), **(job or {})}],
        "job_revisions": [{"job_id": JOB, "revision": 1, "definition": {**schedule, **(definition or {})}}],
        "job_events": [event],
        "executions": executions,
        "transitions": [
            note
            for row in executions
            for note in transitions(row["id"], *(("PENDING", "RUNNING") if row in succeeded else ()), row["state"])
        ],
        "effects": [effect(round((row["scheduled_at"] - NOON) / STEP), key=row["id"]) for row in succeeded],
        "created": [{"id": JOB}],
        "at": at(6),
    }
    return Evidence(**{**given, **more})


def kinds(evidence: Evidence) -> list[str]:
    return [violation.kind for violation in check(evidence)]


def test_right_books_are_right() -> None:
    assert check(books()) == []


def test_moments_in_a_skipped_row_count_as_booked() -> None:
    assert check(books(execution(1), skipped(2, 2), execution(4))) == []


def test_moment_without_a_row_is_lost() -> None:
    (violation,) = check(books(execution(1), execution(2), execution(4)))
    assert violation.kind == LOST
    assert str(at(3)) in violation.what


def test_skipped_row_that_counts_wrongly_covers_nothing() -> None:
    row = {**skipped(2, 2), "skipped_count": 3}
    assert kinds(books(execution(1), row, execution(4))) == [LOST, LOST]


@pytest.mark.parametrize(
    "second", [execution(2, id="again"), {**skipped(2, 1), "id": "again"}, {**skipped(2, 2), "id": "again"}]
)
def test_moment_in_two_rows_is_a_duplicate(second: Row) -> None:
    assert DOUBLED in kinds(books(execution(1), execution(2), execution(3), execution(4), second))


def test_row_for_no_moment_of_the_schedule_is_a_duplicate() -> None:
    odd = execution(9, scheduled_at=at(1) + timedelta(seconds=5))
    assert kinds(books(execution(1), odd, execution(2), execution(3), execution(4))) == [DOUBLED]


def test_moment_at_or_after_next_run_is_not_owed_yet() -> None:
    rows = [execution(number) for number in (1, 2, 3, 4, 5)]
    assert kinds(books(*rows)) == [DOUBLED]


def test_job_that_completed_too_soon_owes_the_rest() -> None:
    assert kinds(books(job={"next_run": None})) == [LOST]


def test_cron_moments_are_enumerated_in_the_zone_of_the_job() -> None:
    nine = {"cron_schedule": "0 9 * * *", "timezone": "Asia/Kolkata", "interval_seconds": None, "anchor_at": None}
    moment = datetime(2026, 3, 2, 3, 30, tzinfo=UTC)
    job = {"next_run": moment + timedelta(days=1)}
    right = books(execution(1, scheduled_at=moment), job=job, definition=nine, effects=[])
    assert kinds(replace(right, effects=[effect(1, at=moment)])) == []
    wrong = books(execution(1, scheduled_at=moment.replace(hour=9, minute=0)), job=job, definition=nine, effects=[])
    assert set(kinds(wrong)) == {LOST, DOUBLED}


def test_one_off_runs_exactly_once() -> None:
    once = {"execute_at": at(3).isoformat(), "interval_seconds": None, "anchor_at": None}
    assert kinds(books(execution(3), job={"next_run": None}, definition=once)) == []
    assert kinds(books(skipped(1, 0), job={"next_run": None}, definition=once)) == [LOST, DOUBLED]


def events(*told: tuple[datetime | None, datetime | None, int]) -> list[Row]:
    return [
        {"job_id": JOB, "revision": revision, "owed_from": since, "owed_until": until}
        for since, until, revision in told
    ]


def test_moments_during_a_pause_are_not_owed_and_those_around_it_are() -> None:
    paused = events((NOON, None, 1), (None, at(2), 1), (at(4), None, 1))
    assert kinds(books(execution(1), execution(4), job_events=paused)) == []
    assert kinds(books(execution(1), job_events=paused)) == [LOST]
    assert kinds(books(execution(1), execution(3), execution(4), job_events=paused)) == [DOUBLED]


def test_after_an_edit_the_new_schedule_owes() -> None:
    edited = events((NOON, None, 1), (at(2), at(2), 2))
    twice_as_slow = {"interval_seconds": 20, "anchor_at": at(2).isoformat(), "delivery": "at_least_once"}
    revisions = [
        *books().job_revisions,
        {"job_id": JOB, "revision": 2, "definition": twice_as_slow},
    ]
    assert kinds(books(execution(1), execution(4), job_events=edited, job_revisions=revisions)) == []
    assert kinds(books(execution(1), execution(2), execution(4), job_events=edited, job_revisions=revisions)) == [
        DOUBLED
    ]


def test_deletion_ends_what_is_owed() -> None:
    deleted = events((NOON, None, 1), (None, at(3), 1))
    gone = {"deleted_at": at(3), "next_run": None}
    assert kinds(books(execution(1), execution(2), job=gone, job_events=deleted)) == []
    assert kinds(books(execution(1), job=gone, job_events=deleted)) == [LOST]


def test_acknowledged_job_that_is_not_there_is_lost() -> None:
    assert kinds(books(created=[{"id": "another"}])) == [LOST]


def test_run_that_was_acknowledged_and_is_not_there_is_lost() -> None:
    assert kinds(books(runs=[{"job_id": JOB, "key": "k", "execution_id": "nowhere"}])) == [LOST]


def test_run_that_was_asked_for_once_and_is_there_twice_is_a_duplicate() -> None:
    manual = [execution(number, id=f"manual-{number}", trigger="MANUAL") for number in (1, 2)]
    rows = [execution(number) for number in (1, 2, 3, 4)]
    asked = [{"job_id": JOB, "key": "k", "execution_id": "manual-1"}]
    assert kinds(books(*rows, *manual, runs=asked)) == [DOUBLED]
    assert kinds(books(*rows, *manual[:1], runs=asked)) == []


def test_moment_that_ran_and_was_backfilled_is_a_duplicate() -> None:
    backfilled = execution(2, id="made-up-for", trigger="BACKFILL")
    rows = [execution(number) for number in (1, 3, 4)]
    assert kinds(books(*rows, execution(2), backfilled)) == [DOUBLED]
    assert kinds(books(*rows, skipped(2, 1), backfilled)) == []


@pytest.mark.parametrize("state", ["WAITING", "PENDING", "RUNNING"])
def test_row_that_is_not_final_is_stuck(state: str) -> None:
    assert kinds(books(execution(1), execution(2), execution(3), execution(4, state=state))) == [STUCK]


def test_job_or_worker_that_does_not_go_on_is_stuck() -> None:
    assert kinds(books(stuck=["worker-1"])) == [STUCK]


@pytest.mark.parametrize(
    "states", [("PENDING", "SUCCEEDED", "FAILED", "SUCCEEDED"), ("PENDING", "SUCCEEDED", "SUCCEEDED")]
)
def test_second_transition_into_a_final_state_is_a_duplicate(states: tuple[str, ...]) -> None:
    right = books()
    notes = [note for note in right.transitions if note["execution_id"] != "execution-2"]
    assert kinds(replace(right, transitions=[*notes, *transitions("execution-2", *states)])) == [DOUBLED]


def test_state_that_the_witness_did_not_see_is_reported() -> None:
    right = books()
    assert kinds(replace(right, transitions=right.transitions[:-1])) == [DOUBLED]


def test_success_without_a_line_of_the_sink_is_lost() -> None:
    assert kinds(books(effects=[effect(number) for number in (1, 2, 3)])) == [LOST]


def test_success_whose_calls_were_all_answered_with_failures_is_lost() -> None:
    assert kinds(books(effects=[*(effect(number) for number in (1, 2, 3)), effect(4, status=503)])) == [LOST]


def test_call_of_the_sink_without_a_record_is_lost() -> None:
    right = books()
    assert kinds(replace(right, effects=[*right.effects, effect(4, key="nobody's")])) == [LOST]


def test_second_effect_of_an_at_most_once_job_is_a_violation_and_of_others_is_not() -> None:
    right = books()
    twice = [*right.effects, effect(2, attempt="2")]
    assert kinds(replace(right, effects=twice)) == []
    strict = books(definition={"delivery": "at_most_once"}, effects=twice)
    assert kinds(strict) == [TWICE]


def test_attempt_that_was_sent_twice_is_a_duplicate() -> None:
    right = books()
    assert kinds(replace(right, effects=[*right.effects, effect(2)])) == [DOUBLED]


def test_effect_before_its_moment_is_early() -> None:
    right = books()
    sooner = [*right.effects[:-1], effect(4, at=at(4) - timedelta(seconds=0.01))]
    assert kinds(replace(right, effects=sooner)) == [EARLY]


def test_last_line_of_the_sink_counts_only_when_it_was_written_to_its_end() -> None:
    log = "1772366400.250000\tkey-1\t1\t200\t/ok\n1772366401.0"
    assert [found.key for found in read_effects(log)] == ["key-1"]


def delivery(number: int, *, stamp: int, attempt: str = "1", redelivered: str = "0") -> str:
    """A line of the witness."""
    return f"1772366400.5\t{stamp:017}\texecution-{number}\t{attempt}\t{redelivered}\trouted\n"


MESSAGES = {"definition": {"type": "AMQP"}}


def published(*lines: str) -> list[Effect]:
    return list(publications(read_messages("".join(lines))))


def stamp_of(number: int) -> int:
    return int((at(number) + timedelta(seconds=0.1)).timestamp() * 1e6)


def test_message_that_was_delivered_again_was_published_once() -> None:
    lines = [delivery(number, stamp=stamp_of(number)) for number in (1, 2, 3, 4)]
    again = delivery(2, stamp=stamp_of(2), redelivered="1")
    forgotten = delivery(2, stamp=stamp_of(2))  # as a broker does that was killed
    strict = {"type": "AMQP", "delivery": "at_most_once"}
    assert kinds(books(definition=strict, effects=published(*lines, again, forgotten))) == []


def test_attempt_that_was_published_twice_is_a_duplicate_and_a_violation_where_one_is_allowed() -> None:
    lines = [delivery(number, stamp=stamp_of(number)) for number in (1, 2, 3, 4)]
    again = delivery(2, stamp=stamp_of(2) + 1)
    assert kinds(books(**MESSAGES, effects=published(*lines, again))) == [DOUBLED]
    strict = {"type": "AMQP", "delivery": "at_most_once"}
    assert kinds(books(definition=strict, effects=published(*lines, again))) == [TWICE, DOUBLED]


def test_success_of_an_attempt_whose_message_never_came_is_lost() -> None:
    lines = [delivery(number, stamp=stamp_of(number)) for number in (1, 2, 3, 4)]
    retried = execution(4, attempt=2)
    rows = [execution(number) for number in (1, 2, 3)]
    assert kinds(books(*rows, retried, **MESSAGES, effects=published(*lines))) == [LOST]
    second = delivery(4, stamp=stamp_of(4) + 9, attempt="2")
    assert kinds(books(*rows, retried, **MESSAGES, effects=published(*lines, second))) == []


def test_message_of_an_attempt_that_was_unroutable_is_reported() -> None:
    lines = [delivery(number, stamp=stamp_of(number)) for number in (1, 2, 3, 4)]
    rows = [execution(number) for number in (1, 2, 3)]
    failed = execution(4, state="FAILED", error_code="unroutable")
    assert kinds(books(*rows, failed, **MESSAGES, effects=published(*lines[:3]))) == []
    assert kinds(books(*rows, failed, **MESSAGES, effects=published(*lines))) == [DOUBLED]


@pytest.mark.parametrize(
    ("state", "attempts", "expected"),
    [
        ("SUCCEEDED", [2], []),
        ("SUCCEEDED", [], [LOST]),
        ("SUCCEEDED", [1], [LOST]),
        ("SUCCEEDED", [1, 2], [DOUBLED]),
        ("FAILED", [], []),
        ("UNKNOWN", [2], [DOUBLED]),
    ],
)
def test_row_of_a_transaction_is_there_exactly_if_its_success_is(
    state: str, attempts: list[int], expected: list[str]
) -> None:
    row = execution(4, state=state, attempt=2, kind="chaos_row")
    written = [{"execution_id": row["id"], "attempt": attempt} for attempt in attempts]
    assert kinds(books(execution(1), execution(2), execution(3), row, written=written)) == expected


def test_message_before_its_moment_is_early() -> None:
    lines = [delivery(number, stamp=stamp_of(number)) for number in (1, 2, 3)]
    sooner = delivery(4, stamp=stamp_of(4) - 200_000)
    assert kinds(books(**MESSAGES, effects=published(*lines, sooner))) == [EARLY]


def test_last_line_of_the_witness_counts_only_when_it_was_written_to_its_end() -> None:
    assert [message.key for message in read_messages(delivery(1, stamp=7) + "1772366400.5\t00")] == ["execution-1"]


def episode(begun: float, ended: float, victim: str = "database") -> Episode:
    begun_at, ended_at = NOON + timedelta(seconds=begun), NOON + timedelta(seconds=ended)
    return Episode(name="restart", victim=victim, begun_at=begun_at, ended_at=ended_at)


def recovery(evidence: Evidence, told: Episode) -> Recovery:
    (found,) = recoveries(evidence, [told])
    return found


def test_recovery_lasts_until_what_fell_due_meanwhile_has_started() -> None:
    late = execution(2, first_started_at=at(2) + timedelta(seconds=8))
    found = recovery(books(execution(1), late, execution(3), execution(4)), episode(19, 23))
    assert found.last == 5  # due at 20, started at 28
    assert found.first == pytest.approx(7.1)  # the moment at 30


def test_recovery_counts_attempts_that_were_lost_with_the_process() -> None:
    lost = {"worker": "worker-1", "outcome": "LOST", "claimed_at": at(2), "finished_at": at(2) + timedelta(seconds=9)}
    evidence = books(attempts=[lost])
    assert recovery(evidence, episode(21, 21, "worker-1")).last == 8
    assert recovery(evidence, episode(21, 21, "worker-2")).last == 0


def test_execution_that_waited_for_another_is_due_when_it_no_longer_had_to() -> None:
    row = execution(2, first_started_at=at(3))
    notes = transitions(row["id"], "WAITING", "PENDING", "RUNNING", "SUCCEEDED")
    freed = [{**note, "at": at(3)} if note["new"] == "PENDING" else note for note in notes]
    assert recovery(books(row, transitions=freed), episode(19, 21)).last == 0


def test_percentile_is_a_value_that_occurred() -> None:
    assert percentile([float(number) for number in range(1, 201)], 0.99) == 198
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.99) == 0
