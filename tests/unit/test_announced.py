"""What jobs name that workers register in code: known or not, and whether the payload fits."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from support.catalog import KnownCatalog

from gnomon.job import announced
from gnomon.job.document import read_definition, write_definition
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.handlers import HandlerInfo
from gnomon.job.json_schema import UnusableSchema, schema_errors
from gnomon.job.model import Definition
from gnomon.job.target import HandlerTarget

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SCHEMA = {
    "type": "object",
    "properties": {
        "recipient": {"type": "string", "format": "email"},
        "message": {"type": "string", "maxLength": 20},
        "copies": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
        "cc": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["recipient", "message"],
    "additionalProperties": False,
}
FITS = {"recipient": "user@example.com", "message": "Hello"}


def info(name: str, **changes: Any) -> HandlerInfo:
    return HandlerInfo(**{"name": name, "queue": "handlers", "last_seen_at": NOW, "alive": True, **changes})


def settle(catalog: KnownCatalog, before: Definition | None = None, **document: Any) -> Definition:
    given = {"type": "email_notification", "interval_seconds": 5, **document}
    known = announced.ask(catalog, given)
    return announced.settled(read_definition(given, now=NOW), known, before)


def refused(catalog: KnownCatalog, before: Definition | None = None, **document: Any) -> Sequence[FieldError]:
    with pytest.raises(InvalidJob) as raised:
        settle(catalog, before, **document)
    return raised.value.errors


@pytest.mark.parametrize("queue", ["handlers", "async"])
def test_job_gets_the_queue_of_its_handler(queue: str) -> None:
    target = settle(KnownCatalog([info("email_notification", queue=queue, schema=SCHEMA)]), payload=FITS).target
    assert isinstance(target, HandlerTarget)
    assert (target.queue, target.payload) == (queue, FITS)


def test_handler_without_schema_takes_any_object() -> None:
    assert settle(KnownCatalog([info("email_notification")]), payload={"any": [1]})


def test_jobs_that_name_nothing_ask_nothing() -> None:
    catalog = KnownCatalog()
    settle(catalog, type="HTTP", http_job={"url": "https://example.com"})
    assert catalog.asked == []


def test_unknown_handler_is_refused_with_those_that_are_known() -> None:
    catalog = KnownCatalog([info("email_notifications"), info("report")])
    (error,) = refused(catalog)
    assert error.pointer == "/type"
    assert "known: HTTP, AMQP, email_notifications, report" in error.detail
    assert error.hint is not None
    assert "did you mean 'email_notifications'?" in error.hint
    assert "--worker-handlers" in error.hint
    (error,) = refused(catalog, type="zzz")
    assert error.hint == announced.HOW_TO_ANNOUNCE
    (error,) = refused(KnownCatalog([info(f"handler_{number}") for number in range(30)]), type="zzz")
    assert error.detail.endswith("and 12 more")


def test_unknown_retry_strategy_is_refused_with_those_that_are_known() -> None:
    http = {"type": "HTTP", "http_job": {"url": "https://example.com"}}
    catalog = KnownCatalog(strategies=["patient"])
    assert settle(catalog, **http, retry={"strategy": "patient"}).retry.strategy == "patient"
    (error,) = refused(catalog, **http, retry={"strategy": "pacient"})
    assert error.pointer == "/retry/strategy"
    assert "known: patient" in error.detail
    assert "'patient'" in str(error.hint)


def test_edit_is_not_refused_for_what_it_leaves_as_it_was() -> None:
    before = settle(
        KnownCatalog([info("email_notification")], ["patient"]), payload={"a": 1}, retry={"strategy": "patient"}
    )
    stored = write_definition(before, secrets=True)
    rescheduled = {**stored, "interval_seconds": 9}
    for catalog in (KnownCatalog(), KnownCatalog([info("email_notification", schema=SCHEMA)])):
        after = settle(catalog, before, **rescheduled)
        assert after.target == before.target
        assert announced.warnings(after, announced.ask(catalog, stored))
        assert refused(catalog, before, **{**rescheduled, "payload": {"a": 2}})
    moved = settle(KnownCatalog([info("email_notification", queue="async")]), before, **rescheduled).target
    assert isinstance(moved, HandlerTarget)
    assert moved.queue == "async"


def test_handler_that_no_living_worker_has_is_a_warning() -> None:
    catalog = KnownCatalog([info("email_notification", alive=False)])
    definition = settle(catalog)
    (warning,) = announced.warnings(definition, announced.ask(catalog, write_definition(definition, secrets=True)))
    assert "2026-06-01T12:00:00Z" in warning
    catalog.infos = [info("email_notification")]
    assert not announced.warnings(definition, announced.ask(catalog, write_definition(definition, secrets=True)))


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        ({"recipient": 5}, "/recipient", "must be a string"),
        ({"recipient": "nobody"}, "/recipient", "must have the format 'email'"),
        ({"message": "hunter2" * 9}, "/message", "must have at most 20 characters"),
        ({"copies": 0}, "/copies", "must be at least 1"),
        ({"copies": 1.5}, "/copies", "must be an integer"),
        ({"tags": ["a", "c"]}, "/tags/1", "must be one of 'a' or 'b'"),
        ({"tags": "a"}, "/tags", "must be an array"),
        ({"cc": 5}, "/cc", "fits none of what is allowed: must be a string; must be null"),
        ({"at": "2026-01-01T00:00:00"}, "/at", "must have the format 'date-time'"),
        ({"a/b": 1}, "/a~1b", "is not known here"),
    ],
)
def test_each_rule_that_a_payload_breaks_is_named_by_its_place(
    changes: Mapping[str, Any], pointer: str, detail: str
) -> None:
    (error,) = refused(KnownCatalog([info("email_notification", schema=SCHEMA)]), payload={**FITS, **changes})
    assert (error.pointer, error.detail) == (f"/payload{pointer}", detail)
    assert "hunter2" not in str(error)


def test_all_rules_that_a_payload_breaks_are_named_at_once_up_to_twenty() -> None:
    errors = schema_errors(SCHEMA, {})
    assert [(error.pointer, error.detail) for error in errors] == [
        ("/recipient", "is missing"),
        ("/message", "is missing"),
    ]
    assert len(schema_errors(SCHEMA, {f"field-{number}": 1 for number in range(100)})) == 20
    assert schema_errors(SCHEMA, {**FITS, "cc": None, "at": "2026-01-01T00:00:00Z", "copies": 2}) == []


def test_references_inside_a_schema_are_followed() -> None:
    schema = {"$defs": {"day": {"type": "integer"}}, "properties": {"day": {"$ref": "#/$defs/day"}}}
    assert [error.pointer for error in schema_errors(schema, {"day": "x"})] == ["/day"]


def test_payload_that_would_take_minutes_to_check_is_refused_at_once() -> None:
    schema = {"properties": {"text": {"pattern": r"\s+$"}, "list": {"uniqueItems": True}}}
    objects: list[object] = [{"a": number} for number in range(15_000)]
    started = time.monotonic()
    assert [error.pointer for error in schema_errors(schema, {"text": " " * 120_000 + "x"})] == ["/text"]
    assert schema_errors(schema, {"list": [*objects, 1, True, "1", None]}) == []
    assert [error.detail for error in schema_errors(schema, {"list": [*objects, {"a": 7.0}]})] == [
        "must not hold the same item twice"
    ]
    assert time.monotonic() - started < 20
    assert schema_errors(schema, {"text": "a "}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}},  # which is not fetched
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "#"},
    ],
)
def test_schema_that_can_not_be_used_says_so(schema: Mapping[str, Any]) -> None:
    with pytest.raises(UnusableSchema):
        schema_errors(schema, {"a": "b"})
    (error,) = refused(KnownCatalog([info("email_notification", schema=schema)]), payload={"a": "b"})
    assert error.pointer == "/payload"
    assert "email_notification" in error.detail
