"""What a process of the API knows of keys. It asks the store for each of them again after two seconds."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnomon.job.api_key import ApiKey, Key, NewKey, fits
from gnomon.job.errors import Unavailable
from gnomon.job.ports import KeyStore

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
USES_NOTED_SECONDS = 60.0
REMEMBERED = 4096


@dataclass
class _Known:
    stored: ApiKey
    asked_at: float
    noted_at: float = float("-inf")


class Keyring:
    """The keys of the store, and those that a setting brings along: they are added when a key is first asked about.

    Safe in threads.
    """

    def __init__(
        self, store: KeyStore, *, brought: Sequence[NewKey] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._brought = brought
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()
        self._any_made: bool | None = None

    def any_made(self) -> bool:
        """Whether there ever was a key: from then on, for good. Raises Unavailable."""
        if not self._any_made:
            self._add_brought()
            self._any_made = self._store.any_made()
        return self._any_made

    @property
    def none_made_last_time(self) -> bool:
        """What `any_made` answered when the store last answered."""
        return self._any_made is False

    def find(self, key: Key) -> ApiKey | None:
        """The key as it is stored, active or not; None where it is not one of ours. Raises Unavailable."""
        self._add_brought()
        with self._lock:
            known = self._known.get(key.id)
        if known is None or self._clock() - known.asked_at > FRESH_SECONDS:
            known = self._ask(key.id, known)
        if known is None or not fits(key, known.stored):
            return None
        if known.stored.state == "active":
            self._note_use(known)
        return known.stored

    def remembered(self, key: Key) -> ApiKey | None:
        """As `find`, as it was when the store last answered."""
        with self._lock:
            known = self._known.get(key.id)
        return known.stored if known is not None and fits(key, known.stored) else None

    def _ask(self, key_id: str, before: _Known | None) -> _Known | None:
        asked_at = self._clock()
        stored = self._store.find(key_id)
        with self._lock:
            if stored is None:
                self._known.pop(key_id, None)
                return None
            known = _Known(stored, asked_at, before.noted_at if before else float("-inf"))
            self._known[key_id] = known
            self._known.move_to_end(key_id)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return known

    def _note_use(self, known: _Known) -> None:
        now = self._clock()
        if now - known.noted_at < USES_NOTED_SECONDS:
            return
        known.noted_at = now
        try:
            self._store.used(known.stored.id)
        except Unavailable as error:
            log.warning("the use of key %s could not be noted: %s", known.stored.id, error)

    def _add_brought(self) -> None:
        if self._brought:
            for key in self._brought:
                self._store.ensure(key)
            self._brought = ()
