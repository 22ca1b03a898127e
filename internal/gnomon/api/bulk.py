"""One action on many jobs, over HTTP."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gnomon.api.answers import Answer, bulk_answer, chosen_answer
from gnomon.api.context import context
from gnomon.api.filters import chosen_jobs
from gnomon.api.idempotency import IDEMPOTENCY_KEY, idempotency_key
from gnomon.api.routes import Routes
from gnomon.api.schemas.bulk import BulkOutcome, BulkRequest
from gnomon.job.bulk import Act
from gnomon.job.document import parse_instant
from gnomon.job.errors import InvalidJob
from gnomon.job.ports import JobQuery
from gnomon.job.principal import Role

PAUSE_ONLY = ("reason", "until")

routes = Routes("bulk", __name__, description="One action on many jobs")


@routes.route("/jobs/bulk", methods=["POST"], role=Role.ADMIN, parameters=[IDEMPOTENCY_KEY])
@routes.arguments(BulkRequest)
@routes.response(200, BulkOutcome)
def change_jobs(document: Mapping[str, Any]) -> Answer:
    """Pause, resume, run or delete many jobs.

    Those that the filter leaves, up to 1,000 at a time, the newest first; `cursor` goes on. Each job is a transaction
    of its own: what refuses is in `refused`, and after a failure in between the same request is safe to repeat (a run
    with the same Idempotency-Key). A job that is edited meanwhile is refused, not changed.
    """
    given = {name: value for name, value in document.items() if value is not None}
    query = _query(given)
    act = _act(given)
    if given["dry_run"]:
        return chosen_answer(given["action"], context().bulk.matching(query))
    outcome = context().bulk.act(query, act, expected=given.get("expected_count"))
    return bulk_answer(given["action"], outcome)


def _query(given: Mapping[str, Any]) -> JobQuery:
    chosen = {name: value for name, value in (given.get("filter") or {}).items() if value not in (None, [])}
    if bool(chosen) == given["all"]:
        detail = "says all, and a filter is given" if chosen else "no filter is given"
        raise InvalidJob.at("/all" if chosen else "/filter", detail, 'filter the jobs, or say "all": true')
    try:
        query = chosen_jobs(chosen)
    except InvalidJob as error:
        raise error.under("/filter") from error
    return replace(query, limit=given["limit"], cursor=given.get("cursor"))


def _act(given: Mapping[str, Any]) -> Act:
    action, service, key = given["action"], context().service, idempotency_key()
    for name in PAUSE_ONLY:
        if name in given and action != "pause":
            raise InvalidJob.at(f"/{name}", f"does not belong to the action {action}", "leave it out")
    if given["queue"] and action != "run":
        raise InvalidJob.at("/queue", f"does not belong to the action {action}", "leave it out, or put it in filter")
    reason, until = given.get("reason"), given.get("until")
    if until is not None:
        parse_instant(until, "/until")
    match action:
        case "pause":
            return lambda job: _none(service.pause(str(job.id), reason=reason, until=until, if_revision=job.revision))
        case "resume":
            return lambda job: _none(service.resume(str(job.id), if_revision=job.revision))
        case "delete":
            return lambda job: service.delete(str(job.id), if_revision=job.revision)
        case _:
            return lambda job: (
                service.run_now(
                    str(job.id), may_wait=given["queue"], key=None if key is None else f"{key} {job.id}"
                ).execution.id
            )


def _none(_: object) -> None:
    """Of what is done to a job only that it is done matters here."""
