"""The request that is being served, with what the API finds out about it."""

import re
import time
from typing import Any
from uuid import uuid4

from flask import Request, has_request_context, request

from gnomon.job.principal import Principal
from gnomon.job.rates import Taken

REQUEST_ID = "X-Request-Id"
HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Asked(Request):
    """A request, from when it has been read (`began`, by the monotonic clock).

    `address` is the client's, `principal` whoever sent it, `tried` the id of the key that nobody was let in with.
    """

    address: str = ""
    principal: Principal | None = None
    tried: str = ""
    taken: Taken | None = None
    _id: str | None = None

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.began = time.monotonic()

    @property
    def id(self) -> str:
        """In the answer and in the log. A caller's own is taken over when it is harmless."""
        if self._id is None:
            given = self.environ.get("HTTP_X_REQUEST_ID", "")
            self._id = given if HARMLESS.fullmatch(given) else uuid4().hex
        return self._id


def asked() -> Asked:
    """The present request itself: through Flask's proxy each attribute takes longer than what is done with it."""
    found: Asked = request._get_current_object()  # type: ignore[attr-defined]
    return found


def request_id() -> str:
    """That of the present request; the same each time it is asked for."""
    return asked().id if has_request_context() else uuid4().hex
