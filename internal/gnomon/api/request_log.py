"""One line in the log for each request: who asked for what, and what came of it."""

import logging
import time

from flask import Flask, Response, g, request

from gnomon.api.access import Open, acting, needed_now
from gnomon.api.request_ids import request_id
from gnomon.job.principal import Role

log = logging.getLogger(__name__)

MAX_PATH = 200


def install(app: Flask) -> None:
    """Before what refuses requests, so that those are logged too."""
    app.before_request(_begin)
    app.after_request(_note)


def _begin() -> None:
    g.began = time.monotonic()


def _refused_key() -> dict[str, str]:
    """The id of the key that nobody was let in with; whose it claims to be, and nothing that opens anything."""
    return {"refused_key": g.tried} if g.get("tried") and not acting() else {}


def _note(response: Response) -> Response:
    """The path without its query, which may hold anything. Probes and scrapes are noted at DEBUG."""
    taken = time.monotonic() - g.get("began", time.monotonic())
    log.log(
        logging.DEBUG if response.status_code < 400 and needed_now() in (Open.TO_ALL, Role.METRICS) else logging.INFO,
        "%s %s answered %s",
        request.method[:20],
        request.path[:MAX_PATH],
        response.status_code,
        extra={
            "request_id": request_id(),
            "principal": acting(),
            **_refused_key(),
            "address": g.get("address", ""),
            "duration_ms": round(taken * 1000, 1),
        },
    )
    return response
