"""What documents are made of: fields that take a value of their type and nothing that could be made one."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from marshmallow import RAISE, Schema, fields, missing, validate

UNKNOWN = "is not known here"


class Doubtful(Exception):
    """Only marshmallow can tell what a value is worth."""


def says(wrong_type: str) -> dict[str, Any]:
    """How marshmallow's own checks are worded."""
    return {"invalid": wrong_type, "type": wrong_type, "null": "must not be null", "unknown": UNKNOWN}


class Text(fields.String):
    """A string and nothing that could be made one."""

    default_error_messages = says("must be a string")


class Whole(fields.Integer):
    """An integer; neither "5" nor 5.0 nor true."""

    default_error_messages = says("must be an integer")

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)


class Number(fields.Float):
    """A number as it was written: 5 stays an integer."""

    default_error_messages = says("must be a number")

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid")
        return value

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return value


class Flag(fields.Boolean):
    """true or false; to Python 1 and 0 are the same."""

    default_error_messages = says("must be true or false")

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Array(fields.List[Any]):
    """A JSON array; marshmallow's own field takes the keys of an object too."""

    default_error_messages = says("must be an array")

    def _deserialize(self, value: Any, *positional: Any, **named: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        return super()._deserialize(value, *positional, **named)


class Instant(Text):
    """RFC 3339; read by gnomon.job, which knows the bounds."""

    def __init__(self, **options: Any) -> None:
        metadata = {"format": "date-time", "example": "2030-01-01T09:00:00Z", **options.pop("metadata", {})}
        super().__init__(metadata=metadata, **options)


class Input(Schema):
    """What a client sends: unknown fields are refused. With `body_is_optional` no body is an empty one."""

    body_is_optional = False

    class Meta:
        unknown = RAISE

    error_messages = says("must be an object")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._takers = {name: _taker(field) for name, field in self.load_fields.items()}
        self._needed = {name for name, field in self.load_fields.items() if _is_needed(field)}

    def load(self, data: Any, **options: Any) -> Any:
        """As marshmallow does. It takes its time, and only for what breaks a rule is there anything to be said."""
        if not options:
            try:
                return self.plain(data)
            except Doubtful:
                pass
        return super().load(data, **options)

    def plain(self, data: Any) -> dict[str, Any]:
        """What marshmallow would make of an object all of whose values it leaves as they are; Doubtful of any other."""
        if type(data) is not dict or not self._needed <= data.keys() or not data.keys() <= self._takers.keys():
            raise Doubtful
        return {name: take(data[name]) for name, take in self._takers.items() if name in data}


class Answer(Schema):
    """What is answered: every field is always there, but those of `sometimes`.

    It documents what answers.py writes, and does not write it once more.
    """

    sometimes: Collection[str] = ()

    def dump(self, obj: Any, **_: Any) -> Any:
        """What is given."""
        return obj

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Called by marshmallow for each field."""
        field_obj.required = field_name not in self.sometimes


def optional(kind: type[fields.Field[Any]], about: str, /, **options: Any) -> fields.Field[Any]:
    metadata = {"description": about, **options.pop("metadata", {})}
    return kind(allow_none=True, metadata=metadata, **options)


def within(lowest: float, highest: float) -> dict[str, Any]:
    """Bounds, both included, that the document tells and gnomon.job keeps."""
    return {"minimum": lowest, "maximum": highest}


def one_of(names: Iterable[object], about: str) -> fields.Field[Any]:
    return optional(Text, about, metadata={"enum": [*map(str, names), None]})


def flag(about: str) -> fields.Field[Any]:
    return Flag(load_default=False, metadata={"description": about})


def choice(names: Iterable[object]) -> validate.OneOf:
    known = [str(name) for name in names]
    return validate.OneOf(known, error=f"must be one of {', '.join(known)}")


def part(schema: type[Schema], about: str, **metadata: Any) -> fields.Field[Any]:
    return fields.Nested(
        schema,
        allow_none=True,
        metadata={"description": about, **metadata},
        error_messages={"type": "must be an object"},
    )


# The JSON that a field takes, and leaves as it is.
PLAIN: Mapping[type[fields.Field[Any]], tuple[type, ...]] = {
    Text: (str,),
    Instant: (str,),
    Whole: (int,),
    Number: (int, float),
    Flag: (bool,),
    Array: (list,),
    fields.Dict: (dict,),
    fields.Nested: (dict,),
}


def _is_needed(field: fields.Field[Any]) -> bool:
    """Whether an object without it is another one when it is loaded, or is refused."""
    return field.required or field.load_default is not missing


def _taker(field: fields.Field[Any] | None) -> Callable[[Any], Any]:
    """Of a value that the field takes as it is what marshmallow makes of it; it raises Doubtful for any other."""
    if field is None or (type(field) is fields.Raw and field.allow_none):
        return lambda value: value
    kinds = PLAIN.get(type(field), ())
    if field.validators or field.data_key is not None or field.attribute is not None:
        kinds = ()
    below = _below(field) if kinds else None

    def take(value: Any) -> Any:
        if value is None and field.allow_none:
            return None
        if type(value) not in kinds:
            raise Doubtful
        return value if below is None else below(value)

    return take


def _below(field: fields.Field[Any]) -> Callable[[Any], Any] | None:
    """The same for what a value of this field holds; None where it holds nothing."""
    match field:
        case Array():
            item = _taker(field.inner)
            return lambda values: [item(value) for value in values]
        case fields.Dict():
            key, item = _taker(field.key_field), _taker(field.value_field)
            return lambda values: {key(name): item(value) for name, value in values.items()}
        case fields.Nested(schema=Input() as schema):
            return schema.plain
        case fields.Nested():
            raise TypeError(f"{field} holds no Input")
    return None
