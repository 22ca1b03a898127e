"""What schedules would do, over HTTP."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gnomon.api.answers import Answer, preview_answer
from gnomon.api.context import context
from gnomon.api.definitions import as_written
from gnomon.api.jobs import REFERENCE
from gnomon.api.paging import instant_of
from gnomon.api.routes import Routes
from gnomon.api.schemas.jobs import canonical
from gnomon.api.schemas.schedules import NextRunsQuery, Preview, PreviewRequest
from gnomon.job.document import complete, read_timing
from gnomon.job.errors import InvalidJob
from gnomon.job.preview import preview
from gnomon.job.principal import Role

routes = Routes("schedules", __name__, description="What schedules would do")


@routes.route("/jobs/<id:reference>/next-runs", methods=["GET"], parameters=[REFERENCE])
@routes.arguments(NextRunsQuery, location="query")
@routes.response(200, Preview)
def list_next_runs(query: Mapping[str, Any], reference: str) -> Answer:
    """Tell what a job's schedule would do, from any moment on; also that of a paused job."""
    since = instant_of({"from": query.get("from_")}, "from")
    found = context().service.next_runs(reference, since=since, now=datetime.now(UTC), count=query["count"])
    return preview_answer(found)


@routes.route("/schedules/preview", methods=["POST"], role=Role.READ)
@routes.arguments(PreviewRequest)
@routes.response(200, Preview)
def preview_schedule(document: Mapping[str, Any]) -> Answer:
    """Tell what a schedule would do, before there is a job with it.

    What no job could have is refused as for a job; what has no moment from `from` on never fires.
    """
    count, since = document["count"], instant_of({"from": document.get("from_")}, "from")
    given, used = canonical({name: value for name, value in document.items() if name not in ("count", "from_")})
    now = datetime.now(UTC)
    try:
        timing = read_timing(complete(given), now=now)
    except InvalidJob as error:
        raise as_written(error, used) from error
    return preview_answer(preview(timing, since or now, count=count))
