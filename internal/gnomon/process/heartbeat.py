"""Saying that a process lives, again and again, beside whatever else it does."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

from gnomon.job.errors import Unavailable
from gnomon.job.handlers import HandlerSpec
from gnomon.job.instance import HEARTBEAT, Identity
from gnomon.job.ports import InstanceStore
from gnomon.process.backoff import Backoff
from gnomon.process.chore import run_chore
from gnomon.process.connect import wait_until_available

log = logging.getLogger(__name__)

# How long the end of a process waits for its farewell to be written; without it, it is thought dead some seconds later.
FAREWELL_SECONDS = 2.0


def _at_once() -> None:
    """Whoever waits for nothing."""


class Heartbeat:
    """A thread of its own, which a store that is away or frozen can hold up without holding up anybody else.

    It begins when `ready` no longer raises Unavailable.
    """

    EVERY = HEARTBEAT

    def __init__(
        self,
        store: InstanceStore,
        identity: Identity,
        *,
        handlers: Sequence[HandlerSpec] = (),
        retry_strategies: Sequence[str] = (),
        ready: Callable[[], None] = _at_once,
    ) -> None:
        self._store = store
        self._identity = identity
        self._handlers = handlers
        self._retry_strategies = retry_strategies
        self._ready = ready
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins; never waits."""
        self._thread.start()

    def stop(self) -> None:
        """Says farewell, if the store takes it within two seconds. Before `start`, nothing."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(FAREWELL_SECONDS)

    def _run(self) -> None:
        if not wait_until_available("heartbeat", self._ready, self._stop):
            return
        run_chore("heartbeat", self._beat, self._stop, backoff=Backoff(longest=self.EVERY))
        try:
            self._store.leave(self._identity.id)
        except Unavailable as error:
            log.info("could not say that this process ends (%s): it will be listed as dead for a while", error)

    def _beat(self) -> timedelta:
        self._store.beat(self._identity, handlers=self._handlers, retry_strategies=self._retry_strategies)
        return self.EVERY
