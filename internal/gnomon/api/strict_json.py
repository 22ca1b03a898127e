"""Reading JSON as RFC 8259 means it, and nothing beyond what the database and other readers can carry.

json.loads alone takes NaN, keeps the last of duplicate keys, and fails in its own ways on deep nesting, endless
integers and half surrogate pairs.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from gnomon.job.errors import FieldError

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1  # what every JSON reader carries exactly (RFC 8259, 6)
TOO_LARGE = 2**64
MAX_KEY = 100

# What all that can't be stored has in its text: an escape, an integer of 16 digits, or an exponent.
SUSPECT = re.compile(rb"\\u|[0-9]{16}|[0-9][eE]")
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")


class MalformedJson(Exception):
    """The text is not JSON; the message says where, without quoting it."""


def parse(body: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises MalformedJson.

    What it holds may still be unfit to be stored: see `unfit`.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"byte {error.start + 1} is not UTF-8") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    if text.startswith("\ufeff"):
        raise MalformedJson("Unexpected UTF-8 BOM (decode using utf-8-sig) at line 1, column 1")
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from error


def unfit(body: bytes, value: Any) -> Iterator[FieldError]:
    """Where the value of a text holds what can't be stored: NUL, half a surrogate pair, numbers out of range."""
    return _unfit(value, "") if SUSPECT.search(body) else iter(())


def escape(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901), cut where no name of ours is that long."""
    return SURROGATE.sub("\ufffd", key[:MAX_KEY]).replace("~", "~0").replace("/", "~1")


def _unfit(value: Any, pointer: str) -> Iterator[FieldError]:
    match value:
        case dict():
            for key, below in value.items():
                here = f"{pointer}/{escape(key)}"
                yield from _unfit_text(key, here)
                yield from _unfit(below, here)
        case list():
            for index, below in enumerate(value):
                yield from _unfit(below, f"{pointer}/{index}")
        case str():
            yield from _unfit_text(value, pointer)
        case bool() | None:
            return
        case int() if abs(value) > MAX_INTEGER:
            yield FieldError(pointer=pointer, detail=f"must lie between -{MAX_INTEGER} and {MAX_INTEGER}")
        case float() if not math.isfinite(value):
            yield FieldError(pointer=pointer, detail="is larger than any number that can be stored")


def _check_depth(text: str) -> None:
    depth = 0
    for token in TOKENS.finditer(text):
        match token.group()[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedJson(f"nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise MalformedJson(f"the key {escape(twice)!r} appears twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON")


def _parse_int(text: str) -> int:
    # int() takes quadratic time, and refuses more than 4,300 digits with an error of its own
    return int(text) if len(text) <= 20 else TOO_LARGE


def _unfit_text(text: str, pointer: str) -> Iterator[FieldError]:
    if "\x00" in text:
        yield FieldError(pointer=pointer, detail="holds a NUL character, which can't be stored")
    elif SURROGATE.search(text):
        yield FieldError(pointer=pointer, detail="holds half a surrogate pair, which UTF-8 can't carry")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_parse_int)
