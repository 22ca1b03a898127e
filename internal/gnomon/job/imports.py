"""Jobs that come in by the thousand, as an export wrote them: each replaces the one it means, or is created."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gnomon.job.document import parse_instant
from gnomon.job.errors import InvalidJob
from gnomon.job.model import JobStatus
from gnomon.job.ports import Imported, ImportStep, ImportStore
from gnomon.job.service import JobService, stopped_at_birth

STANDING = ("id", "status", "pause_reason", "paused_until")


class Imports:
    """Like JobService.put, for many at a time."""

    def __init__(self, service: JobService, store: ImportStore) -> None:
        self._service = service
        self._store = store

    def put(self, steps: Sequence[ImportStep], *, dry_run: bool) -> Sequence[Imported]:
        """One transaction; what is refused is left out of it. Raises Unavailable: then nothing of it was done."""
        return self._store.put(steps, dry_run=dry_run)

    def step(self, document: Mapping[str, Any]) -> ImportStep:
        """The job that bears the document's name, or else its id, is to be replaced by it; otherwise one is created.

        Only one that is created is paused, or complete, as it was: what is here already goes on as it does. Raises
        InvalidJob, and Unavailable.
        """
        name, job_id = document.get("name"), document.get("id")
        if name is None and job_id is None:
            raise InvalidJob.at("/name", "is missing, and so is an id: sent again, it would be created again")
        definition = {field: value for field, value in document.items() if field not in STANDING}
        status = JobStatus(document.get("status") or JobStatus.RUNNING)
        until = document.get("paused_until")
        end = None if until is None else parse_instant(until, "/paused_until")
        return ImportStep(
            name=name,
            job_id=job_id,
            prepare=self._service.prepared(definition, job_id=job_id, status=status),
            replace=self._service.replacement(definition),
            stop=partial(stopped_at_birth, reason=document.get("pause_reason"), until=end),
            status=status,
        )
