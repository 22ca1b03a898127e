"""Jobs and their executions over HTTP."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response, request

from gnomon.api.answers import Answer, changed_answer, created_answer, etag, job_answer
from gnomon.api.context import context
from gnomon.api.idempotency import LOCATION_HEADER
from gnomon.api.paging import LINK_HEADER, Headers, next_page, part_of
from gnomon.api.problems import Refused
from gnomon.api.routes import JSON, MERGE_PATCH, Routes
from gnomon.api.schemas.jobs import (
    READ_ONLY,
    ChangedJob,
    CreatedJob,
    Job,
    JobInput,
    JobListQuery,
    JobPatch,
    JobPut,
    canonical,
)
from gnomon.job.document import PAYLOAD, Whole, merge_patch
from gnomon.job.errors import FieldError, InvalidJob, RevisionMismatch
from gnomon.job.model import Job as JobValue
from gnomon.job.model import JobStatus
from gnomon.job.ports import JobQuery

ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')  # RFC 9110, 8.8.3
ETAG_HEADER = {"ETag": {"description": "the revision", "schema": {"type": "string"}, "required": True}}
REFERENCE = {
    "in": "path",
    "name": "reference",
    "description": "the id of a job, or `name:` and its name",
    "schema": {"type": "string"},
    "required": True,
}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "description": "the ETag of the revision that may be changed; 412 when the job is at another one",
    "schema": {"type": "string"},
}

routes = Routes("jobs", __name__, description="What to call, and when")


@routes.route("/jobs", methods=["POST"])
@routes.arguments(JobInput)
@routes.response(201, CreatedJob, headers=ETAG_HEADER | LOCATION_HEADER)
def create_job(document: Mapping[str, Any]) -> tuple[Answer, Headers]:
    """Create a job."""
    given, used = canonical(document)
    try:
        job = context().service.create(merge_patch({}, _with_whole_payload(given)))
    except InvalidJob as error:
        raise _as_written(error, used) from error
    location = f"{request.path.rstrip('/')}/{job.id}"
    return created_answer(job, context().service.warnings(job)), {**etag(job), "Location": location}


@routes.route("/jobs", methods=["GET"])
@routes.arguments(JobListQuery, location="query")
@routes.response(200, Job(many=True), headers=LINK_HEADER)
def list_jobs(query: Mapping[str, Any]) -> tuple[list[Answer], Headers]:
    """List jobs, newest first."""
    listed = [tag for tag in query.get("tags", "").split(",") if tag]
    page = context().service.list(
        JobQuery(
            **part_of(query),
            status=JobStatus(query["status"]) if "status" in query else None,
            kind=query.get("type"),
            tags=(*query.get("tag", ()), *listed),
            name_contains=query.get("q"),
        )
    )
    return [job_answer(job) for job in page.items], next_page(page)


@routes.route("/jobs/<reference>", methods=["GET"], parameters=[REFERENCE])
@routes.response(200, Job, headers=ETAG_HEADER)
def get_job(reference: str) -> tuple[Answer, Headers]:
    """Read a job."""
    job = context().service.get(reference)
    return job_answer(job), etag(job)


@routes.route("/jobs/<reference>", methods=["PATCH"], parameters=[REFERENCE])
@routes.doc(parameters=[IF_MATCH], requestBody={"content": {JSON: {"schema": JobPatch}}})
@routes.arguments(JobPatch, content_type=MERGE_PATCH)
@routes.response(200, ChangedJob, headers=ETAG_HEADER)
def patch_job(patch: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Change a job (RFC 7396)."""
    return _update(reference, patch)


@routes.route("/jobs/<reference>", methods=["PUT"], parameters=[REFERENCE])
@routes.doc(parameters=[IF_MATCH])
@routes.arguments(JobPut)
@routes.response(200, ChangedJob, headers=ETAG_HEADER)
def put_job(document: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Change a job, as older clients do.

    What is left out stays, but a payload is replaced as a whole.
    The fields that only answers have may be sent back; all but `status` and `id` are ignored.
    """
    _check_read_only(document, context().service.get(reference))
    given = {key: value for key, value in document.items() if key not in READ_ONLY}
    return _update(reference, _with_whole_payload(given))


@routes.route("/jobs/<reference>", methods=["DELETE"], parameters=[REFERENCE])
@routes.doc(parameters=[IF_MATCH])
@routes.response(204)
def delete_job(reference: str) -> Response:
    """Delete a job.

    Its executions that run finish their attempt; those that wait are cancelled. Its history stays readable by id.
    """
    expected = _if_match()
    if expected is not None:
        job = context().service.get(reference)
        if job.revision != expected:
            raise RevisionMismatch(f"job {job.id} is at revision {job.revision}, not {expected}: read it again")
    context().service.delete(reference)
    return Response(status=204)


def _update(reference: str, patch: Mapping[str, Any]) -> tuple[Answer, Headers]:
    given, used = canonical(patch)
    try:
        job = context().service.update(reference, given, if_revision=_if_match())
    except InvalidJob as error:
        raise _as_written(error, used) from error
    return changed_answer(job, context().service.warnings(job)), etag(job)


def _with_whole_payload(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A payload's nulls are values of the handler's, and not fields that are not given."""
    payload = document.get(PAYLOAD)
    return document if payload is None else {**document, PAYLOAD: Whole(payload)}


def _as_written(error: InvalidJob, used: Mapping[str, str]) -> InvalidJob:
    """The same errors, with pointers into the document as the client wrote it."""
    return InvalidJob(
        FieldError(pointer=_pointer_as_written(broken.pointer, used), detail=broken.detail, hint=broken.hint)
        for broken in error.errors
    )


def _pointer_as_written(pointer: str, used: Mapping[str, str]) -> str:
    root, first, *rest = pointer.split("/", 2) if pointer else ("", "")
    return "/".join([root, used.get(first, first), *rest]) if first else pointer


def _check_read_only(document: Mapping[str, Any], job: JobValue) -> None:
    if document.get("status", job.status.value) != job.status.value:
        raise InvalidJob.at("/status", f"is {job.status.value} and can't be set", "POST /jobs/{id}/pause pauses")
    if document.get("id", str(job.id)) != str(job.id):
        raise InvalidJob.at("/id", f"is not the id of this job, {job.id}", "leave it out")


def _if_match() -> int | None:
    """The revision that the request is for; None for any. Raises Refused and RevisionMismatch."""
    header = request.headers.get("If-Match", "*").strip()
    if header == "*":
        return None
    tag = ENTITY_TAG.fullmatch(header)
    if tag is None:
        raise Refused(HTTPStatus.BAD_REQUEST, 'If-Match must hold one entity tag, as in If-Match: "3", or *')
    weak, revision = tag.groups()
    if weak or not re.fullmatch(r"[0-9]{1,9}", revision):
        raise RevisionMismatch("no revision of a job bears this entity tag: read the job again")
    return int(revision)
