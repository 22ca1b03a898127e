"""Audit trails over HTTP."""

from collections.abc import Mapping
from typing import Any

from gnomon.api.answers import Answer, event_answer
from gnomon.api.context import context
from gnomon.api.jobs import REFERENCE
from gnomon.api.paging import LINK_HEADER, Headers, next_page
from gnomon.api.routes import Routes
from gnomon.api.schemas.trail import Event, TrailQuery

routes = Routes("trail", __name__, description="Who changed what")


@routes.route("/jobs/<reference>/events", methods=["GET"], parameters=[REFERENCE])
@routes.arguments(TrailQuery, location="query")
@routes.response(200, Event(many=True), headers=LINK_HEADER)
def list_events_of_job(query: Mapping[str, Any], reference: str) -> tuple[list[Answer], Headers]:
    """List what was done to a job and by whom, the latest first; to a deleted job by its id."""
    job_id = context().service.id_of(reference)
    page = context().trail.list(job_id, limit=query["limit"], cursor=query.get("cursor"))
    return [event_answer(entry) for entry in page.items], next_page(page)
