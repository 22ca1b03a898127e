"""One execution and everything that can hold it: its row, a message on its way, and workers.

A worker here is the life of one delivery, from the message it takes until its outcome is written. One process with
many in flight is several of them.
"""

from typing import NamedTuple

AT_LEAST_ONCE = "at least once"
AT_MOST_ONCE = "at most once"
FINAL = frozenset({"SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED"})
MAX_ATTEMPTS = 2


class Row(NamedTuple):
    """As in the table, as far as a guard looks at it. `leased`: the lease has not ended."""

    state: str = "UNBORN"
    attempt: int = 0
    failures: int = 0
    leased: bool = False
    started: bool = False  # effect_started_at
    cancel: bool = False  # cancel_requested_at
    barred: bool = False  # max_attempts = 0
    never_sent: bool = False  # what the error of a FAILED one says

    def ended(self, state: str, **changes: bool | int) -> "Row":
        return self._replace(state=state, leased=False, **changes)

    @property
    def allowed(self) -> int:
        return 0 if self.barred else MAX_ATTEMPTS


class Worker(NamedTuple):
    """`outcome` lies in the recorder's memory; `owns`: the row's lease_owner is this delivery; `heard`: a success."""

    at: str = "idle"  # claiming, claimed, ready, sent, done
    attempt: int = 0
    outcome: str = ""  # SUCCEEDED, FAILED, UNKNOWN, CANCELLED, RETRY (a failure counts) or AGAIN (none does)
    owns: bool = False
    heard: bool = False


IDLE = Worker()


class World(NamedTuple):
    """`outbox`: an id to publish in a scheduler's memory. `half`: what a statement in two parts saw, of a mutant."""

    policy: str
    workers: tuple[Worker, ...]
    row: Row = Row()
    outbox: bool = False
    broker: bool = False
    effects: int = 0
    deleted: bool = False
    half: str = ""

    def with_worker(self, who: int, worker: Worker) -> "World":
        return self._replace(workers=(*self.workers[:who], worker, *self.workers[who + 1 :]))

    def owned_by(self, owner: int | None) -> "World":
        """The row's lease_owner is the delivery of this worker, or nobody's any more."""
        return self._replace(workers=tuple(w._replace(owns=who == owner) for who, w in enumerate(self.workers)))

    @property
    def once(self) -> bool:
        return self.policy == AT_MOST_ONCE


def key(world: World) -> tuple[object, ...]:
    """Attempts matter by their order alone, so an execution may have any number of them; workers are alike."""
    row = world.row
    attempts = sorted({row.attempt, *(worker.attempt for worker in world.workers)})
    workers = sorted((*worker[:1], attempts.index(worker.attempt), *worker[2:]) for worker in world.workers)
    return (row[0], attempts.index(row.attempt), *row[2:], *workers, *world[3:])
