"""What the checker looks at: rows read from Postgres by plain SQL, and the sink's log. Shares no code with the product.

`install` puts a second witness beside the rows: a trigger that notes every change of an execution's state.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

FINAL = frozenset(("SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED", "SKIPPED"))
AMQP = "amqp:"
Row = Mapping[str, Any]

WITNESS = """
create schema chaos;
create table chaos.transitions (
    n bigint generated always as identity primary key, execution_id uuid not null, old text, new text not null,
    attempt int not null, at timestamptz not null default clock_timestamp()
);
create table chaos.written (execution_id uuid not null, attempt int not null);
create function chaos.witness() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into chaos.transitions (execution_id, old, new, attempt) values (new.id, null, new.state, new.attempt);
    elsif new.state is distinct from old.state or old.state in ('SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED') then
        insert into chaos.transitions (execution_id, old, new, attempt)
        values (new.id, old.state, new.state, new.attempt);
    end if;
    return null;
end $$;
create trigger chaos_witness after insert or update on executions for each row execute function chaos.witness();
"""

_DUMPED = {
    "jobs": "select * from jobs order by created_at, id",
    "job_revisions": "select job_id, revision, definition from job_revisions order by job_id, revision",
    "job_events": "select * from job_events order by id",
    "executions": "select * from executions order by scheduled_at, id",
    "attempts": "select * from attempts order by execution_id, attempt",
    "written": "select * from chaos.written",
    "transitions": "select * from chaos.transitions order by n",
}
_INSTANTS = ("_at", "_until", "next_run", "owed_from")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One request as the sink noted it."""

    at: datetime
    key: str
    attempt: str
    status: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One delivery of a message as the witness noted it. `stamp` is the publication's, and the time of it."""

    stamp: str
    key: str
    attempt: str
    queue: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Rows by table, and what others noted.

    `effects`: the requests that the sink got, the calls that handlers noted, and each publication of which the witness
    got a message.
    `messages`: all deliveries, repeated ones too.
    `written`: the rows of handlers whose transaction records their success.
    `created`: the jobs whose creation was acknowledged. `runs`: the runs that were asked for, with their keys and the
    execution that was answered, if any was. `stuck`: what did not go on when all was mended.
    """

    jobs: Sequence[Row]
    job_revisions: Sequence[Row]
    job_events: Sequence[Row]
    executions: Sequence[Row]
    attempts: Sequence[Row] = ()
    transitions: Sequence[Row] = ()
    written: Sequence[Row] = ()
    effects: Sequence[Effect] = ()
    messages: Sequence[Message] = ()
    created: Sequence[Row] = ()
    runs: Sequence[Row] = ()
    stuck: Sequence[str] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def executions_of(self) -> Mapping[str, Sequence[Row]]:
        return grouped(self.executions, "job_id")

    @cached_property
    def events_of(self) -> Mapping[str, Sequence[Row]]:
        return grouped(self.job_events, "job_id")

    @cached_property
    def transitions_of(self) -> Mapping[str, Sequence[Row]]:
        return grouped(self.transitions, "execution_id")

    @cached_property
    def written_by(self) -> Mapping[str, Sequence[Row]]:
        return grouped(self.written, "execution_id")

    @cached_property
    def definitions(self) -> Mapping[tuple[str, int], Row]:
        """By job and revision."""
        return {(row["job_id"], row["revision"]): row["definition"] for row in self.job_revisions}

    @cached_property
    def effects_of(self) -> Mapping[str, Sequence[Effect]]:
        found: defaultdict[str, list[Effect]] = defaultdict(list)
        for effect in self.effects:
            found[effect.key].append(effect)
        return found


def grouped(rows: Iterable[Row], column: str) -> Mapping[str, Sequence[Row]]:
    """Rows by the value of a column."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return found


def install(database_url: str) -> None:
    """The witness, in a schema of its own."""
    with psycopg2.connect(database_url) as session, session.cursor() as cursor:
        cursor.execute(WITNESS)
    session.close()


def dump(database_url: str, folder: Path) -> None:
    """One file of JSON lines for each table."""
    with psycopg2.connect(database_url) as session, session.cursor() as cursor:
        for name, query in _DUMPED.items():
            (folder / f"{name}.jsonl").write_text("".join(_lines(cursor, name, query)))
    session.close()


def _lines(cursor: Cursor, name: str, query: str) -> Iterable[str]:
    if name == "job_events":
        cursor.execute("select to_regclass('job_events')")
        if cursor.fetchone() == (None,):
            return
    cursor.execute(f"select row_to_json(found)::text from ({query}) as found")
    for (line,) in cursor:
        yield f"{line}\n"


def load(folder: Path) -> Evidence:
    """What `dump`, the load and the sink left in the folder."""
    calls = [effect for log in ("sink.log", "handlers.log") for effect in read_effects(_text(folder / log))]
    messages = read_messages(_text(folder / "witness.log"))
    tables = {name: _read_rows(folder / f"{name}.jsonl") for name in _DUMPED}
    return Evidence(
        **tables,
        effects=[*calls, *publications(messages)],
        messages=messages,
        created=_read_rows(folder / "created.jsonl"),
        runs=_read_rows(folder / "runs.jsonl"),
        stuck=(folder / "stuck.txt").read_text().split(),
        at=datetime.fromtimestamp((folder / "executions.jsonl").stat().st_mtime, UTC),
    )


def read_effects(log: str) -> Sequence[Effect]:
    """A last line without an end was never answered."""
    return [_effect(*line.split("\t")) for line in log.splitlines(keepends=True) if line.endswith("\n")]


def read_messages(log: str) -> Sequence[Message]:
    """A last line without an end was never acknowledged."""
    return [_message(*line.rstrip("\n").split("\t")) for line in log.splitlines(keepends=True) if line.endswith("\n")]


def publications(messages: Sequence[Message]) -> Sequence[Effect]:
    """A message that was delivered repeatedly was published once; two stamps are two publications."""
    found = {(message.stamp, message.key, message.attempt): message for message in messages}
    return [_publication(message) for message in found.values()]


def _message(_at: str, stamp: str, key: str, attempt: str, _redelivered: str, queue: str) -> Message:
    return Message(stamp=stamp, key=key, attempt=attempt, queue=queue)


def _publication(message: Message) -> Effect:
    at = datetime.fromtimestamp(int(message.stamp) / 1e6, UTC)
    return Effect(at=at, key=message.key, attempt=message.attempt, status=200, path=f"{AMQP}{message.queue}")


def _effect(at: str, key: str, attempt: str, status: str, path: str) -> Effect:
    arrived = datetime.fromtimestamp(float(at), UTC)
    return Effect(at=arrived, key=key, attempt=attempt, status=int(status), path=path.strip())


def _read_rows(path: Path) -> Sequence[Row]:
    return [_with_instants(json.loads(line)) for line in _text(path).splitlines()]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _with_instants(row: dict[str, Any]) -> Row:
    found = {
        name: datetime.fromisoformat(value)
        for name, value in row.items()
        if isinstance(value, str) and (name == "at" or name.endswith(_INSTANTS))
    }
    return row | found
