"""Whether this process lives, and whether it can serve."""

from gnomon.api.access import Open
from gnomon.api.context import context
from gnomon.api.routes import Routes
from gnomon.api.schemas.health import Health, Version

routes = Routes("health", __name__, description="For probes and load balancers")


@routes.route("/health/live", role=Open.TO_ALL)
@routes.response(200, Health)
def get_liveness() -> dict[str, str]:
    """Say that the process answers.

    Never asks the database: restarting the process would not mend it.
    """
    return {"status": "ok"}


@routes.route("/health/ready", role=Open.TO_ALL)
@routes.response(200, Health)
def get_readiness() -> dict[str, str]:
    """Say that requests can be served; 503 otherwise."""
    return _ready()


@routes.route("/health", role=Open.TO_ALL)
@routes.response(200, Health)
def get_health() -> dict[str, str]:
    """The same as /health/ready."""
    return _ready()


@routes.route("/version")
@routes.response(200, Version)
def get_version() -> dict[str, str]:
    """Which version serves."""
    return {"name": "gnomon", "version": context().version}


def _ready() -> dict[str, str]:
    context().ready()
    return {"status": "ok"}
