"""Requests that may be sent twice and have one effect."""

import re
from http import HTTPStatus

from flask import request

from gnomon.api.answers import Answer, execution_answer
from gnomon.api.paging import Headers
from gnomon.api.problems import REPLAYED, Refused
from gnomon.job.ports import Requested

KEY = re.compile(r"[\x21-\x7e]{1,255}")
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "a text of the client's own; the same again within a day has no second effect",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
REPLAYED_HEADER = {
    REPLAYED: {"description": "true: an earlier request did it", "schema": {"type": "string", "enum": ["true"]}}
}
LOCATION_HEADER = {
    "Location": {
        "description": "where to read what was made",
        "schema": {"type": "string", "format": "uri-reference"},
        "required": True,
    }
}


def idempotency_key() -> str | None:
    """The request's Idempotency-Key. Raises Refused."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused(HTTPStatus.BAD_REQUEST, "an Idempotency-Key has 1 to 255 visible ASCII characters and no space")
    return key


def requested_answer(asked: Requested) -> tuple[Answer, Headers]:
    """The execution that was asked for, where to read it, and whether an earlier request had asked for it."""
    prefix = re.split("/jobs/|/executions/", request.path)[0]
    replayed = {REPLAYED: "true"} if asked.replayed else {}
    return execution_answer(asked.execution), {"Location": f"{prefix}/executions/{asked.execution.id}", **replayed}
