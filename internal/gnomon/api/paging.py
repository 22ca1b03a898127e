"""Lists that are given a page at a time."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import request

from gnomon.job.document import parse_instant
from gnomon.job.errors import InvalidJob
from gnomon.job.ports import Page

Headers = Mapping[str, str]

TOTAL, CAPPED, COUNTED = "X-Total-Count", "X-Total-Count-Capped", 100_000
LINK_HEADER = {"Link": {"description": 'rel="next": the next page', "schema": {"type": "string"}}}
LIST_HEADERS = LINK_HEADER | {
    TOTAL: {"description": "with count=true: how many match, wherever the page begins", "schema": {"type": "integer"}},
    CAPPED: {
        "description": f"true: {COUNTED:,} were counted, and there may be more",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def part_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """Which part of the list a PageQuery asks for. Raises InvalidJob."""
    if "cursor" in query and query["offset"]:
        raise InvalidJob.at("/offset", "a cursor says already where the page begins", "give one of the two")
    return {"limit": query["limit"], "offset": query["offset"], "cursor": query.get("cursor")}


def total(query: Mapping[str, Any], count: Callable[[], int]) -> Headers:
    """How many match, where the query asks for it."""
    if not query["count"]:
        return {}
    counted = count()
    return {TOTAL: str(counted), **({CAPPED: "true"} if counted >= COUNTED else {})}


def instant_of(given: Mapping[str, Any], name: str) -> datetime | None:
    """What is given under this name, in UTC; None where nothing is. Raises InvalidJob."""
    return parse_instant(given[name], f"/{name}") if given.get(name) is not None else None


def next_page(page: Page[Any]) -> Headers:
    """Where the present request's list goes on."""
    if page.cursor is None:
        return {}
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in ("cursor", "offset")]
    return {"Link": f'<{request.path}?{urlencode([*kept, ("cursor", page.cursor)])}>; rel="next"'}
