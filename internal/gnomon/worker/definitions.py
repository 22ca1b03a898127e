"""The definitions a worker needs, kept: a revision never changes, so what is kept never goes stale."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from uuid import UUID

from gnomon.job.model import Definition
from gnomon.job.ports import ExecutionStore

Key = tuple[UUID, int]


class RecentDefinitions:
    """The most recently used definitions by (job id, revision); safe from many threads."""

    CAPACITY = 20_000

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._kept: OrderedDict[Key, Definition] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, keys: Collection[Key]) -> Mapping[Key, Definition]:
        """Those that exist and can be read; one question to the store for all that are missing. Raises Unavailable."""
        found = self._lookup(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            fetched = self._store.definitions(missing)
            self._keep(fetched)
            found |= fetched
        return found

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
