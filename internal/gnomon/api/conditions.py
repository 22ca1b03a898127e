"""Requests that hold for one revision of a job only, or only where there is none."""

import re
from dataclasses import dataclass
from http import HTTPStatus

from flask import request

from gnomon.api.problems import Refused
from gnomon.job.errors import RevisionMismatch

ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')  # RFC 9110, 8.8.3
ETAG_HEADER = {"ETag": {"description": "the revision", "schema": {"type": "string"}, "required": True}}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "description": "the ETag of the revision that may be changed; 412 when the job is at another one",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,9}")$'},
}
IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "*: 412 when there is a job already",
    "schema": {"type": "string", "enum": ["*"]},
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`exists`: whether there must be a job, or must be none. `revision`: at which it must be."""

    exists: bool | None = None
    revision: int | None = None


def condition() -> Condition:
    """That of a request which may create. Raises Refused and RevisionMismatch."""
    absent = request.headers.get("If-None-Match")
    if absent is None:
        return Condition(exists=True if "If-Match" in request.headers else None, revision=if_match())
    if absent.strip() != "*" or "If-Match" in request.headers:
        raise Refused(HTTPStatus.BAD_REQUEST, "If-None-Match must be *, and excludes If-Match")
    return Condition(exists=False)


def if_match() -> int | None:
    """The revision that the request is for; None for any. Raises Refused and RevisionMismatch."""
    header = request.headers.get("If-Match", "*").strip()
    if header == "*":
        return None
    tag = ENTITY_TAG.fullmatch(header)
    if tag is None:
        raise Refused(HTTPStatus.BAD_REQUEST, 'If-Match must hold one entity tag, as in If-Match: "3", or *')
    weak, revision = tag.groups()
    if weak or not re.fullmatch(r"[0-9]{1,9}", revision):
        raise RevisionMismatch("no revision of a job bears this entity tag: read the job again")
    return int(revision)
