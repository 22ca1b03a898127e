"""What a request is aimed at, refused before a route is looked for where two readers could understand it differently.

A proxy before the API may judge paths and hosts: what it reads must be what is served here.
"""

import re
from http import HTTPStatus

from flask import Flask

from gnomon.api.asked import asked
from gnomon.api.problems import DETAILS, Refused

HOST = re.compile(r"([0-9A-Za-z._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")  # also of two Host headers, joined by a comma
ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
# A slash in percent form is one by the time that routes are looked for, and none of our names holds one.
AMBIGUOUS = re.compile(r"//|\\|%2f|%5c", re.IGNORECASE)


def register(app: Flask) -> None:
    """Judges every request of the app."""

    @app.before_request
    def judge() -> None:
        request = asked()
        environ = request.environ
        host = environ.get("HTTP_HOST")
        if host is None and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            raise Refused(HTTPStatus.BAD_REQUEST, "the request has no Host header")
        if host is not None and not HOST.fullmatch(host):
            raise Refused(HTTPStatus.BAD_REQUEST, "the Host header is not the name and port of one host")
        path = path_of(environ.get("RAW_URI", request.path))
        if path is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "the request's target must be a path, or a URL of http or https")
        if AMBIGUOUS.search(path):
            raise Refused(HTTPStatus.NOT_FOUND, DETAILS[404])


def path_of(target: str) -> str | None:
    """The path as it was sent, in the origin or the absolute form (RFC 9112, 3.2); None for any other target."""
    absolute = ABSOLUTE.match(target)
    path = (target[absolute.end() :] or "/") if absolute else target
    return path.partition("?")[0] if path.startswith("/") else None
