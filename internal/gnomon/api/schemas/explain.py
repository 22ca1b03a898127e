"""What marshmallow found, in the words of the API."""

import difflib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from marshmallow import Schema, fields

from gnomon.api.schemas.fields import UNKNOWN
from gnomon.api.schemas.jobs import READ_ONLY, JobPatch
from gnomon.api.strict_json import escape
from gnomon.job.errors import FieldError

MAX_ERRORS = 20


def explain(messages: Any, schema: Schema) -> list[FieldError]:
    """marshmallow's messages as errors with pointers, and the nearest known name for an unknown one.

    Only the first few: looking for a near name takes time, and a body can hold thousands of unknown ones.
    """
    return list(islice(_explain(messages, schema, ""), MAX_ERRORS))


def _explain(messages: Any, field: Any, pointer: str) -> Iterator[FieldError]:
    if not isinstance(messages, Mapping):
        for message in messages if isinstance(messages, list) else [messages]:
            yield FieldError(pointer=pointer, detail=str(message))
        return
    for key, below in sorted(messages.items(), key=_place):
        if below == [UNKNOWN]:
            yield FieldError(pointer=f"{pointer}/{escape(str(key))}", detail=UNKNOWN, hint=_suggestion(str(key), field))
        elif key == "_schema":
            yield from _explain(below, field, pointer)
        else:
            yield from _explain(_unwrapped(below, field), _below(field, key), f"{pointer}/{escape(str(key))}")


def _place(entry: tuple[object, object]) -> str:
    """Known fields as they are declared, then the unknown ones by name: marshmallow tells those in a random order."""
    key, below = entry
    return str(key) if below == [UNKNOWN] else ""


def _unwrapped(messages: Any, field: Any) -> Any:
    """marshmallow tells apart whether the key or the value of a dictionary's entry is wrong; a pointer does not."""
    if isinstance(field, fields.Dict) and isinstance(messages, Mapping):
        return [text for texts in messages.values() for text in texts]
    return messages


def _below(field: Any, key: object) -> Any:
    schema = field.schema if isinstance(field, fields.Nested) else field
    return schema.fields.get(str(key)) if isinstance(schema, Schema) else getattr(field, "inner", None)


def _suggestion(name: str, field: Any) -> str | None:
    schema = field.schema if isinstance(field, fields.Nested) else field
    if not isinstance(schema, Schema):
        return None
    if name in READ_ONLY and isinstance(schema, JobPatch):
        return "it is answered, never given" + (": POST /jobs/{id}/pause pauses" if name == "status" else "")
    near = difflib.get_close_matches(name[:50].lower(), schema.fields, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(schema.fields)}"
