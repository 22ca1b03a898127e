"""What a worker can run of what its queues bring."""

import logging
import threading

from gnomon.job.target import HandlerTarget, Target
from gnomon.worker.flights import monotonic
from gnomon.worker.handlers import HandlerRegistry

log = logging.getLogger(__name__)


class KnownHandlers:
    """Called with a target, tells whether this worker can run it; from any thread. `on_loop`: async handlers only.

    What it can't run it says once a minute for each name: that is given back, and waits for a worker that can.
    """

    SAY_SECONDS = 60.0

    def __init__(self, registry: HandlerRegistry, *, on_loop: bool) -> None:
        self._registry = registry
        self._on_loop = on_loop
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, target: Target) -> bool:
        if not isinstance(target, HandlerTarget):
            return True
        handler = self._registry.get(target.name)
        if handler is not None and (handler.is_async or not self._on_loop):
            return True
        if self._is_time(target.name):
            self._say(target.name, known=handler is not None)
        return False

    def _is_time(self, name: str) -> bool:
        now = monotonic()
        with self._lock:
            if now - self._said.get(name, -self.SAY_SECONDS) < self.SAY_SECONDS:
                return False
            self._said[name] = now
            return True

    def _say(self, name: str, *, known: bool) -> None:
        if known:
            log.warning(
                "handler %s is declared with def, and its jobs are on the queue async from when it was declared with"
                " async def: they wait until they are edited, which takes them to the queue handlers",
                name,
            )
            return
        log.warning(
            "handler %s is not known to this worker, so its executions wait for a worker that knows it; known here: %s",
            name,
            ", ".join(self._registry.names) or "none",
        )
