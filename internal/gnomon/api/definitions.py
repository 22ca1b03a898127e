"""Definitions as clients write them."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from gnomon.job.document import PAYLOAD, Whole
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.model import Job, JobStatus
from gnomon.job.service import JobService


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


def status_change(document: Mapping[str, Any], job: Job) -> Callable[[JobService, UUID, int], Job] | None:
    """What gives the job the status that the document has, if it has another one than the job. Raises InvalidJob."""
    wanted = document.get("status", job.status.value)
    check_read_only({**document, "status": job.status.value}, job)
    if wanted == job.status.value:
        return None
    if wanted == JobStatus.STOPPED.value:
        return lambda service, job_id, revision: service.pause(str(job_id), if_revision=revision)
    if wanted == JobStatus.RUNNING.value:
        return lambda service, job_id, revision: service.resume(str(job_id), if_revision=revision)
    raise InvalidJob.at(
        "/status", f"is {job.status.value}: only RUNNING and STOPPED can be asked for", "COMPLETED follows by itself"
    )


def check_read_only(document: Mapping[str, Any], job: Job | None) -> None:
    """What only answers have may be sent back, as long as it agrees; None: a new job. Raises InvalidJob."""
    status = JobStatus.RUNNING.value if job is None else job.status.value
    if document.get("status", status) != status:
        raise InvalidJob.at("/status", f"is {status} and can't be set", "POST /jobs/{id}/pause pauses")
    if job is None and document.get("id") is not None:
        raise InvalidJob.at("/id", "is given to a new job, and can't be chosen", "leave it out")
    if job is not None and document.get("id", str(job.id)) != str(job.id):
        raise InvalidJob.at("/id", f"is not the id of this job, {job.id}", "leave it out")
