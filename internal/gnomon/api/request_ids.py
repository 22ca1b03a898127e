"""One id per request, in the answer and in the log. A caller's own is taken over when it is harmless."""

import re
from uuid import uuid4

from flask import Flask, Response, g, has_request_context, request

HEADER = "X-Request-Id"
HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,128}")


def register(app: Flask) -> None:
    """Answers every request with its id."""

    @app.after_request
    def add_header(response: Response) -> Response:
        response.headers[HEADER] = request_id()
        return response


def request_id() -> str:
    """That of the present request; the same each time it is asked for."""
    if not has_request_context():
        return uuid4().hex
    kept: str | None = g.get("request_id")
    if kept is None:
        given = request.headers.get(HEADER, "")
        kept = g.request_id = given if HARMLESS.fullmatch(given) else uuid4().hex
    return kept
