"""What a handler is called with: a JSON object that every store and every reader of JSON carries exactly."""

import json
import math
import re
from collections.abc import Iterator, Mapping

from gnomon.job.errors import FieldError

MAX_PAYLOAD_BYTES = 128 * 1024
MAX_PAYLOAD_DEPTH = 20
MAX_NUMBER = 2**53 - 1  # RFC 8259, 6. Postgres writes out all digits of a larger float, which then reads as an integer
MAX_KEY = 100

UNFIT = re.compile("[\x00\ud800-\udfff]")


def payload_errors(payload: Mapping[str, object]) -> list[FieldError]:
    """What keeps a value from being a payload; pointers begin at the payload. Nothing of the values is quoted."""
    errors = list(_object_errors("", payload, 1))
    if not errors and (size := len(payload_text(payload).encode())) > MAX_PAYLOAD_BYTES:
        errors.append(FieldError(pointer="", detail=f"is {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"))
    return errors


def payload_text(payload: Mapping[str, object]) -> str:
    """The same for equal payloads only: Python takes 1, 1.0 and True for equal, JSON does not."""
    text = json.dumps(payload, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if "-0.0" not in text:
        return text
    positive = json.loads(text, parse_float=lambda number: float(number) + 0.0)  # Postgres has no negative zero
    return json.dumps(positive, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def pointer_part(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901), cut where no name that anybody reads is that long."""
    return UNFIT.sub("\ufffd", key[:MAX_KEY]).replace("~", "~0").replace("/", "~1")


def _object_errors(
    pointer: str, value: Mapping[object, object] | Mapping[str, object], depth: int
) -> Iterator[FieldError]:
    for key, below in value.items():
        if not isinstance(key, str):
            yield FieldError(pointer=pointer, detail="has a name that is no string")
            continue
        here = f"{pointer}/{pointer_part(key)}"
        if UNFIT.search(key):
            yield FieldError(pointer=here, detail="is a name with a NUL character or half a surrogate pair")
        yield from _value_errors(here, below, depth)


def _value_errors(pointer: str, value: object, depth: int) -> Iterator[FieldError]:
    match value:
        case dict() | list() if depth >= MAX_PAYLOAD_DEPTH:
            yield FieldError(pointer=pointer, detail=f"is nested more than {MAX_PAYLOAD_DEPTH} deep")
        case dict():
            yield from _object_errors(pointer, value, depth + 1)
        case list():
            for index, below in enumerate(value):
                yield from _value_errors(f"{pointer}/{index}", below, depth + 1)
        case _ if (reason := _scalar_fault(value)) is not None:
            yield FieldError(pointer=pointer, detail=reason)


def _scalar_fault(value: object) -> str | None:
    match value:
        case str():
            return "holds a NUL character or half a surrogate pair" if UNFIT.search(value) else None
        case bool() | None:
            return None
        case int() | float():
            # a NaN is refused too
            fits = -MAX_NUMBER <= value <= MAX_NUMBER and math.isfinite(value)
            return None if fits else f"must lie between -{MAX_NUMBER} and {MAX_NUMBER}; write it as a string"
        case _:
            return f"is no JSON value but a {type(value).__name__}"
