"""Executions over HTTP: what became of jobs."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gnomon.api.answers import Answer, execution_answer, repeatable_answer, repeated_answer
from gnomon.api.context import context
from gnomon.api.idempotency import (
    IDEMPOTENCY_KEY,
    LOCATION_HEADER,
    REPLAYED_HEADER,
    idempotency_key,
    requested_answer,
)
from gnomon.api.jobs import REFERENCE
from gnomon.api.paging import LIST_HEADERS, Headers, instant_of, next_page, part_of, total
from gnomon.api.problems import REPLAYED
from gnomon.api.routes import Routes
from gnomon.api.schemas.executions import AllExecutionsQuery, Execution, ExecutionListQuery, RetryQuery
from gnomon.api.schemas.repeats import Repeated, RepeatRequest
from gnomon.job.errors import InvalidJob
from gnomon.job.model import State, Trigger
from gnomon.job.ports import ExecutionQuery, RepeatQuery
from gnomon.job.principal import Role
from gnomon.job.repeats import How

FAILED_STATES = frozenset((State.FAILED, State.UNKNOWN))
EXECUTION = {
    "in": "path",
    "name": "execution_id",
    "description": "the id of an execution",
    "schema": {"type": "string", "format": "uuid"},
    "required": True,
}

routes = Routes("executions", __name__, description="What became of jobs")


@routes.route("/jobs/<reference>/executions", methods=["GET"], parameters=[REFERENCE])
@routes.arguments(ExecutionListQuery, location="query")
@routes.response(200, Execution(many=True), headers=LIST_HEADERS)
def list_executions_of_job(query: Mapping[str, Any], reference: str) -> tuple[list[Answer], Headers]:
    """List the executions of a job, newest first; those of a deleted job by its id."""
    return _listed(reference, query)


@routes.route("/executions", methods=["GET"])
@routes.arguments(AllExecutionsQuery, location="query")
@routes.response(200, Execution(many=True), headers=LIST_HEADERS)
def list_executions(query: Mapping[str, Any]) -> tuple[list[Answer], Headers]:
    """List the executions of all jobs, newest first. `state=FAILED` is the list of what was given up."""
    return _listed(query.get("job_id"), query)


@routes.route("/executions/<id:execution_id>", methods=["GET"], parameters=[EXECUTION])
@routes.response(200, Execution)
def get_execution(execution_id: str) -> Answer:
    """Read an execution."""
    return execution_answer(context().service.execution(execution_id))


@routes.route("/executions/<execution_id>/cancel", methods=["POST"], parameters=[EXECUTION])
@routes.response(202, Execution)
def cancel_execution(execution_id: str) -> Answer:
    """Cancel an execution.

    One that is not running ends at once. One that runs is aborted by its worker within seconds; a success that was
    quicker stays a success. It is not tried again.
    """
    return execution_answer(context().service.cancel(execution_id))


@routes.route("/executions/<execution_id>/retry", methods=["POST"], parameters=[EXECUTION, IDEMPOTENCY_KEY])
@routes.arguments(RetryQuery, location="query")
@routes.response(202, Execution, headers=LOCATION_HEADER | REPLAYED_HEADER)
def retry_execution(query: Mapping[str, Any], execution_id: str) -> tuple[Answer, Headers]:
    """Try an execution again that failed, was cancelled, or whose outcome is unknown.

    A new execution that names the old one in `repeats`. Overlap applies as for a run.
    """
    asked = context().service.retry(
        execution_id, same_revision=query["revision"] == "same", may_wait=query["queue"], key=idempotency_key()
    )
    return requested_answer(asked)


@routes.route("/executions/retry", methods=["POST"], role=Role.ADMIN, parameters=[IDEMPOTENCY_KEY])
@routes.arguments(RepeatRequest)
@routes.response(202, Repeated, headers=REPLAYED_HEADER)
@routes.alt_response(200, Repeated, description="the answer to a dry run")
def retry_executions(document: Mapping[str, Any]) -> tuple[Answer, int, Headers]:
    """Try many executions again: those that failed, were cancelled, or whose outcome is unknown.

    All of them, or those that the filters leave; an empty object is all. Up to 1,000 at a time, the oldest first. One
    that was tried again before is left out, unless `again`. What can't be tried again is in `refused`.
    """
    query, key = _repeat_query(document), idempotency_key()
    how = How(
        same_revision=document["revision"] == "same",
        may_wait=document["queue"],
        expected=document.get("expected_count"),
        limit=document["limit"],
    )
    if document["dry_run"]:
        return repeatable_answer(context().repeats.matching(query)), 200, {}
    done = context().repeats.repeat(query, how, key=key)
    return repeated_answer(done), 202, {REPLAYED: "true"} if done.replayed else {}


def _repeat_query(document: Mapping[str, Any]) -> RepeatQuery:
    given = {name: value for name, value in document.items() if value is not None}
    return RepeatQuery(
        states=[State(name) for name in given.get("state", sorted(FAILED_STATES))],
        job_id=_job_id(given.get("job_id")),
        trigger=Trigger(given["trigger"]) if "trigger" in given else None,
        since=instant_of(given, "scheduled_after"),
        until=instant_of(given, "scheduled_before"),
        again=given["again"],
    )


def _job_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError as error:
        raise InvalidJob.at("/job_id", "is not a UUID", "GET /jobs/name:… answers a job's id") from error


def _listed(reference: str | None, query: Mapping[str, Any]) -> tuple[list[Answer], Headers]:
    asked = ExecutionQuery(
        **part_of(query),
        states=_states(query),
        trigger=Trigger(query["trigger"]) if "trigger" in query else None,
        since=instant_of(query, "scheduled_after"),
        until=instant_of(query, "scheduled_before"),
    )
    page = context().service.executions(reference, asked)
    counted = total(query, lambda: _count(reference, asked))
    return [execution_answer(execution) for execution in page.items], {**next_page(page), **counted}


def _count(reference: str | None, asked: ExecutionQuery) -> int:
    job_id = None if reference is None else context().service.id_of(reference)
    return context().overview.count_executions(job_id, asked)


def _states(query: Mapping[str, Any]) -> frozenset[State]:
    failed_only = query.get("failed_only", query.get("failedOnly", False))
    if failed_only and "state" in query:
        raise InvalidJob.at("/failed_only", "excludes state", "give one of the two")
    return FAILED_STATES if failed_only else frozenset(State(name) for name in query.get("state", ()))
