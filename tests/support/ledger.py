"""Whether everything that happened in one database agrees: schedule, rows, transitions, attempts, counts, target.

`watch` makes the database write down each transition of an execution; `complaints` reads it all when it is over. What
is expected comes from the schedule and the target's own record, not from the code under test.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from servers.target import Request
from sqlalchemy import Row

from support.books import unbalanced_moments
from support.world import World

FINAL = {"SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED", "SKIPPED"}

_WATCH = """
create table transitions (
    number bigint generated always as identity, execution_id uuid, old_state text, new_state text, attempt int,
    failed boolean
);
create function note_transition() returns trigger language plpgsql as $$
begin
    insert into transitions (execution_id, old_state, new_state, attempt, failed) values (
        new.id, case when tg_op = 'UPDATE' then old.state end, new.state, new.attempt,
        case when tg_op = 'UPDATE' then new.failures > old.failures end
    );
    return null;
end $$;
create trigger noted_birth after insert on executions for each row execute function note_transition();
create trigger noted_transition after update on executions for each row
    when (old.state is distinct from new.state) execute function note_transition();
"""


def watch(cursor: Any) -> None:
    """Installs the audit; from then on every transition is kept, whoever makes it."""
    cursor.execute(_WATCH)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a job's executions may come to. `seconds`: how long its target takes to answer, at least."""

    seconds: float = 0.0
    at_most_once: bool = False
    may_fail: bool = False
    may_be_cancelled: bool = False
    may_be_skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All there is to compare."""

    jobs: Sequence[UUID]
    executions: Sequence[Row[Any]]
    transitions: Mapping[UUID, Sequence[Row[Any]]]
    attempts: Mapping[UUID, Sequence[Row[Any]]]
    tallies: Mapping[str, int]
    requests: Mapping[str | None, Sequence[Request]]
    promises: Mapping[UUID, Promise] = field(repr=False)


def complaints(world: World, requests: Iterable[Request], promises: Mapping[UUID, Promise]) -> list[str]:
    """What is wrong, a line each; empty when all agrees. Jobs without a promise get the strictest."""
    evidence = _gather(world, requests, promises)
    return [
        *_unbalanced(world, evidence),
        *_unknown_callers(evidence),
        *_wrong_tallies(evidence),
        *(line for execution in evidence.executions for line in _wrong_execution(evidence, execution)),
    ]


def _gather(world: World, requests: Iterable[Request], promises: Mapping[UUID, Promise]) -> Evidence:
    by_key: dict[str | None, list[Request]] = defaultdict(list)
    for request in requests:
        by_key[request.key].append(request)
    return Evidence(
        jobs=[row.id for row in world.sql("select id from jobs")],
        executions=world.sql("select * from executions order by id"),
        transitions=_by_execution(world.sql("select * from transitions order by number")),
        attempts=_by_execution(world.sql("select * from attempts order by attempt")),
        tallies={row.outcome: row.total for row in world.sql(_TALLIES)},
        requests=by_key,
        promises=promises,
    )


_TALLIES = "select outcome, sum(count)::int as total from tallies group by outcome"


def _by_execution(rows: Iterable[Row[Any]]) -> Mapping[UUID, Sequence[Row[Any]]]:
    grouped: dict[UUID, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[row.execution_id].append(row)
    return grouped


def _unbalanced(world: World, evidence: Evidence) -> Iterator[str]:
    """Every moment that the schedule owed in exactly one row."""
    ran = Counter(row.job_id for row in evidence.executions)
    for job_id in evidence.jobs:
        if not ran[job_id]:
            yield f"job {job_id} never ran"
        for moment, count in unbalanced_moments(world, job_id).items():
            yield f"job {job_id}: the moment {moment} lies in {count} rows"


def _unknown_callers(evidence: Evidence) -> Iterator[str]:
    known = {str(row.id) for row in evidence.executions}
    for key in evidence.requests.keys() - known:
        yield f"the target was called for {key}, which has no row"


def _wrong_tallies(evidence: Evidence) -> Iterator[str]:
    """What /metrics sums is counted in the statements that change the rows, so it can't be off by one."""
    tallies = evidence.tallies
    states = Counter(row.state for row in evidence.executions)
    outcomes = Counter(row.outcome for rows in evidence.attempts.values() for row in rows)
    expected = {
        "started": sum(row.first_started_at is not None for row in evidence.executions),
        "retried": outcomes["FAILED"],
        "lost": outcomes["LOST"],
        **{state: states[state] for state in ("SUCCEEDED", "FAILED", "UNKNOWN")},
    }
    for outcome, count in expected.items():
        if tallies.get(outcome, 0) != count:
            yield f"{tallies.get(outcome, 0)} were counted as {outcome}, {count} were"


def _wrong_execution(evidence: Evidence, row: Row[Any]) -> Iterator[str]:
    promise = evidence.promises.get(row.job_id, Promise())
    history = evidence.transitions.get(row.id, ())
    seen = evidence.requests.get(str(row.id), ())
    for line in (
        *_wrong_state(promise, row),
        *_wrong_history(row, history, evidence.attempts.get(row.id, ())),
        *_wrong_effects(promise, row, seen),
        *_effects_of_released(history, evidence.attempts.get(row.id, ()), seen),
    ):
        states = " ".join(f"{one.new_state}({one.attempt})" for one in history)
        calls = ", ".join(str(request.header("x-scheduler-attempt")) for request in seen) or "none"
        yield f"execution {row.id} of {row.job_id} [{states}; calls of attempts: {calls}]: {line}"


def _wrong_state(promise: Promise, row: Row[Any]) -> Iterator[str]:
    allowed = {
        "SUCCEEDED": True,
        "FAILED": promise.may_fail,
        "UNKNOWN": promise.at_most_once,
        "CANCELLED": promise.may_be_cancelled,
        "SKIPPED": promise.may_be_skipped,
    }
    if not allowed.get(row.state, False):
        yield f"it must not be {row.state} ({row.error_code}: {row.error_message})"


def _wrong_history(row: Row[Any], history: Sequence[Row[Any]], kept: Sequence[Row[Any]]) -> Iterator[str]:
    ends = [one for one in history if one.new_state in FINAL]
    claims = [one.attempt for one in history if one.new_state == "RUNNING"]
    again = [one for one in history if one.old_state == "RUNNING" and one.new_state == "PENDING"]
    failed = {one.attempt for one in again if one.failed}
    tried = {one.attempt for one in kept}
    if len(ends) != 1:
        yield f"it came to an end {len(ends)} times"
    if claims != list(range(1, row.attempt + 1)):
        yield f"its attempt is {row.attempt}, but claimed were {claims}"
    if not failed <= tried <= {one.attempt for one in again}:  # what is given back before it was sent leaves no trace
        yield f"kept are the attempts {tried}, but it was tried again after {[one.attempt for one in again]}"
    if not len(failed) <= row.failures <= len(failed) + 1:
        yield f"{row.failures} failures are counted, {len(failed)} were followed by another attempt"


def _wrong_effects(promise: Promise, row: Row[Any], seen: Sequence[Request]) -> Iterator[str]:
    calls = Counter(request.header("x-scheduler-attempt") for request in seen)
    last = [request for request in seen if request.header("x-scheduler-attempt") == str(row.attempt)]
    if row.state == "SUCCEEDED" and not last:
        yield "it succeeded, but the target never saw that attempt"
    if row.state == "SUCCEEDED" and any(_answered_at(request, promise) > row.finished_at for request in last):
        yield "it succeeded before the target had answered that attempt"
    if promise.at_most_once and len(seen) > 1:
        yield f"at most once, and the target was called {len(seen)} times"
    if any(count > 1 for count in calls.values()):
        yield "one attempt called the target more than once"
    if any(int(attempt or 0) not in range(1, row.attempt + 1) for attempt in calls):
        yield "the target saw an attempt that was never claimed"
    if any(request.arrived_at < row.scheduled_at for request in seen):
        yield "the target was called before the moment"


def _answered_at(request: Request, promise: Promise) -> datetime:
    return request.arrived_at + timedelta(seconds=promise.seconds)


def _effects_of_released(
    history: Sequence[Row[Any]], kept: Sequence[Row[Any]], seen: Sequence[Request]
) -> Iterator[str]:
    """What is given back (L) was not sent, and leaves no attempt behind."""
    tried = {one.attempt for one in kept}
    again = {one.attempt for one in history if one.old_state == "RUNNING" and one.new_state == "PENDING"}
    called = {int(request.header("x-scheduler-attempt") or 0) for request in seen}
    for attempt in (again - tried) & called:
        yield f"attempt {attempt} was given back after it had called the target"
