"""Definitions as clients write them."""

from collections.abc import Mapping
from typing import Any

from gnomon.job.document import PAYLOAD, Whole
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.model import Job, JobStatus


def with_whole_payload(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A payload's nulls are values of the handler's, and not fields that are not given."""
    payload = document.get(PAYLOAD)
    return document if payload is None else {**document, PAYLOAD: Whole(payload)}


def as_written(error: InvalidJob, used: Mapping[str, str]) -> InvalidJob:
    """The same errors, with pointers into the document as the client wrote it."""
    return InvalidJob(
        FieldError(pointer=_pointer_as_written(broken.pointer, used), detail=broken.detail, hint=broken.hint)
        for broken in error.errors
    )


def _pointer_as_written(pointer: str, used: Mapping[str, str]) -> str:
    root, first, *rest = pointer.split("/", 2) if pointer else ("", "")
    return "/".join([root, used.get(first, first), *rest]) if first else pointer


def check_read_only(document: Mapping[str, Any], job: Job | None) -> None:
    """What only answers have may be sent back, as long as it agrees; None: a new job. Raises InvalidJob."""
    status = JobStatus.RUNNING.value if job is None else job.status.value
    if document.get("status", status) != status:
        raise InvalidJob.at("/status", f"is {status} and can't be set", "POST /jobs/{id}/pause pauses")
    if job is None and document.get("id") is not None:
        raise InvalidJob.at("/id", "is given to a new job, and can't be chosen", "leave it out")
    if job is not None and document.get("id", str(job.id)) != str(job.id):
        raise InvalidJob.at("/id", f"is not the id of this job, {job.id}", "leave it out")
