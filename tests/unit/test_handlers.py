"""Handlers: declared, registered, and called with what their type hints make of a payload."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest
from support.calls import make_call
from typing_extensions import TypedDict

import gnomon
from gnomon import Context, handler, retry_strategy
from gnomon.job.errors import ConfigurationError
from gnomon.worker.arguments import InvalidPayload
from gnomon.worker.executors.python import context_of
from gnomon.worker.handlers import Cancelled, Handler, HandlerRegistry, declared_handlers, load_handlers


class Mail(pydantic.BaseModel):
    recipient: str
    copies: int = 1


@dataclasses.dataclass
class Invoice:
    number: int


class Options(TypedDict):
    size: int


def context(**fields: Any) -> Context:
    return dataclasses.replace(context_of(make_call()), **fields)


def called(function: Callable[..., Any], payload: Mapping[str, Any], **options: Any) -> Any:
    read = Handler(name="h", function=function, **options)
    positional, named = read.arguments.of(payload, context())
    return function(*positional, **named)


def schema_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    return Handler(name="h", function=function).schema


def test_what_a_handler_does_to_its_payload_is_not_seen_by_the_next_call() -> None:
    def take(payload: dict[str, Any]) -> None:
        payload["items"].append(payload.pop("day"))

    def part(items: list[Any], more: Any = None) -> None:
        items.append(more)
        more["b"].clear()

    whole, parts = {"items": [1], "day": 2}, {"items": [1], "more": {"b": [1]}}
    for _ in range(2):
        called(take, whole)
        called(part, parts)
    assert (whole, parts) == ({"items": [1], "day": 2}, {"items": [1], "more": {"b": [1]}})


def test_each_parameter_is_a_field_of_the_payload() -> None:
    def send(recipient: str, at: datetime, copies: int = 1) -> Any:
        return recipient, at, copies

    assert called(send, {"recipient": "a@b.c", "at": "2026-01-01T00:00:00Z"}) == (
        "a@b.c",
        datetime(2026, 1, 1, tzinfo=UTC),
        1,
    )
    assert schema_of(send)["required"] == ["recipient", "at"]
    assert schema_of(send)["properties"]["copies"]["type"] == "integer"
    assert schema_of(send)["additionalProperties"] is False


def test_missing_unknown_and_wrong_fields_are_named_without_their_values() -> None:
    def send(recipient: str, copies: int) -> None:
        """Never called."""

    with pytest.raises(InvalidPayload) as caught:
        called(send, {"copies": "s3cret", "colour": "s3cret"})
    text = str(caught.value)
    assert {part.split(":")[0] for part in text.split("; ")} == {"/recipient", "/copies", "/colour"}
    assert "s3cret" not in text


def test_fields_beyond_the_parameters_go_to_keywords() -> None:
    def send(recipient: str, **rest: Any) -> Any:
        return recipient, rest

    assert called(send, {"recipient": "a", "b": 2}) == ("a", {"b": 2})


def test_fields_may_have_the_names_of_a_models_own_attributes() -> None:
    def send(schema: str, json: int, model_config: str) -> Any:
        return schema, json, model_config

    assert called(send, {"schema": "a", "json": 1, "model_config": "b"}) == ("a", 1, "b")


def test_positional_only_parameters_are_fields_too() -> None:
    def send(a: int, b: int, /, c: int = 3) -> Any:
        return a, b, c

    assert called(send, {"a": 1, "b": 2}) == (1, 2, 3)


def test_model_dataclass_typed_dict_and_mapping_take_the_whole_payload() -> None:
    def by_model(mail: Mail) -> Any:
        return mail

    def by_dataclass(invoice: Invoice, context: Context) -> Any:
        return invoice

    def by_typed_dict(options: Options) -> Any:
        return options

    def by_mapping(fields: Mapping[str, int]) -> Any:
        return fields

    def by_name(payload) -> Any:  # type: ignore[no-untyped-def]
        return payload

    assert called(by_model, {"recipient": "a"}) == Mail(recipient="a")
    assert called(by_dataclass, {"number": 7}) == Invoice(7)
    assert called(by_typed_dict, {"size": 1}) == {"size": 1}
    assert called(by_mapping, {"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert called(by_name, {"a": [None]}) == {"a": [None]}
    assert schema_of(by_model)["required"] == ["recipient"]
    with pytest.raises(InvalidPayload, match="/recipient"):
        called(by_model, {})


def test_two_models_are_fields() -> None:
    def send(mail: Mail, invoice: Invoice) -> Any:
        return mail, invoice

    given = {"mail": {"recipient": "a"}, "invoice": {"number": 1}}
    assert called(send, given) == (Mail(recipient="a"), Invoice(1))


def test_context_is_found_by_its_hint_or_its_name() -> None:
    def by_hint(c: Context) -> Any:
        return c.attempt

    def by_optional_hint(c: Context | None = None) -> Any:
        return c and c.attempt

    def by_name(context, n: int) -> Any:  # type: ignore[no-untyped-def]
        return context.attempt + n

    assert called(by_hint, {}) == 1
    assert called(by_optional_hint, {}) == 1
    assert called(by_name, {"n": 1}) == 2


def test_field_named_context_with_a_hint_of_its_own_is_a_field() -> None:
    def send(context: str) -> Any:
        return context

    assert called(send, {"context": "x"}) == "x"


def test_handler_without_parameters_takes_an_empty_payload_only() -> None:
    assert called(lambda: 5, {}) == 5
    with pytest.raises(InvalidPayload, match="/x"):
        called(lambda: 5, {"x": 1})


def test_given_schema_is_what_a_payload_has_to_fulfil() -> None:
    schema = {"type": "object", "properties": {"n": {"minimum": 5}}, "required": ["n"]}

    def count(payload: dict[str, Any]) -> Any:
        return payload["n"]

    assert called(count, {"n": 6}, given_schema=schema) == 6
    assert Handler(name="h", function=count, given_schema=schema).schema == schema
    with pytest.raises(InvalidPayload, match=r"/n: does not fulfil minimum: 5"):
        called(count, {"n": 4}, given_schema=schema)
    with pytest.raises(InvalidPayload, match="'n' is a required property"):
        called(count, {}, given_schema=schema)


def test_many_errors_are_not_all_told() -> None:
    def eight(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int) -> None:
        """Never called."""

    with pytest.raises(InvalidPayload, match=r"and 3 more"):
        called(eight, {})


def not_known() -> Any:
    def send(a: "Missing") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Never called."""

    return send


def generator() -> Iterator[int]:
    yield 1


async def async_handler() -> None:
    """Never called."""


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (lambda *a: None, {}, r"\*args"),
        (not_known(), {}, "Missing"),
        (generator, {}, "generator"),
        (async_handler, {"transaction": True}, "async def"),
        (lambda n: None, {"given_schema": {"type": "nonsense"}}, "nonsense"),
    ],
)
def test_function_that_can_not_be_called_is_refused_at_the_registration(
    function: Callable[..., Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"'h' \(.*{reason}"):
        HandlerRegistry([Handler(name="h", function=function, **options)])


def test_hint_that_has_no_schema_is_refused_at_the_registration() -> None:
    class Opaque:
        """Nothing that pydantic knows."""

    def send(a: Opaque) -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match=r"'h'.*Opaque"):
        HandlerRegistry([Handler(name="h", function=send)])


@pytest.mark.parametrize("name", ["", "HTTP", "amqp", "1st", "a b", "a" * 101, "ü", "a\n", 5, None])
def test_wrong_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="can't be the name of a handler"):
        Handler(name=name, function=print)
    with pytest.raises(ConfigurationError, match="can't be the name of a retry strategy"):
        retry_strategy(name)(lambda attempt: None)


def test_second_function_of_a_name_is_refused_with_both_places() -> None:
    def one() -> None:
        """Never called."""

    def other() -> None:
        """Never called."""

    registry = HandlerRegistry([Handler(name="same", function=one)])
    registry.add(Handler(name="same", function=one))
    lines = [function.__code__.co_firstlineno for function in (one, other)]
    with pytest.raises(ConfigurationError, match=rf"'same'.*py:{lines[0]} and .*py:{lines[1]}"):
        registry.add(Handler(name="same", function=other))


def test_frozen_registry_takes_nothing_more() -> None:
    registry = HandlerRegistry()
    registry.freeze()
    with pytest.raises(ConfigurationError, match="'late' comes too late"):
        registry.add(Handler(name="late", function=print))
    with pytest.raises(ConfigurationError, match="'late' comes too late"):
        registry.add_retry_strategy("late", lambda attempt: None)


def test_decorated_function_stays_itself_and_is_known() -> None:
    @handler("tests.decorated")
    def plain(n: int) -> int:
        return n + 1

    assert plain(1) == 2
    assert [one.name for one in declared_handlers(plain)] == ["tests.decorated"]


def test_async_functions_run_on_the_queue_of_their_own() -> None:
    class Callable_:
        async def __call__(self) -> None:
            """Never called."""

    def queue(function: Any) -> str:
        return Handler(name="h", function=function).queue

    assert queue(async_handler) == queue(functools.partial(async_handler)) == queue(Callable_()) == "async"
    assert queue(lambda: None) == "handlers"


def test_context_tells_of_the_cancellation_and_raises_on_request() -> None:
    asked = context(is_cancelled=lambda: True)
    assert asked.cancelled
    with pytest.raises(Cancelled):
        asked.check()
    context().check()


def test_connection_is_there_in_a_transaction_only() -> None:
    with pytest.raises(ConfigurationError, match="transaction=True"):
        _ = context().connection


def load(folder: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from gnomon.worker.handlers import load_handlers; r = load_handlers(sys.argv[1:]);"
        "print(*r.names, *r.retry_strategies)"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *modules], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_listed_modules_are_imported_from_the_current_folder_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "mails.py").write_text(
        "from gnomon import handler, retry_strategy\n"
        "@handler('mail.send')\ndef send(to: str): ...\n"
        "@retry_strategy('calm')\ndef calm(attempt): return 5\n"
    )
    (tmp_path / "others.py").write_text("from gnomon import handler\n@handler('other')\ndef other(): ...\n")
    assert load(tmp_path, "mails").stdout.split() == ["mail.send", "calm"]
    assert load(tmp_path, "mails", "others").stdout.split() == ["mail.send", "other", "calm"]
    assert load(tmp_path).stdout.split() == []


@pytest.mark.parametrize("text", ["import nowhere_to_be_found", "raise SystemExit(3)", "1/0", "def"])
def test_module_that_can_not_be_imported_is_named_with_the_cause(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    done = load(tmp_path, "broken")
    assert done.returncode == 1
    assert "ConfigurationError: the handlers' module 'broken' can't be imported: " in done.stderr


def test_importing_gnomon_imports_nothing_heavy() -> None:
    code = (
        "import sys, gnomon; from gnomon import handler, Context, PermanentError, retry_strategy\n"
        "@handler('x')\ndef f(): ...\n"
        "heavy = {'flask', 'celery', 'kombu', 'sqlalchemy', 'pydantic', 'psycopg2', 'pycurl'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names_are_found_and_others_are_not() -> None:
    assert {"handler", "Context", "PermanentError", "retry_strategy"} <= set(dir(gnomon))
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = gnomon.nothing_of_that_name
    assert load_handlers([]).names == []
