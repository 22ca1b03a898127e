"""Every error as an RFC 9457 problem. `error` repeats the detail in one line, for clients that know no problems."""

import logging
import traceback
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, json, request
from werkzeug.exceptions import ClientDisconnected, HTTPException

from gnomon.api.asked import request_id
from gnomon.job.errors import (
    Conflict,
    CountDiffers,
    CreatedIsGone,
    FieldError,
    GnomonError,
    InvalidJob,
    KeyInFlight,
    KeyReused,
    NameTaken,
    NotFound,
    Overlapping,
    QuotaExceeded,
    RevisionMismatch,
    Unavailable,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REPLAYED = "Idempotency-Replayed"
MAX_LINE = 500
MAX_ERRORS = 20
AWAY = "a server that this one depends on does not answer now; the same request may succeed later"
# The names of RFC 9110: http.HTTPStatus has older ones, and changes them from one release of Python to the next.
TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
# What werkzeug says where nothing of ours did; its own texts speak of browsers and spelling.
DETAILS = {
    404: "nothing is served at this path",
    405: "the path exists, but not for this method",
    413: "the request body is too large",
}
# RFC 9110's names, where Pythons differ.
TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


class Refused(HTTPException):
    """A request the API refuses before it reaches the service. `detail` is for the client."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = status.value
        self.headers = headers or {}

    def get_headers(self, *_: Any) -> list[tuple[str, str]]:
        """The headers that belong to this answer."""
        return list(self.headers.items())


def register(app: Flask) -> None:
    """Makes problems of all errors of the app, expected or not."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(GnomonError, _known)
    app.register_error_handler(Exception, _unknown)


def problem(
    status: int,
    detail: str,
    *,
    errors: Iterable[FieldError] = (),
    headers: Iterable[tuple[str, str]] = (),
    kind: str | None = None,
) -> Response:
    """The answer. `kind` ends the type's URI; by default it is made of the title."""
    document = problem_document(HTTPStatus(status), detail, request_id=request_id(), errors=errors, kind=kind)
    response = Response(json.dumps(document), status=status, mimetype=MEDIA_TYPE)
    response.headers.extend(list(headers))
    return response


def problem_document(
    status: HTTPStatus,
    detail: str,
    *,
    request_id: str,
    errors: Iterable[FieldError] = (),
    kind: str | None = None,
) -> dict[str, Any]:
    """The body of the answer."""
    title = TITLES.get(status, status.phrase)
    return {
        "type": "urn:gnomon:problem:" + (kind or title.lower().replace(" ", "-")),
        "title": title,
        "status": status.value,
        "detail": detail,
        "errors": [_field(error) for error in errors],
        "request_id": request_id,
        "error": " ".join(detail.split())[:MAX_LINE],
    }


def _field(error: FieldError) -> dict[str, str]:
    hint = {"hint": error.hint} if error.hint else {}
    return {"pointer": error.pointer, "detail": error.detail, **hint}


def _known(error: GnomonError) -> Response:
    match error:
        case InvalidJob():
            errors = error.errors[:MAX_ERRORS]
            lines = [f"{broken.pointer}: {broken.detail}" if broken.pointer else broken.detail for broken in errors]
            return problem(422, "; ".join(lines), errors=errors, kind="invalid")
        case NotFound():
            return problem(404, str(error))
        case KeyReused():
            return problem(422, str(error), kind="key-reused")
        case CreatedIsGone():
            return problem(409, str(error), kind="created-is-gone", headers=[(REPLAYED, "true")])
        case KeyInFlight():
            return problem(409, str(error), kind="key-in-flight", headers=[("Retry-After", "1")])
        case CountDiffers():
            return problem(409, str(error), kind="count-differs")
        case Overlapping():
            return problem(409, str(error), kind="overlapping")
        case QuotaExceeded():
            return problem(409, str(error), kind="quota-exceeded")
        case RevisionMismatch():
            return problem(412, str(error), kind="revision-mismatch")
        case NameTaken():
            return problem(409, str(error), kind="name-taken")
        case Conflict():
            return problem(409, str(error))
        case Unavailable():
            # the driver's words name hosts and users: they are for the log
            log.warning("request %s answered 503: %s", request_id(), error)
            return problem(503, AWAY, headers=[("Retry-After", str(error.retry_after_seconds))])
        case _:
            return _unknown(error)


def _http(error: HTTPException) -> Any:
    if error.response is not None or error.code is None or error.code < 400:
        return error  # a redirect
    if isinstance(error, ClientDisconnected) and isinstance(error.__context__, TimeoutError):
        return problem(408, "the request did not arrive in time")
    ours = isinstance(error, Refused)
    detail = (error.description if ours else DETAILS.get(error.code)) or HTTPStatus(error.code).phrase
    kept = [(name, value) for name, value in error.get_headers(request.environ) if name != "Content-Type"]
    return problem(error.code, detail, headers=kept)


def _unknown(error: Exception) -> Response:
    """Logs where it happened but not the exception's text: a driver's holds the statement with its values."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error(
        "request %s failed with %s",
        request_id(),
        type(error).__qualname__,
        extra={"frames": frames.replace("\n", " | ")},
    )
    return problem(500, "the request failed for a reason that is ours; the log has it under the request_id")
