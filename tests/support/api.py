"""The API over a real database, and what tests ask of it."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gnomon.api.access import Access
from gnomon.api.app import create_app
from gnomon.api.keyring import Keyring
from gnomon.api.rate_limits import RateLimiter
from gnomon.storage.postgres.migrate import require_latest
from support.world import World

PRINTED = {
    "type": "HTTP",
    "cron_schedule": "*/10 * * * *",
    "tags": ["billing"],
    "http_job": {
        "url": "https://example.com/hook",
        "method": "POST",
        "headers": {"Content-Type": "application/json"},
        "body": "{}",
        "valid_response_codes": [200, 201],
        "auth": {"type": "basic", "username": "foo", "password": "bar"},
    },
}
HOURLY = {"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "https://example.com/"}}
# werkzeug compiles each route, and two threads of CPython 3.11 that do so at once may both fail (gh-106905).
ONE_AT_A_TIME = threading.Lock()


def make_client(
    world: World,
    *,
    ready: Callable[[], None] | None = None,
    version: str = "1.2.3",
    limiter: RateLimiter | None = None,
    **access: Any,
) -> FlaskClient:
    """A client of an app over this world, which it may ask without a key."""
    with ONE_AT_A_TIME:
        app = create_app(
            service=world.service,
            creations=world.creations,
            imports=world.imports,
            repeats=world.repeats,
            overview=world.overview,
            history=world.history,
            instances=world.instances,
            catalog=world.catalog,
            trail=world.trail,
            access=Access(**{"keyring": Keyring(world.keys), "open_without_keys": True, **access}),
            ready=ready or (lambda: require_latest(world.engine)),
            version=version,
            limiter=limiter,
        )
    return app.test_client()


def created(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    """The answer to the creation of an hourly job."""
    response = client.post("/v1/jobs", json={**HOURLY, **changes})
    assert response.status_code == 201, response.get_data(as_text=True)
    answer: dict[str, Any] = response.get_json()
    return answer


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    """The problem that the response must be."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/problem+json"
    document: dict[str, Any] = response.get_json()
    assert document.keys() == {"type", "title", "status", "detail", "errors", "request_id", "error"}
    assert document["status"] == status
    assert document["request_id"] == response.headers["X-Request-Id"]
    assert "\n" not in document["error"]
    return document


def only_error(response: TestResponse) -> Mapping[str, str]:
    """The one broken rule of a 422."""
    (error,) = problem(response, 422)["errors"]
    found: Mapping[str, str] = error
    return found
