"""The definitions a worker needs, kept: a revision never changes, so what is kept never goes stale."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from gnomon.job.errors import InvalidJob, SecretUnreadable
from gnomon.job.model import Definition
from gnomon.job.ports import ExecutionStore
from gnomon.job.sealing import Open, no_open, opened

Key = tuple[UUID, int]


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A definition that can't be used here: a secret of it can't be opened."""

    definition: Definition
    error: SecretUnreadable


class RecentDefinitions:
    """The most recently used definitions by (job id, revision), their secrets opened; safe from many threads.

    Which key a secret was sealed to is of no consequence here: what is kept was opened.
    """

    CAPACITY = 20_000

    def __init__(self, store: ExecutionStore, unseal: Open = no_open) -> None:
        self._store = store
        self._unseal = unseal
        self._kept: OrderedDict[Key, Definition] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, keys: Collection[Key]) -> Mapping[Key, Definition | Closed]:
        """Those that exist and can be read; one question to the store for all that are missing. Raises Unavailable."""
        found: dict[Key, Definition | Closed] = {**self._lookup(keys)}
        missing = [key for key in keys if key not in found]
        if missing:
            fetched = {key: self._opened(key, stored) for key, stored in self._store.definitions(missing).items()}
            self._keep({key: one for key, one in fetched.items() if isinstance(one, Definition)})
            found |= fetched
        return found

    def _opened(self, key: Key, stored: Definition) -> Definition | Closed:
        try:
            return opened(stored, job_id=key[0], unseal=self._unseal)
        except SecretUnreadable as error:
            return Closed(definition=stored, error=error)
        except InvalidJob:  # its words may quote what was in it
            reason = "a secret of the job is none that its field can hold: set it again"
            return Closed(definition=stored, error=SecretUnreadable(reason, permanent=True))

    def _lookup(self, keys: Collection[Key]) -> dict[Key, Definition]:
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        return found

    def _keep(self, fetched: Mapping[Key, Definition]) -> None:
        with self._lock:
            self._kept.update(fetched)
            while len(self._kept) > self.CAPACITY:
                self._kept.popitem(last=False)
