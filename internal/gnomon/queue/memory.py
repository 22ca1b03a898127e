"""ExecutionQueue within one process: ids go straight to the worker beside it."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

log = logging.getLogger(__name__)


class MemoryQueue:
    """Hands what is published to `admit`, message by message, in a thread of its own: `admit` waits for places.

    What waits here when it stops is given to `give_back`.
    """

    def __init__(self, admit: Callable[[Sequence[UUID]], None], *, give_back: Callable[[Sequence[UUID]], None]) -> None:
        self._admit = admit
        self._give_back = give_back
        self._messages: queue.SimpleQueue[Sequence[UUID] | None] = queue.SimpleQueue()
        self._refusing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gnomon-deliveries", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:  # noqa: ARG002 - there is one worker for all queues
        """Never waits, never fails."""
        self._messages.put(ids)

    def probe(self) -> None:
        """There is nothing between the two that could be away."""

    def lost_messages(self) -> bool:
        """What is lost is lost with the process, and found by its publish slots."""
        return False

    def break_off(self) -> None:
        """No call of this queue waits."""

    def refuse(self) -> None:
        """Whatever comes from now on, or waits here, is given back; never waits."""
        self._refusing.set()

    def close(self, timeout: timedelta) -> None:
        """Gives back what is left and ends the thread. `admit` must not hold it up any more."""
        self.refuse()
        self._messages.put(None)
        self._thread.join(timeout.total_seconds())

    def _run(self) -> None:
        while (ids := self._messages.get()) is not None:
            self._deliver(ids)

    def _deliver(self, ids: Sequence[UUID]) -> None:
        try:
            (self._give_back if self._refusing.is_set() else self._admit)(ids)
        except Exception:
            log.exception("%s executions could not be taken; they are published again in a while", len(ids))
