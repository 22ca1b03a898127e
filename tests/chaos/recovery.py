"""How long it took until work went on after a fault had ended, from rows alone.

Two measures for each fault, in seconds after its end (and at least 0):
- `first`: the start of the first execution that fell due after the end and started within two seconds of that;
- `last`: when all were started that fell due (or had to wait for no other any more) while the fault lasted, and every
  attempt that was lost with its process meanwhile was taken over.
Faults overlap, so the second counts what later ones add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chaos.evidence import Evidence, Row

_PROMPT = timedelta(seconds=2)
# What was sent just before a fault is hit by it too.
_SHORTLY = timedelta(seconds=0.5)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A fault as it happened. `victim` is the process it was about, or a server."""

    name: str
    victim: str
    begun_at: datetime
    ended_at: datetime


@dataclass(frozen=True, kw_only=True)
class Start:
    """An execution that was free to start at `due`, and started."""

    due: datetime
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Seconds; `first` is None where nothing fell due after the fault."""

    episode: Episode
    first: float | None
    last: float

    @property
    def seconds(self) -> float:
        return max(self.first or 0.0, self.last)


def recoveries(evidence: Evidence, episodes: Sequence[Episode]) -> Sequence[Recovery]:
    """One for each fault, in their order."""
    started = sorted(starts(evidence), key=lambda start: start.due)
    takeovers = list(_takeovers(evidence))
    return [_recovery(episode, started, takeovers) for episode in episodes]


def starts(evidence: Evidence) -> Iterator[Start]:
    """Those of the schedule. Executions that waited for another are due when they no longer had to.

    What calls the host that hangs has to wait for its places, also where nothing else is broken.
    """
    for row in evidence.executions:
        if row["first_started_at"] is None or row["trigger"] != "SCHEDULE" or _hangs(evidence, row):
            continue
        notes = evidence.transitions_of.get(row["id"], ())
        waited = bool(notes) and notes[0]["new"] == "WAITING"
        freed = next((note["at"] for note in notes if note["new"] == "PENDING"), None) if waited else None
        due = max(freed or row["scheduled_at"], row["scheduled_at"])
        yield Start(due=due, at=row["first_started_at"])


def _hangs(evidence: Evidence, row: Row) -> bool:
    definition = evidence.definitions.get((row["job_id"], row["revision"])) or {}
    return "/hang/" in str(definition.get("http_job"))


def _takeovers(evidence: Evidence) -> Iterator[tuple[str, Start]]:
    """Attempts that were lost: whose, from when, until when."""
    for row in evidence.attempts:
        if row["outcome"] == "LOST":
            yield row["worker"], Start(due=row["claimed_at"], at=row["finished_at"])


def _recovery(episode: Episode, started: Sequence[Start], takeovers: Sequence[tuple[str, Start]]) -> Recovery:
    end = episode.ended_at
    prompt = (start.at for start in started if start.due >= end and start.at - start.due <= _PROMPT)
    first = next(prompt, None)
    hit = [start.at for start in started if episode.begun_at - _SHORTLY <= start.due <= end]
    lost = [
        lost.at
        for worker, lost in takeovers
        if worker == episode.victim and lost.due <= end and lost.at >= episode.begun_at
    ]
    return Recovery(
        episode=episode,
        first=None if first is None else _seconds(first - end),
        last=max((_seconds(at - end) for at in (*hit, *lost)), default=0.0),
    )


def _seconds(duration: timedelta) -> float:
    return max(0.0, duration.total_seconds())


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; 0 for none."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * int(share * 100) // 100) - 1)] if ranked else 0.0
