"""Definitions beside the database: where a worker looks that has just started, before it asks Postgres.

A revision never changes, so what is kept never goes stale. The cache is a help and nothing else: whatever is wrong with
it, the database answers.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import redis

from gnomon.process.tls import refused_certificate
from gnomon.storage.redis.client import connect

log = logging.getLogger(__name__)

Key = tuple[UUID, int]
Document = Mapping[str, Any]

# One hash tag, so that many are read with one command from a cluster too. The number is that of the format.
PREFIX = "{gnomon:definitions}:2:"
KEPT = timedelta(days=7)
# A worker would rather ask the database than wait for longer.
PATIENCE = 0.5
PAUSE = 15.0
AT_ONCE = 500


class DefinitionCache:
    """Stored documents of revisions, as Postgres holds them, with their secrets sealed.

    Nothing it meets is raised. After a failure, or an answer that took longer than PATIENCE, it is left alone for
    PAUSE seconds.
    """

    def __init__(self, url: str, *, ca_file: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Connects when first used. `ca_file`: who vouches for it. Raises ConfigurationError for a URL of no Redis."""
        self._client = connect(url, answer_seconds=PATIENCE, texts=False, ca_file=ca_file)
        address = urlsplit(url)
        self._server = f"{address.hostname}:{address.port or 6379}"
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_until = float("-inf")
        self._fails = False

    def find(self, keys: Collection[Key]) -> dict[Key, Document]:
        """Those it has and that are JSON objects. What they say is for the caller to read, and may be garbage."""
        wanted = list(keys)[:AT_ONCE]
        texts = self._ask(lambda: self._client.mget([_name(key) for key in wanted])) if wanted else None
        found = {key: _document(text) for key, text in zip(wanted, texts or (), strict=False)}
        return {key: document for key, document in found.items() if document is not None}

    def keep(self, documents: Mapping[Key, Document]) -> None:
        """Replaces whatever is there."""
        if not documents:
            return
        pipeline = self._client.pipeline(transaction=False)
        for key, document in documents.items():
            pipeline.set(_name(key), json.dumps(document, separators=(",", ":")), ex=KEPT)
        self._ask(lambda: pipeline.execute(raise_on_error=True))

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _ask(self, question: Callable[[], Any]) -> Any:
        """None where there is no answer now."""
        if self._clock() < self._paused_until:
            return None
        begun = self._clock()
        try:
            answer = question()
        except (redis.RedisError, OSError, ValueError) as error:
            self._pause(refused_certificate(error) or type(error).__name__)
            return None
        if self._clock() - begun > PATIENCE:
            self._pause(f"it took longer than {PATIENCE:g} s")
        else:
            self._works()
        return answer

    def _pause(self, reason: str) -> None:
        with self._lock:
            self._paused_until = self._clock() + PAUSE
            fails, self._fails = self._fails, True
        if not fails:
            log.warning(
                "the cache of definitions at %s does not serve (%s): the database is asked instead, and the cache "
                "again every %g s",
                self._server,
                reason,
                PAUSE,
            )

    def _works(self) -> None:
        with self._lock:
            failed, self._fails = self._fails, False
        if failed:
            log.info("the cache of definitions serves again")


def _name(key: Key) -> str:
    job_id, revision = key
    return f"{PREFIX}{job_id}:{revision}"


def _document(text: object) -> Document | None:
    if not isinstance(text, bytes):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
