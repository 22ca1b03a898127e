"""A Redis that is killed again and again between the verbs of the stores, and comes back with what it had."""

import threading
from typing import Any

import pytest

from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import Unavailable
from support.stores import RedisScene

EACH = 20  # verbs


class RestartedRedisScene(RedisScene):
    """Every so many verbs the server is away when a verb is tried, and killed; the verb is then tried again."""

    def __init__(self, server: EmbeddedValkey) -> None:
        super().__init__(server.url)
        self.restarts = 0
        self._server = server
        self._verbs = 0
        self._lock = threading.Lock()
        self._database = self._world.database
        self._run = self._database.run
        self._database.run = self._run_after_all  # type: ignore[method-assign]

    def close(self) -> None:
        assert self.restarts >= self._verbs // EACH
        super().close()

    def _run_after_all(self, script: str, **arguments: Any) -> Any:
        with self._lock:
            self._verbs += 1
            if self._verbs % EACH == 0:
                self._restart(script, arguments)
            return self._run(script, **arguments)

    def _restart(self, script: str, arguments: dict[str, Any]) -> None:
        self._server.kill()
        with pytest.raises(Unavailable):
            self._run(script, **arguments)
        self._server.start()
        self.restarts += 1
