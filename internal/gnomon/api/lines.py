"""Bodies of any length, read a line at a time."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from gnomon.api.problems import Refused

NDJSON = "application/x-ndjson"
PIECE = 65_536
ENDLESS = 2**62  # the limit that holds is that of each line
SOCKET = "gunicorn.socket"


class BrokenOff(Exception):
    """The body did not end as it should have; what was read of it is complete lines. `late`: nothing came in time."""

    def __init__(self, *, late: bool) -> None:
        self.late = late
        super().__init__()


class TooLong(Exception):
    """A line is longer than what a whole body may be elsewhere."""


def lines_of(request: Request) -> Iterator[bytes]:
    """The lines of the body, without their ends. Each piece of 64 KiB has as long to arrive as a request.

    Raises Refused, BrokenOff and TooLong.
    """
    _check_type(request)
    limit = request.max_content_length or ENDLESS
    request.max_content_length = ENDLESS
    rest, arrived = b"", 0
    while piece := _next_piece(request):
        arrived += len(piece)
        *complete, rest = (rest + piece).split(b"\n")
        if max(map(len, [*complete, rest])) > limit:
            raise TooLong
        yield from complete
    if arrived < (request.content_length or 0):  # gunicorn takes one that broke off for a short one
        raise BrokenOff(late=False)
    yield rest


def _next_piece(request: Request) -> bytes:
    client: Any = request.environ.get(SOCKET)
    if hasattr(client, "expect_request"):
        client.expect_request()  # the time that earlier lines took is not the client's
    try:
        return bytes(request.stream.read(PIECE))
    except ClientDisconnected as error:
        raise BrokenOff(late=isinstance(error.__context__, TimeoutError)) from error
    except ParseException as error:
        raise BrokenOff(late=False) from error


def _check_type(request: Request) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype == NDJSON and charset in ("utf-8", "utf8") and not request.content_encoding:
        return
    raise Refused(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the body must be lines of JSON in UTF-8, uncompressed, sent as Content-Type: {NDJSON}",
        {"Accept-Post": NDJSON},
    )
