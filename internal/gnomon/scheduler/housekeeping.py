"""What one scheduler of all, the leader, tidies up: old history, what nobody refers to any more, who is gone.

Nothing that a job waits for. Whoever leads for a moment beside the real leader finds nothing to do.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from gnomon.job.ports import HousekeepingStore, InstanceStore
from gnomon.job.retention import Retention
from gnomon.process.chore import Stop, run_chore

log = logging.getLogger(__name__)

# How often a scheduler asks whether it leads.
LOOK = timedelta(seconds=10)
# A part is followed by a rest, so many times as long: what is pruned is in nobody's way, and nobody waits for it.
REST = 3
# In a round that takes longer than EVERY: what is to be pruned must not become more and more.
REST_IN_HASTE = 1
# From the end of one round to the begin of the next.
EVERY = timedelta(minutes=10)
# An operator should still see what ended a while ago.
GONE_FOR = timedelta(hours=1)
# A name that a definition may use, though nobody that lives has it: a worker may be down for days.
UNSEEN_FOR = timedelta(days=30)
# The end of a process waits this long for the statement that is under way; the database ends it otherwise.
STOP_SECONDS = 1.0


@dataclass
class Tidied:
    """What one round removed."""

    executions: int = 0
    revisions: int = 0
    jobs: int = 0
    events: int = 0
    keys: int = 0
    instances: int = 0

    def __str__(self) -> str:
        removed = [f"{count} {name}" for name, count in vars(self).items() if count]
        return ", ".join(removed) or "nothing"


class Housekeeper:
    """A chore with a thread of its own. It rests most of the time."""

    def __init__(
        self,
        store: HousekeepingStore,
        instances: InstanceStore,
        *,
        me: UUID,
        retention: Retention,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._instances = instances
        self._me = me
        self._retention = retention
        self._clock = clock
        self._next_round = self._next_look = self._round_began = clock()
        self._round: Iterator[None] | None = None
        self._leads = False
        self._thread: threading.Thread | None = None

    def start(self, stop: Stop) -> None:
        """Keeps house until `stop`."""
        self._thread = threading.Thread(
            target=run_chore, args=("housekeeping", self.step, stop), name="housekeeping", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """After the stop: lets the part that is under way end, if that is soon."""
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def step(self) -> timedelta:
        """One part of a round, where this process leads and a round is due. How long to rest then."""
        if self._clock() >= self._next_look:
            self._look()
        if not self._leads:
            self._round = None
        elif self._round is None and self._clock() >= self._next_round:
            self._round, self._round_began = self._tidy(), self._clock()
        return LOOK if self._round is None else self._part(self._round)

    def _look(self) -> None:
        leads = self._instances.leader() == self._me
        if leads and not self._leads:
            log.info("this scheduler keeps house: it is the earliest one that lives")
            self._next_round = self._clock()
        self._leads = leads
        self._next_look = self._clock() + LOOK.total_seconds()

    def _part(self, part: Iterator[None]) -> timedelta:
        began = self._clock()
        self._round = None  # a part that fails ends its round; the next one begins anew
        try:
            next(part)
        except StopIteration:
            self._next_round = self._clock() + EVERY.total_seconds()
            return LOOK
        self._round = part
        in_haste = began - self._round_began > EVERY.total_seconds()
        return timedelta(seconds=(REST_IN_HASTE if in_haste else REST) * (self._clock() - began))

    def _tidy(self) -> Iterator[None]:
        """A round, in parts of one statement or a few."""
        tidied = Tidied()
        for chore in (self._forget, self._prune_aged, self._visit_jobs, self._trim_trail):
            yield from chore(tidied)
        log.log(logging.INFO if vars(tidied) != vars(Tidied()) else logging.DEBUG, "tidied up: %s removed", tidied)

    def _forget(self, tidied: Tidied) -> Iterator[None]:
        tidied.instances += self._store.forget_instances(gone_for=GONE_FOR, unseen_for=UNSEEN_FOR)
        yield
        while removed := self._store.forget_keys():
            tidied.keys += removed
            yield

    def _prune_aged(self, tidied: Tidied) -> Iterator[None]:
        after: UUID | None = None
        while True:
            swept = self._store.prune_aged(self._retention, after=after)
            tidied.executions += swept.removed
            yield
            if (after := swept.after) is None:
                return

    def _visit_jobs(self, tidied: Tidied) -> Iterator[None]:
        after: UUID | None = None
        while True:
            found = self._store.untidy_jobs(self._retention, after=after)
            yield
            for job_id in found.crowded:
                while removed := self._store.prune_crowded(job_id, self._retention):
                    tidied.executions += removed
                    yield
            for job_id in found.edited:
                tidied.revisions += self._store.drop_revisions(job_id)
                yield
            if found.gone:
                tidied.jobs += self._store.drop_jobs(found.gone, self._retention)
                yield
            if (after := found.after) is None:
                return

    def _trim_trail(self, tidied: Tidied) -> Iterator[None]:
        after: int | None = None
        while True:
            swept = self._store.trim_trail(self._retention, after=after)
            tidied.events += swept.removed
            yield
            if (after := swept.after) is None:
                return
