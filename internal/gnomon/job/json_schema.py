"""Whether a payload fits the JSON Schema (Draft 2020-12) that its handler announced. Messages quote none of it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any
from uuid import UUID

from gnomon.job.errors import FieldError
from gnomon.job.payload import pointer_part

MAX_ERRORS = 20
MAX_MATCHED = 10_000  # characters: a harmless pattern such as \s+$ takes the square of it
MAX_QUOTED = 120  # characters of the schema, in a message

NAMES = {
    "array": "an array",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}
SAYINGS = {
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} fields",
    "maxProperties": "must have at most {} fields",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "pattern": f"must match the pattern {{}} and have at most {MAX_MATCHED} characters",
    "uniqueItems": "must not hold the same item twice",
    "format": "must have the format {}",
    "const": "must be {}",
}


class UnusableSchema(Exception):
    """The schema itself is wrong; the message says why."""


def schema_errors(schema: Mapping[str, Any], value: object) -> list[FieldError]:
    """Up to 20 rules that the value breaks; pointers begin at the value. Raises UnusableSchema.

    References are followed inside the schema only: nothing is fetched.
    """
    # imported when first needed: most processes never validate, and it takes a while
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        bounded = extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique_items})
        validator = bounded(schema, registry=Registry(), format_checker=_format_checker())
        return list(islice(_distinct(_explained(validator.iter_errors(value))), MAX_ERRORS))
    except SchemaError as error:
        raise UnusableSchema(f"{error.json_path}: {error.message}"[:300]) from error
    except Unresolvable as error:
        raise UnusableSchema(f"it refers to {str(error.ref)[:80]!r}, which it does not hold") from error
    except (RecursionError, re.error, ValueError, TypeError) as error:  # a circle of references, a pattern that is none
        raise UnusableSchema(type(error).__name__) from error


def _pattern(_validator: Any, pattern: str, value: object, _schema: object) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if isinstance(value, str) and (len(value) > MAX_MATCHED or not re.search(pattern, value)):
        yield ValidationError("")


def _unique_items(_validator: Any, wanted: object, value: object, _schema: object) -> Iterator[Any]:
    """jsonschema compares each with each where items can't be sorted: minutes for what fits into a payload."""
    from jsonschema.exceptions import ValidationError

    if (
        wanted
        and isinstance(value, list)
        and len({json.dumps(_same(item), sort_keys=True) for item in value}) < len(value)
    ):
        yield ValidationError("")


def _same(value: Any) -> Any:
    """To JSON Schema 1.0 and 1 are equal."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_same(item) for item in value]
        case dict():
            return {key: _same(item) for key, item in value.items()}
        case _:
            return value


def _explained(errors: Iterable[Any]) -> Iterator[FieldError]:
    for error in errors:
        pointer = "".join(f"/{pointer_part(str(part))}" for part in error.absolute_path)
        match error.validator:
            case "required":
                missing = [name for name in error.validator_value if name not in error.instance]
                yield from (
                    FieldError(pointer=f"{pointer}/{pointer_part(name)}", detail="is missing") for name in missing
                )
            case "additionalProperties":
                yield from _unknown_fields(error, pointer)
            case _:
                yield FieldError(pointer=pointer, detail=_saying(error))


def _unknown_fields(error: Any, pointer: str) -> Iterator[FieldError]:
    known = list(error.schema.get("properties", {}))
    patterns = list(error.schema.get("patternProperties", {}))
    hint = f"known: {', '.join(known[:20])}"[:300] if known else None
    for name in error.instance:
        if name not in known and not any(re.search(pattern, name) for pattern in patterns):
            yield FieldError(pointer=f"{pointer}/{pointer_part(name)}", detail="is not known here", hint=hint)


def _saying(error: Any) -> str:
    rule, wanted = error.validator, error.validator_value
    match rule:
        case "type":
            return "must be " + _listed(wanted if isinstance(wanted, list) else [wanted], NAMES.get)
        case "enum":
            return "must be one of " + _listed(wanted, None)
        case "anyOf" | "oneOf" if error.context:
            reasons = dict.fromkeys(_saying(below) for below in error.context if not below.path)
            return (
                "fits none of what is allowed: " + "; ".join(list(reasons)[:3]) if reasons else "fits nothing allowed"
            )
        case _ if rule in SAYINGS:
            return SAYINGS[rule].format(_quoted(wanted))
        case _:
            return f"breaks the rule {rule} of the handler's schema"


def _listed(names: Iterable[Any], read: Callable[[Any], str | None] | None) -> str:
    return " or ".join(str(read(name) or name) if read else _quoted(name) for name in names)[:MAX_QUOTED]


def _quoted(value: object) -> str:
    return repr(value)[:MAX_QUOTED] if isinstance(value, str) else str(value)[:MAX_QUOTED]


def _distinct(errors: Iterable[FieldError]) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for error in errors:
        if (error.pointer, error.detail) not in seen:
            seen.add((error.pointer, error.detail))
            yield error


def _format_checker() -> Any:
    """Those that cost little; any other `format` is a note to the reader, as the standard has it."""
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, read in FORMATS.items():
        checker.checks(name, raises=ValueError)(_checked(read))
    return checker


def _checked(read: Callable[[str], object]) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        return not isinstance(value, str) or read(value) is not None

    return holds


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None or "T" not in text.upper():
        raise ValueError(text)
    return instant


def _email(text: str) -> str | None:
    name, at, host = text.rpartition("@")
    return text if name and at and host and not any(char.isspace() for char in text) else None


FORMATS: Mapping[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": _instant,
    "email": _email,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": UUID,
}
