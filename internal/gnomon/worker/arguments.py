"""From a payload to a handler's arguments, by its type hints, and the JSON Schema that follows from them."""

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Required

import jsonschema
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import TypedDict, is_typeddict

from gnomon.job.errors import ConfigurationError
from gnomon.worker.handlers import Context

if TYPE_CHECKING:
    from gnomon.worker.handlers import Handler

SHOWN_ERRORS = 5


class InvalidPayload(Exception):
    """The payload is not what the handler wants. The text names each field and the reason, and quotes no value."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What one handler wants. `whole`: the parameter that takes the whole payload, if one does.

    `context`: the one that takes the Context. Otherwise each parameter is a field of the payload.
    """

    schema: Mapping[str, Any]
    adapter: TypeAdapter[Any] = field(repr=False)
    validator: jsonschema.Draft202012Validator | None = field(default=None, repr=False)
    whole: str | None = None
    context: str | None = None
    positional: tuple[str, ...] = ()

    def of(self, payload: Mapping[str, Any], context: Context) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the named arguments. Raises InvalidPayload."""
        if self.validator is not None:
            _refuse(
                f"/{'/'.join(map(str, e.absolute_path))}: {_reason(e)}" for e in self.validator.iter_errors(payload)
            )
        try:
            # a copy: the definition is kept, and what the function does to it must not reach the next execution
            read = self.adapter.validate_python(copy.deepcopy(dict(payload)) if payload else {})
        except ValidationError as error:
            _refuse(f"/{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise
        named: dict[str, Any] = {self.whole: read} if self.whole else dict(read)
        if self.context:
            named[self.context] = context
        return [named.pop(name) for name in self.positional if name in named], named


def read_arguments(handler: "Handler") -> Arguments:
    """Reads a handler's parameters. Raises ConfigurationError naming the handler and what can't be."""
    try:
        return _read(handler.function, handler.given_schema)
    except (PydanticUserError, PydanticSchemaGenerationError, jsonschema.SchemaError, NameError, TypeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"handler {handler.name!r} ({handler.place}): {text}") from error


def _read(function: Callable[..., Any], schema: Mapping[str, Any] | None) -> Arguments:
    parameters = _parameters(function)
    context = next((one.name for one in parameters if _is_context(one)), None)
    fields = [one for one in parameters if one.name != context]
    whole = fields[0].name if len(fields) == 1 and _takes_all(fields[0]) else None
    adapter = TypeAdapter[Any](_hint(fields[0], dict[str, Any]) if whole else _fields_type(fields))
    if schema is not None:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    return Arguments(
        schema=schema if schema is not None else adapter.json_schema(),
        adapter=adapter,
        validator=None if schema is None else jsonschema.Draft202012Validator(dict(schema)),
        whole=whole,
        context=context,
        positional=tuple(one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY),
    )


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """With their hints as types, not as texts."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        raise TypeError("*args can't be filled from a payload: name the fields, or take **fields")
    return parameters


def _is_context(parameter: inspect.Parameter) -> bool:
    if parameter.annotation is inspect.Parameter.empty:
        return parameter.name == "context"
    return parameter.annotation is Context or Context in typing.get_args(parameter.annotation)


def _takes_all(parameter: inspect.Parameter) -> bool:
    """A model of the whole payload, or a parameter that is named `payload`."""
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return False
    hint = parameter.annotation
    kind = typing.get_origin(hint) or hint
    if hint is inspect.Parameter.empty:
        return parameter.name == "payload"
    if is_typeddict(hint) or typing.is_typeddict(hint) or dataclasses.is_dataclass(hint):
        return True
    return isinstance(kind, type) and issubclass(kind, BaseModel | Mapping)


def _fields_type(parameters: list[inspect.Parameter]) -> Any:
    """A TypedDict, which unlike a model may have fields of any name."""
    named = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = {
        one.name: Required[_hint(one, Any)] if one.default is inspect.Parameter.empty else NotRequired[_hint(one, Any)]
        for one in named
    }
    fields = TypedDict("Payload", hints)  # type: ignore[misc] # the fields are known only now
    fields.__pydantic_config__ = ConfigDict(extra="forbid" if len(named) == len(parameters) else "allow")  # type: ignore[attr-defined]
    return fields


def _hint(parameter: inspect.Parameter, default: Any) -> Any:
    return default if parameter.annotation is inspect.Parameter.empty else parameter.annotation


def _reason(error: jsonschema.ValidationError) -> str:
    """Without the value, which may be long or secret."""
    if error.validator in ("required", "dependentRequired", "additionalProperties"):
        return str(error.message)[:200]
    return f"does not fulfil {error.validator}: {str(error.validator_value)[:100]}"


def _refuse(errors: Iterable[str]) -> None:
    found = list(errors)
    if found:
        more = f" (and {len(found) - SHOWN_ERRORS} more)" if len(found) > SHOWN_ERRORS else ""
        raise InvalidPayload("; ".join(found[:SHOWN_ERRORS]) + more)
