"""The WSGI application: the routes, served under /v1 and without a prefix, and what holds for all of them."""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response

from gnomon.api import (
    actions,
    bulk,
    docs,
    executions,
    fleet,
    health,
    insight,
    jobs,
    metrics,
    openapi,
    problems,
    rate_limits,
    request_log,
    request_targets,
    schedules,
    trail,
    transfer,
)
from gnomon.api.access import Access, Guarded
from gnomon.api.asked import REQUEST_ID, asked
from gnomon.api.context import Context
from gnomon.api.rate_limits import RateLimiter
from gnomon.api.routes import Document, IdConverter
from gnomon.job.creations import Creations
from gnomon.job.imports import Imports
from gnomon.job.ports import Catalog, HistoryStore, InstanceStore, OverviewStore, TrailStore
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
UNLESS_GIVEN = [(name.lower(), name, value) for name, value in HEADERS.items()]
ABOUT = """Jobs that are called on time. Paths are served under `/v1`, the stable name, and also without it.

Errors are problems (RFC 9457); `error` repeats the detail in one line. A path that is not served answers 404, a method
that it does not have 405 with `Allow`. Unknown fields and unknown query parameters are refused with 422. Lists continue
at the `Link` header's `rel="next"`. Every answer has `X-Request-Id`.
"""


def create_app(
    *,
    service: JobService,
    creations: Creations,
    imports: Imports,
    repeats: Repeats,
    overview: OverviewStore,
    history: HistoryStore,
    instances: InstanceStore,
    catalog: Catalog,
    trail: TrailStore,
    access: Access,
    ready: Callable[[], None],
    version: str,
    max_body_bytes: int = 262_144,
    limiter: RateLimiter | None = None,
) -> Flask:
    """The application of one process. `ready` raises Unavailable while requests can't be served.

    `limiter`: how many requests each caller may make; any number without one.

    Make it after the fork: what it is handed holds connections.
    """
    app = Guarded(__name__, static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=max_body_bytes,
        PROPAGATE_EXCEPTIONS=False,  # an error is a problem for the client, also under test
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # or it answers a redirect to whatever host the client has named
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider
    Context(
        service=service,
        creations=creations,
        imports=imports,
        repeats=repeats,
        overview=overview,
        instances=instances,
        catalog=catalog,
        trail=trail,
        ready=ready,
        version=version,
    ).attach(app)
    app.after_request(_add_headers)
    problems.register(app)
    metrics.install(app, history, instances)
    request_log.install(app)
    request_targets.register(app)
    access.install(app)
    if limiter is not None:
        rate_limits.install(app, limiter)
    app.extensions["openapi"] = _register_routes(app, version)
    return app


def make_document(version: str) -> dict[str, Any]:
    """The OpenAPI document, without anything that could answer."""
    return _register_routes(Flask(__name__, static_folder=None), version)


def _register_routes(app: Flask, version: str) -> dict[str, Any]:
    app.config.update(API_TITLE="Gnomon", API_VERSION=version, OPENAPI_VERSION="3.1.0")
    app.url_map.converters["id"] = IdConverter
    document = Document(app, spec_kwargs={"info": {"description": ABOUT}})
    for module in (jobs, bulk, transfer, actions, schedules, executions, insight, trail, fleet, health):
        document.register_blueprint(module.routes, url_prefix="/v1")
        app.register_blueprint(module.routes, name=f"{module.routes.name}_unversioned")
    app.register_blueprint(docs.routes)
    return openapi.complete(document.spec.to_dict())


def _add_headers(response: Response) -> Response:
    given = {name.lower() for name, _ in response.headers}
    response.headers.add(REQUEST_ID, asked().id)
    for plain, name, value in UNLESS_GIVEN:
        if plain not in given:
            response.headers.add(name, value)
    return response
