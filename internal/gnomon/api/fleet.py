"""The processes that take part, over HTTP, and what they can run."""

from collections.abc import Mapping
from typing import Any

from gnomon.api.answers import Answer, handler_answer, instance_answer
from gnomon.api.context import context
from gnomon.api.routes import Routes
from gnomon.api.schemas.fleet import Handler, Instance
from gnomon.api.schemas.queries import NoQuery

routes = Routes("fleet", __name__, description="Who runs jobs")


@routes.route("/instances", methods=["GET"])
@routes.arguments(NoQuery, location="query")
@routes.response(200, Instance(many=True))
def list_instances(query: Mapping[str, Any]) -> list[Answer]:  # noqa: ARG001 - that there is none was checked
    """List the processes that live, and those that ended within the last hour."""
    return [instance_answer(instance) for instance in context().instances.list()]


@routes.route("/handlers", methods=["GET"])
@routes.arguments(NoQuery, location="query")
@routes.response(200, Handler(many=True))
def list_handlers(query: Mapping[str, Any]) -> list[Answer]:  # noqa: ARG001 - that there is none was checked
    """List the handlers that workers have announced: what `type` a job can have beside HTTP and AMQP."""
    return [handler_answer(handler) for handler in context().catalog.handlers()]
