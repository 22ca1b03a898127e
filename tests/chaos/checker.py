"""Whether the books are right, from rows and the sink's log alone. Shares no code with the product.

    python -m chaos.checker FOLDER      # once more, on what a run has left

The moments of a job are enumerated here, crons with cronsim. "The books are closed at next_run": each moment before it
lies in exactly one row, none from it on; a SKIPPED row stands for `skipped_count` moments, up to `skipped_until`.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from cronsim import CronSim

from chaos.evidence import FINAL, Evidence, Row, load

LOST, DOUBLED, TWICE, STUCK = "lost", "duplicate_records", "at_most_once_violations", "stuck"
EARLY = "early"
KINDS = (LOST, DOUBLED, TWICE, STUCK, EARLY)
_INSTANT = timedelta(microseconds=1)
TRANSACTIONAL = "chaos_row"
_REFUSED = ("unroutable", "unknown_exchange", "nacked")


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One promise that was broken, with the ids to look for."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Window:
    """A schedule that owes its moments in [since, until)."""

    definition: Row
    since: datetime
    until: datetime


def check(evidence: Evidence) -> Sequence[Violation]:
    """All that is wrong."""
    return [
        *_missing_jobs(evidence),
        *_unbalanced(evidence),
        *_runs_that_were_asked_for(evidence),
        *_made_up_for_twice(evidence),
        *_unfinished(evidence),
        *_final_twice(evidence),
        *_effects_without_record(evidence),
        *_successes_without_effect(evidence),
        *_successes_without_their_message(evidence),
        *_messages_of_refused_attempts(evidence),
        *_rows_beside_their_successes(evidence),
        *_second_effects(evidence),
        *_early(evidence),
    ]


def _missing_jobs(evidence: Evidence) -> Iterator[Violation]:
    for job_id in {row["id"] for row in evidence.created} - {row["id"] for row in evidence.jobs}:
        yield Violation(kind=LOST, what=f"job {job_id} was acknowledged and is not there")


def _runs_that_were_asked_for(evidence: Evidence) -> Iterator[Violation]:
    """What was acknowledged is there; what was asked for once, and repeated under the same key, is there once."""
    manual = {row["id"]: row["job_id"] for row in evidence.executions if row["trigger"] == "MANUAL"}
    for run in evidence.runs:
        if run["execution_id"] is not None and run["execution_id"] not in manual:
            yield Violation(kind=LOST, what=f"run {run['execution_id']} was acknowledged and is not there")
    asked = Counter(run["job_id"] for run in evidence.runs)
    for job_id, count in Counter(manual.values()).items():
        if count > asked[job_id]:
            yield Violation(kind=DOUBLED, what=f"job {job_id}: {count} manual executions, {asked[job_id]} asked for")


def _made_up_for_twice(evidence: Evidence) -> Iterator[Violation]:
    """A moment is made up for by a backfill only where it did not run before."""
    for job_id, rows in evidence.executions_of.items():
        booked = [row for row in rows if row["trigger"] in ("SCHEDULE", "BACKFILL") and row["state"] != "SKIPPED"]
        for moment, count in Counter(row["scheduled_at"] for row in booked).items():
            if count > 1:
                yield Violation(kind=DOUBLED, what=f"job {job_id}: {count} executions for its moment {moment}")


def _unbalanced(evidence: Evidence) -> Iterator[Violation]:
    for job in evidence.jobs:
        expected = {moment for window in windows(evidence, job) for moment in moments(window)}
        booked = _booked(evidence, job["id"], expected)
        for moment in sorted(expected - booked.keys()):
            yield Violation(kind=LOST, what=f"job {job['id']}: no row for its moment {moment}")
        for moment, rows in sorted(booked.items()):
            if moment not in expected:
                yield Violation(kind=DOUBLED, what=f"job {job['id']}: {moment} is booked and was not owed ({rows})")
            elif len(rows) > 1:
                yield Violation(kind=DOUBLED, what=f"job {job['id']}: {moment} lies in {rows}")


def _booked(evidence: Evidence, job_id: str, expected: set[datetime]) -> Mapping[datetime, Sequence[str]]:
    """Which executions stand for which moments."""
    found: dict[datetime, list[str]] = {}
    for row in evidence.executions_of.get(job_id, ()):
        if row["trigger"] != "SCHEDULE":
            continue
        covered = [row["scheduled_at"]]
        if row["skipped_count"] > 1:
            covered = sorted(moment for moment in expected if row["scheduled_at"] <= moment <= row["skipped_until"])
            if len(covered) != row["skipped_count"]:  # then none of them counts as booked
                covered = []
        for moment in covered:
            found.setdefault(moment, []).append(row["id"])
    return found


def windows(evidence: Evidence, job: Row) -> Iterator[Window]:
    """When which of its schedules owed moments, as the audit trail tells it."""
    since: datetime | None = None
    revision = 1
    for event in evidence.events_of.get(job["id"]) or _presumed_events(evidence, job):
        if event["owed_until"] is not None and since is not None:
            yield Window(definition=evidence.definitions[job["id"], revision], since=since, until=event["owed_until"])
            since = None
        if event["owed_from"] is not None:
            since, revision = event["owed_from"], event["revision"]
    if since is not None:
        until = job["next_run"] or evidence.at
        yield Window(definition=evidence.definitions[job["id"], revision], since=since, until=until)


def _presumed_events(evidence: Evidence, job: Row) -> Iterator[Row]:
    """Without an audit trail. Of a deleted job only the moments up to its last row are known to have been owed."""
    yield {"owed_from": job["created_at"], "owed_until": None, "revision": 1}
    if job["deleted_at"] is not None:
        rows = evidence.executions_of.get(job["id"], ())
        last = max((row["skipped_until"] or row["scheduled_at"] for row in rows), default=job["created_at"])
        yield {"owed_from": None, "owed_until": last + _INSTANT, "revision": 1}


def moments(window: Window) -> Iterator[datetime]:
    """Those of a window."""
    ends_at = _instant(window.definition, "ends_at")
    starts_at = _instant(window.definition, "starts_at")
    for moment in _unbounded(window, starts_at):
        if moment >= window.until or (ends_at is not None and moment > ends_at):
            return
        if moment >= window.since and (starts_at is None or moment >= starts_at):
            yield moment


def _unbounded(window: Window, starts_at: datetime | None) -> Iterator[datetime]:
    """From the window's beginning on, or a little earlier."""
    definition = window.definition
    if definition.get("execute_at"):
        yield datetime.fromisoformat(definition["execute_at"])
    elif definition.get("interval_seconds"):
        step = timedelta(seconds=definition["interval_seconds"])
        anchor = datetime.fromisoformat(definition["anchor_at"])
        number = max(0 if anchor == starts_at else 1, (window.since - anchor) // step)
        while True:
            yield anchor + number * step
            number += 1
    else:
        zone = ZoneInfo(definition.get("timezone") or "UTC")
        yield from CronSim(definition["cron_schedule"], (window.since - timedelta(seconds=1)).astimezone(zone))


def _instant(definition: Row, name: str) -> datetime | None:
    value = definition.get(name)
    return None if value is None else datetime.fromisoformat(value)


def _unfinished(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.executions:
        if row["state"] not in FINAL:
            yield Violation(kind=STUCK, what=f"execution {row['id']} of job {row['job_id']} is {row['state']}")
    for name in evidence.stuck:
        yield Violation(
            kind=STUCK, what=f"{name}: no job may be due for long, and no worker without work, when all is mended"
        )


def _final_twice(evidence: Evidence) -> Iterator[Violation]:
    """By the witness's notes: what came after a final state, and rows whose last note is another state than theirs."""
    for execution_id, notes in evidence.transitions_of.items():
        if any(note["old"] in FINAL for note in notes):
            told = " → ".join(str(note["new"]) for note in notes)
            yield Violation(kind=DOUBLED, what=f"execution {execution_id} changed after its end: {told}")
    if evidence.transitions:
        for row in evidence.executions:
            notes = evidence.transitions_of.get(row["id"], ())
            if not notes or notes[-1]["new"] != row["state"]:
                yield Violation(kind=DOUBLED, what=f"execution {row['id']} is {row['state']}, which nobody noted")


def _effects_without_record(evidence: Evidence) -> Iterator[Violation]:
    known = {row["id"] for row in evidence.executions}
    for key in evidence.effects_of.keys() - known:
        yield Violation(kind=LOST, what=f"the sink was called for {key}, of which there is no record")


def _successes_without_effect(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.executions:
        if row["state"] == "SUCCEEDED":
            answers = [effect.status for effect in evidence.effects_of.get(row["id"], ())]
            if 200 not in answers:
                what = f"execution {row['id']} of job {row['job_id']} SUCCEEDED; the sink's answers: {answers}"
                yield Violation(kind=LOST, what=what)


def _successes_without_their_message(evidence: Evidence) -> Iterator[Violation]:
    """That of an earlier attempt does not do: what was confirmed is what was recorded."""
    for row in evidence.executions:
        definition = evidence.definitions.get((row["job_id"], row["revision"]), {})
        if row["state"] == "SUCCEEDED" and definition.get("type") == "AMQP":
            attempts = [effect.attempt for effect in evidence.effects_of.get(row["id"], ())]
            if str(row["attempt"]) not in attempts:
                what = (
                    f"attempt {row['attempt']} of execution {row['id']} SUCCEEDED; the witness got those of {attempts}"
                )
                yield Violation(kind=LOST, what=what)


def _messages_of_refused_attempts(evidence: Evidence) -> Iterator[Violation]:
    """The broker gave these back, or took none of them."""
    ended = [(row["execution_id"], row["attempt"], row["error_code"]) for row in evidence.attempts]
    ended += [(row["id"], row["attempt"], row["error_code"]) for row in evidence.executions if row["state"] == "FAILED"]
    for execution_id, attempt, code in ended:
        arrived = {effect.attempt for effect in evidence.effects_of.get(execution_id, ())}
        if code in _REFUSED and str(attempt) in arrived:
            yield Violation(
                kind=DOUBLED, what=f"attempt {attempt} of execution {execution_id} ended with {code}, and has a message"
            )


def _rows_beside_their_successes(evidence: Evidence) -> Iterator[Violation]:
    """A handler's transaction records its success: its row is there exactly if the success of that attempt is."""
    for row in evidence.executions:
        if row.get("kind") != TRANSACTIONAL:
            continue
        written = sorted(found["attempt"] for found in evidence.written_by.get(row["id"], ()))
        owed = [row["attempt"]] if row["state"] == "SUCCEEDED" else []
        if written != owed:
            what = (
                f"execution {row['id']} is {row['state']} by attempt {row['attempt']}; attempts that wrote: {written}"
            )
            yield Violation(kind=DOUBLED if len(written) > len(owed) else LOST, what=what)


def _second_effects(evidence: Evidence) -> Iterator[Violation]:
    jobs = {row["id"]: row["job_id"] for row in evidence.executions}
    revisions = {row["id"]: row["revision"] for row in evidence.executions}
    for key, effects in evidence.effects_of.items():
        definition = evidence.definitions.get((jobs.get(key, ""), revisions.get(key, 0)), {})
        if len(effects) > 1 and definition.get("delivery") == "at_most_once":
            told = ", ".join(f"attempt {effect.attempt} at {effect.at}" for effect in effects)
            yield Violation(
                kind=TWICE, what=f"execution {key} of job {jobs[key]} was sent {len(effects)} times: {told}"
            )
        for attempt, count in Counter(effect.attempt for effect in effects).items():
            if count > 1:
                yield Violation(kind=DOUBLED, what=f"attempt {attempt} of execution {key} was sent {count} times")


def _early(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.executions:
        for effect in evidence.effects_of.get(row["id"], ()):
            if effect.at < row["scheduled_at"]:
                what = f"execution {row['id']} was sent at {effect.at}, before its moment {row['scheduled_at']}"
                yield Violation(kind=EARLY, what=what)


if __name__ == "__main__":
    for violation in check(load(Path(sys.argv[1]))):
        print(violation)
