"""The WSGI application: the routes, served under /v1 and without a prefix, and what holds for all of them."""

from collections.abc import Callable

from flask import Flask, Response

from gnomon.api import actions, docs, executions, fleet, health, jobs, metrics, problems, request_ids
from gnomon.api.context import Context
from gnomon.api.routes import Document
from gnomon.job.ports import Catalog, HistoryStore, InstanceStore
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
ABOUT = """Jobs that are called on time. Paths are served under `/v1`, the stable name, and also without it.

Errors are problems (RFC 9457). Lists continue at the `Link` header's `rel="next"`.
"""


def create_app(
    *,
    service: JobService,
    repeats: Repeats,
    history: HistoryStore,
    instances: InstanceStore,
    catalog: Catalog,
    ready: Callable[[], None],
    version: str,
    max_body_bytes: int = 262_144,
) -> Flask:
    """The application of one process. `ready` raises Unavailable while requests can't be served.

    Make it after the fork: what it is handed holds connections.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=max_body_bytes,
        PROPAGATE_EXCEPTIONS=False,  # an error is a problem for the client, also under test
        API_TITLE="Gnomon",
        API_VERSION=version,
        OPENAPI_VERSION="3.1.0",
    )
    app.url_map.strict_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider
    Context(
        service=service, repeats=repeats, instances=instances, catalog=catalog, ready=ready, version=version
    ).attach(app)
    app.after_request(_add_headers)
    request_ids.register(app)
    problems.register(app)
    metrics.install(app, history, instances)
    _register_routes(app)
    return app


def _register_routes(app: Flask) -> None:
    document = Document(app, spec_kwargs={"info": {"description": ABOUT}})
    for module in (jobs, actions, executions, fleet, health):
        document.register_blueprint(module.routes, url_prefix="/v1")
        app.register_blueprint(module.routes, name=f"{module.routes.name}_unversioned")
    app.register_blueprint(docs.routes)
    app.extensions["openapi"] = document.spec.to_dict()


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
