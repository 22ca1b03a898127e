"""One line in the log for each request: who asked for what, and what came of it."""

import logging
import time

from flask import Flask, Response

from gnomon.api.access import Open, needed_by
from gnomon.api.asked import Asked, asked
from gnomon.job.principal import Role

log = logging.getLogger(__name__)

MAX_PATH = 200
LINE = "%s %s answered %s"


def install(app: Flask) -> None:
    """Before what refuses requests, so that those are logged too."""
    app.after_request(_note)


def _refused_key(request: Asked) -> dict[str, str]:
    """The id of the key that nobody was let in with; whose it claims to be, and nothing that opens anything."""
    return {"refused_key": request.tried} if request.tried and request.principal is None else {}


def _level(request: Asked, response: Response) -> int:
    """Probes and scrapes are noted at DEBUG."""
    usual = response.status_code < 400 and needed_by(request) in (Open.TO_ALL, Role.METRICS)
    return logging.DEBUG if usual else logging.INFO


def _note(response: Response) -> Response:
    """The path without its query, which may hold anything."""
    request = asked()
    level = _level(request, response)
    if not log.isEnabledFor(level):
        return response
    fields = {
        "request_id": request.id,
        "principal": "" if request.principal is None else request.principal.id,
        **_refused_key(request),
        "address": request.address,
        "duration_ms": round((time.monotonic() - request.began) * 1000, 1),
    }
    told = (request.method[:20], request.path[:MAX_PATH], response.status_code)
    # not log.log(): that looks for the line of code it is called from
    log.handle(log.makeRecord(log.name, level, __file__, 0, LINE, told, None, extra=fields))
    return response
