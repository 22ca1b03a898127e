"""New jobs, for requests that may be sent twice, and for those that only ask whether one would do."""

import hmac
import json
from collections.abc import Mapping
from typing import Any

from gnomon.job.document import complete
from gnomon.job.model import Job
from gnomon.job.ports import Created, CreationStore, Once
from gnomon.job.service import JobService


class Creations:
    """Like JobService.create."""

    def __init__(self, service: JobService, store: CreationStore) -> None:
        self._service = service
        self._store = store

    def create(self, document: Mapping[str, Any], *, key: str) -> Created:
        """The same `key` (an Idempotency-Key) again gives the same job.

        Raises InvalidJob, NameTaken, KeyReused, KeyInFlight, and CreatedIsGone.
        """
        once = Once(key=key, fingerprint=_fingerprint(key, complete(document)))
        return self._store.create(self._service.prepared(document), once=once)

    def rehearse(self, document: Mapping[str, Any]) -> Job:
        """The job as it would be created now. Raises InvalidJob and NameTaken."""
        return self._store.rehearse(self._service.prepared(document))


def _fingerprint(key: str, document: Mapping[str, Any]) -> str:
    """Keyed: the document may hold a password, which a plain digest would let whoever reads it try out."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.digest(key.encode(), f"create {text}".encode(), "sha256").hex()
