"""What can be asked of a job, beside reading and changing it."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import request

from gnomon.api.answers import Answer, backfill_answer, execution_answer, job_answer
from gnomon.api.context import context
from gnomon.api.jobs import REFERENCE
from gnomon.api.paging import Headers
from gnomon.api.problems import Refused
from gnomon.api.routes import Routes
from gnomon.api.schemas import Backfill, BackfillRequest, Execution, Job, Pause, RunQuery

REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "a text of the client's own; the same again within a day has no second effect",
    "schema": {"type": "string", "maxLength": 255},
}
REPLAYED_HEADER = {REPLAYED: {"description": "true: an earlier request did it", "schema": {"type": "string"}}}

routes = Routes("actions", __name__, description="Run, pause, make up for")


@routes.route("/jobs/<reference>/run", methods=["POST"], parameters=[REFERENCE, IDEMPOTENCY_KEY])
@routes.arguments(RunQuery, location="query")
@routes.response(202, Execution, headers=REPLAYED_HEADER)
def run_job(query: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Run a job now, beside its schedule.

    Also one that is paused or complete. 409 while an execution of it is unfinished, unless it may overlap or `queue`
    is true.
    """
    asked = context().service.run_now(reference, may_wait=query["queue"], key=_key())
    location = f"{request.path.partition('/jobs/')[0]}/executions/{asked.execution.id}"
    replayed = {REPLAYED: "true"} if asked.replayed else {}
    return execution_answer(asked.execution), {"Location": location, **replayed}


@routes.route("/jobs/<reference>/pause", methods=["POST"], parameters=[REFERENCE])
@routes.arguments(Pause)
@routes.response(200, Job)
def pause_job(document: Mapping[str, Any], reference: str) -> Answer:
    """Pause a job: no new executions; what has been created goes on."""
    return job_answer(context().service.pause(reference, **document))


@routes.route("/jobs/<reference>/resume", methods=["POST"], parameters=[REFERENCE])
@routes.response(200, Job)
def resume_job(reference: str) -> Answer:
    """Resume a paused job at its next moment from now; what passed meanwhile is not made up for."""
    return job_answer(context().service.resume(reference))


@routes.route("/jobs/<reference>/backfill", methods=["POST"], parameters=[REFERENCE, IDEMPOTENCY_KEY])
@routes.arguments(BackfillRequest)
@routes.response(202, Backfill)
@routes.alt_response(200, Backfill, description="the answer to a dry run")
def backfill_job(document: Mapping[str, Any], reference: str) -> tuple[Answer, int]:
    """Make up for past moments that have no execution, or none but a SKIPPED one. At most 1,000 at a time."""
    dry_run = document["dry_run"]
    moments = context().service.backfill(
        reference, since=document["from_"], until=document["to"], dry_run=dry_run, key=_key()
    )
    return backfill_answer(moments, dry_run=dry_run), 200 if dry_run else 202


def _key() -> str | None:
    """The request's Idempotency-Key. Raises Refused."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused(HTTPStatus.BAD_REQUEST, "an Idempotency-Key has 1 to 255 visible ASCII characters and no space")
    return key
