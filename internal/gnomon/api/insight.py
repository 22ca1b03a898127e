"""How it goes, over HTTP."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gnomon.api.answers import Answer, queue_answer, stats_answer, why_answer
from gnomon.api.context import context
from gnomon.api.jobs import REFERENCE
from gnomon.api.routes import Routes
from gnomon.api.schemas.overview import Queue, Stats, StatsQuery, Why
from gnomon.job.instance import Role
from gnomon.job.model import Job
from gnomon.job.target import HandlerTarget
from gnomon.job.why import Fleet, reasons

TRAIL = 20  # the latest entries: a pause lies among them, or is long forgotten

routes = Routes("overview", __name__, description="How it goes")


@routes.route("/jobs/<id:reference>/why", methods=["GET"], parameters=[REFERENCE])
@routes.response(200, Why)
def explain_job(reference: str) -> Answer:
    """Tell why a job has not run, was late, was skipped or ran twice.

    From what is recorded of it, of its newest executions, and of who lives: first what holds of the job now, then its
    executions, the newest first.
    """
    evidence = context().overview.evidence(context().service.id_of(reference))
    fleet = Fleet(instances=context().instances.list(), handler=_handler_of(evidence.job))
    trail = context().trail.list(evidence.job.id, limit=TRAIL, cursor=None).items
    return why_answer(evidence.job, evidence.at, reasons(evidence, trail, fleet))


@routes.route("/queues", methods=["GET"])
@routes.response(200, Queue(many=True))
def list_queues() -> list[Answer]:
    """List the queues that have something unfinished, or a living worker."""
    depths = {depth.name: depth for depth in context().overview.queues()}
    living = [one for one in context().instances.list() if one.alive and one.role is Role.WORKER]
    taken = [name for one in living for name in one.queues]
    return [queue_answer(name, depths.get(name), taken.count(name)) for name in sorted({*depths, *taken})]


@routes.route("/stats", methods=["GET"])
@routes.arguments(StatsQuery, location="query")
@routes.response(200, Stats)
def get_stats(query: Mapping[str, Any]) -> Answer:
    """Count jobs by their status, and the newest executions by their state, with how late they began."""
    window = timedelta(seconds=query["window_seconds"])
    return stats_answer(context().overview.stats(window), window)


def _handler_of(job: Job) -> Any:
    target = None if job.definition is None else job.definition.target
    return context().catalog.handler(target.name) if isinstance(target, HandlerTarget) else None
