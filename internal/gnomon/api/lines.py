"""Bodies of any length, read a line at a time."""

import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, Any

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from gnomon.api.problems import Refused

NDJSON = "application/x-ndjson"
READ, PIECE = 1_024, 65_536
ENDLESS = 2**62  # the limit that holds is that of each line
SOCKET = "gunicorn.socket"


class BrokenOff(Exception):
    """The body did not end as it should have; what was read of it is complete lines. `late`: nothing came in time."""

    def __init__(self, *, late: bool) -> None:
        self.late = late
        super().__init__()


class TooLong(Exception):
    """A line is longer than what a whole body may be elsewhere."""


class Patience:
    """How long a client may keep us waiting for a piece of the body: as long as for a whole request.

    The time that is spent on what has arrived is not the client's. Where no gunicorn serves, there is no limit.
    """

    def __init__(self, client: Any) -> None:
        self._client = client if hasattr(client, "read_by") else None
        self.begin()

    def begin(self) -> None:
        """With a new piece."""
        self._left = 0.0 if self._client is None else self._client.limits.read
        self._piece = 0

    def read(self, stream: IO[bytes]) -> bytes:
        """What has arrived, at most 1 KiB: what a server has gathered when the body breaks off is lost."""
        began = time.monotonic()
        if self._client is not None:
            self._client.read_by = began + self._left
        data = stream.read(READ)
        self._left -= time.monotonic() - began
        self._piece += len(data)
        if self._piece >= PIECE:
            self.begin()
        return data


def lines_of(request: Request) -> Iterator[bytes]:
    """The lines of the body, without their ends. Raises Refused, BrokenOff and TooLong."""
    _check_type(request)
    limit = request.max_content_length or ENDLESS
    request.max_content_length = ENDLESS
    patience, arrived = Patience(request.environ.get(SOCKET)), 0
    rest = bytearray()
    while data := _next(request, patience):
        arrived += len(data)
        *complete, last = data.split(b"\n")
        for end in complete:
            yield bytes(rest + end)
            rest.clear()
        rest += last
        if len(rest) > limit:
            raise TooLong
    if arrived < (request.content_length or 0):  # gunicorn takes one that broke off for a short one
        raise BrokenOff(late=False)
    yield bytes(rest)


def _next(request: Request, patience: Patience) -> bytes:
    try:
        return patience.read(request.stream)
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
