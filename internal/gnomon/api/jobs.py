"""Jobs and their executions over HTTP."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Response, request

from gnomon.api.answers import Answer, changed_answer, created_answer, etag, job_answer
from gnomon.api.conditions import ETAG_HEADER, IF_MATCH, IF_NONE_MATCH, Condition, condition, if_match
from gnomon.api.context import context
from gnomon.api.definitions import as_written, check_read_only, status_change, with_whole_payload
from gnomon.api.filters import chosen_jobs
from gnomon.api.idempotency import IDEMPOTENCY_KEY, LOCATION_HEADER, REPLAYED_HEADER, idempotency_key
from gnomon.api.paging import LIST_HEADERS, Headers, next_page, part_of, total
from gnomon.api.problems import REPLAYED
from gnomon.api.routes import JSON, MERGE_PATCH, Routes
from gnomon.api.schemas.jobs import (
    READ_ONLY,
    ChangedJob,
    CreatedJob,
    CreationQuery,
    Job,
    JobInput,
    JobListQuery,
    JobPatch,
    JobPut,
    RehearsedJob,
    canonical,
)
from gnomon.job.document import NAME as NAMES
from gnomon.job.errors import InvalidJob, NotFound
from gnomon.job.model import Job as JobValue
from gnomon.job.ports import Created
from gnomon.job.service import NAME_PREFIX

REFERENCE = {
    "in": "path",
    "name": "reference",
    "description": "the id of a job, or `name:` and its name",
    "schema": {"type": "string", "anyOf": [{"format": "uuid"}, {"pattern": f"^name:{NAMES.pattern}$"}]},
    "required": True,
}
NAME = {
    **REFERENCE,
    "name": "name",
    "description": "the name of a job",
    "schema": {"type": "string", "pattern": f"^{NAMES.pattern}$"},
}

routes = Routes("jobs", __name__, description="What to call, and when")


@routes.route("/jobs", methods=["POST"], parameters=[IDEMPOTENCY_KEY])
@routes.arguments(CreationQuery, location="query")
@routes.arguments(JobInput)
@routes.response(201, CreatedJob, headers=ETAG_HEADER | LOCATION_HEADER | REPLAYED_HEADER)
@routes.alt_response(200, RehearsedJob, description="the answer to validate_only: the job as it would be")
def create_job(query: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[Answer, int, Headers]:
    """Create a job.

    The answer to the same Idempotency-Key is the job as it is then.
    """
    (given, used), key = canonical(document), idempotency_key()
    try:
        if query["validate_only"]:
            return _rehearsed(given), 200, {}
        made = _created(given, key)
    except InvalidJob as error:
        raise as_written(error, used) from error
    answer = created_answer(made.job, context().service.warnings(made.job))
    location = f"{request.path.rstrip('/')}/{made.job.id}"
    return answer, 201, {**etag(made.job), "Location": location, **({REPLAYED: "true"} if made.replayed else {})}


@routes.route("/jobs", methods=["GET"])
@routes.arguments(JobListQuery, location="query")
@routes.response(200, Job(many=True), headers=LIST_HEADERS)
def list_jobs(query: Mapping[str, Any]) -> tuple[list[Answer], Headers]:
    """List jobs, newest first."""
    asked = replace(chosen_jobs(query), **part_of(query))
    page = context().service.list(asked)
    counted = total(query, lambda: context().overview.count_jobs(asked))
    return [job_answer(job) for job in page.items], {**next_page(page), **counted}


@routes.route("/jobs/<id:reference>", methods=["GET"], parameters=[REFERENCE])
@routes.response(200, Job, headers=ETAG_HEADER)
def get_job(reference: str) -> tuple[Answer, Headers]:
    """Read a job."""
    job = context().service.get(reference)
    return job_answer(job), etag(job)


@routes.route("/jobs/<id:reference>", methods=["PATCH"], parameters=[REFERENCE, IF_MATCH])
@routes.doc(requestBody={"content": {JSON: {"schema": JobPatch}}})
@routes.arguments(JobPatch, content_type=MERGE_PATCH)
@routes.response(200, ChangedJob, headers=ETAG_HEADER)
def patch_job(patch: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Change a job (RFC 7396)."""
    return _update(reference, patch)


@routes.route("/jobs/<id:reference>", methods=["PUT"], parameters=[REFERENCE, IF_MATCH])
@routes.arguments(JobPut)
@routes.response(200, ChangedJob, headers=ETAG_HEADER)
def put_job(document: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Change a job, as older clients do.

    What is left out stays, but a payload is replaced as a whole. Another `status` than the job has pauses or resumes
    it, after the rest was changed. The other fields that only answers have may be sent back, and are ignored.
    """
    before = context().service.get(reference)
    act = status_change(document, before)
    given = {key: value for key, value in document.items() if key not in READ_ONLY}
    answer, headers = _update(reference, with_whole_payload(given))
    if act is None:
        return answer, headers
    job = act(context().service, before.id, answer["revision"])
    return changed_answer(job, answer["warnings"]), etag(job)


@routes.route("/jobs/by-name/<name>", methods=["PUT"], parameters=[NAME, IF_MATCH, IF_NONE_MATCH])
@routes.arguments(JobPut)
@routes.response(201, CreatedJob, headers=ETAG_HEADER | LOCATION_HEADER)
@routes.alt_response(200, ChangedJob, description="the answer where a job bore the name: it is replaced")
def put_job_by_name(document: Mapping[str, Any], name: str) -> tuple[Answer, int, Headers]:
    """Create the job of this name, or replace the whole of it.

    What is left out is the default, but for secrets that read "***" and the anchor of an interval that stays: the same
    document sent again changes nothing, unless it holds a secret, which nobody could compare. `name` may be left out of
    it. The fields that only answers have may be sent back.
    """
    if document.get("name") not in (None, name):
        raise InvalidJob.at("/name", f"is not the name in the path, {name[:200]!r}", "leave it out")
    check_read_only(document, _known(name))
    given = {key: value for key, value in document.items() if key not in READ_ONLY}
    job, created = _put(name, given, condition())
    warnings = context().service.warnings(job)
    if not created:
        return changed_answer(job, warnings), 200, etag(job)
    location = f"{request.path.partition('/by-name/')[0]}/{job.id}"
    return created_answer(job, warnings), 201, {**etag(job), "Location": location}


@routes.route("/jobs/<id:reference>", methods=["DELETE"], parameters=[REFERENCE, IF_MATCH])
@routes.response(204)
def delete_job(reference: str) -> Response:
    """Delete a job.

    Its executions that run finish their attempt; those that wait are cancelled. Its history stays readable by id.
    """
    context().service.delete(reference, if_revision=if_match())
    return Response(status=204)


def _created(document: Mapping[str, Any], key: str | None) -> Created:
    if key is None:
        return Created(job=context().service.create(document), replayed=False)
    return context().creations.create(document, key=key)


def _rehearsed(document: Mapping[str, Any]) -> Answer:
    job = context().creations.rehearse(document)
    answer = created_answer(job, context().service.warnings(job))
    del answer["id"]
    return answer


def _put(name: str, document: Mapping[str, Any], condition: Condition) -> tuple[JobValue, bool]:
    given, used = canonical(document)
    try:
        return context().service.put(name, given, exists=condition.exists, if_revision=condition.revision)
    except InvalidJob as error:
        raise as_written(error, used) from error


def _known(name: str) -> JobValue | None:
    try:
        return context().service.get(f"{NAME_PREFIX}{name}")
    except NotFound:
        return None


def _update(reference: str, patch: Mapping[str, Any]) -> tuple[Answer, Headers]:
    given, used = canonical(patch)
    try:
        job = context().service.update(reference, given, if_revision=if_match())
    except InvalidJob as error:
        raise as_written(error, used) from error
    return changed_answer(job, context().service.warnings(job)), etag(job)
