"""The processes that take part, over HTTP, and what they can run."""

from gnomon.api.answers import Answer, handler_answer, instance_answer
from gnomon.api.context import context
from gnomon.api.routes import Routes
from gnomon.api.schemas.fleet import Handler, Instance

routes = Routes("fleet", __name__, description="Who runs jobs")


@routes.route("/instances", methods=["GET"])
@routes.response(200, Instance(many=True))
def list_instances() -> list[Answer]:
    """List the processes that live, and those that ended within the last hour."""
    return [instance_answer(instance) for instance in context().instances.list()]


@routes.route("/handlers", methods=["GET"])
@routes.response(200, Handler(many=True))
def list_handlers() -> list[Answer]:
    """List the handlers that workers have announced: what `type` a job can have beside HTTP and AMQP."""
    return [handler_answer(handler) for handler in context().catalog.handlers()]
