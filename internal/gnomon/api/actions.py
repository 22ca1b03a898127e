"""What can be asked of a job, beside reading and changing it."""

from collections.abc import Mapping
from typing import Any

from gnomon.api.answers import Answer, backfill_answer, etag, job_answer
from gnomon.api.conditions import ETAG_HEADER, IF_MATCH, if_match
from gnomon.api.context import context
from gnomon.api.idempotency import IDEMPOTENCY_KEY, LOCATION_HEADER, REPLAYED_HEADER, idempotency_key, requested_answer
from gnomon.api.jobs import REFERENCE
from gnomon.api.paging import Headers
from gnomon.api.routes import Routes
from gnomon.api.schemas.actions import Backfill, BackfillRequest, Pause, RunQuery
from gnomon.api.schemas.executions import Execution
from gnomon.api.schemas.jobs import Job

routes = Routes("actions", __name__, description="Run, pause, make up for")


@routes.route("/jobs/<reference>/run", methods=["POST"], parameters=[REFERENCE, IDEMPOTENCY_KEY])
@routes.arguments(RunQuery, location="query")
@routes.response(202, Execution, headers=LOCATION_HEADER | REPLAYED_HEADER)
def run_job(query: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Run a job now, beside its schedule.

    Also one that is paused or complete. 409 while an execution of it is unfinished, unless it may overlap or `queue`
    is true.
    """
    return requested_answer(context().service.run_now(reference, may_wait=query["queue"], key=idempotency_key()))


@routes.route("/jobs/<reference>/pause", methods=["POST"], parameters=[REFERENCE, IF_MATCH])
@routes.arguments(Pause)
@routes.response(200, Job, headers=ETAG_HEADER)
def pause_job(document: Mapping[str, Any], reference: str) -> tuple[Answer, Headers]:
    """Pause a job: no new executions; what has been created goes on."""
    job = context().service.pause(reference, **document, if_revision=if_match())
    return job_answer(job), etag(job)


@routes.route("/jobs/<reference>/resume", methods=["POST"], parameters=[REFERENCE, IF_MATCH])
@routes.response(200, Job, headers=ETAG_HEADER)
def resume_job(reference: str) -> tuple[Answer, Headers]:
    """Resume a paused job at its next moment from now; what passed meanwhile is not made up for."""
    job = context().service.resume(reference, if_revision=if_match())
    return job_answer(job), etag(job)


@routes.route("/jobs/<reference>/backfill", methods=["POST"], parameters=[REFERENCE, IDEMPOTENCY_KEY])
@routes.arguments(BackfillRequest)
@routes.response(202, Backfill)
@routes.alt_response(200, Backfill, description="the answer to a dry run")
def backfill_job(document: Mapping[str, Any], reference: str) -> tuple[Answer, int]:
    """Make up for past moments that have no execution, or none but a SKIPPED one. At most 1,000 at a time."""
    dry_run = document["dry_run"]
    moments = context().service.backfill(
        reference, since=document["from_"], until=document["to"], dry_run=dry_run, key=idempotency_key()
    )
    return backfill_answer(moments, dry_run=dry_run), 200 if dry_run else 202
