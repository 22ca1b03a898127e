"""A definition and its JSON document: nothing is lost on the way, changes merge, secrets stay hidden."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.job.document import MASK, Whole, merge_patch, parse_instant, read_definition, write_definition
from gnomon.job.errors import InvalidJob
from gnomon.job.payload import MAX_NUMBER
from gnomon.job.schedule import At, Cron, Every
from gnomon.job.target import HandlerTarget

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HTTP = {"url": "https://example.com/hook"}
AUTH = {"type": "basic", "username": "foo", "password": "bar"}


def read(**document: Any) -> Any:
    return read_definition({"type": "HTTP", "http_job": HTTP, **document}, now=NOW)


def stored(**document: Any) -> dict[str, Any]:
    return write_definition(read(**document), secrets=True)


storable = st.characters(codec="utf-8", exclude_characters="\x00")
floats = st.floats(-MAX_NUMBER, MAX_NUMBER)
schedules = st.one_of(
    st.sampled_from(["*/10 * * * *", "0 30 2 * * *", "@daily"]).map(lambda text: {"cron_schedule": text}),
    st.integers(1, 10**8).map(lambda seconds: {"interval_seconds": seconds}),
    st.just({"execute_at": "2030-01-01T09:00:00Z"}),
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
        "tags": st.lists(st.text("abc-é", min_size=1, max_size=9), max_size=4, unique=True),
        "timeout_seconds": st.floats(0.1, 86_400).map(lambda value: round(value, 3)),
        "overlap": st.sampled_from(["skip", "allow", "queue"]),
        "delivery": st.sampled_from(["at_least_once", "at_most_once"]),
        "misfire": st.fixed_dictionaries({"policy": st.sampled_from(["run_once", "run_all", "skip"])}),
        "retry": st.fixed_dictionaries({"max_attempts": st.integers(1, 100)}),
        "http_job": st.just({**HTTP, "method": "PUT", "body": "{}", "auth": AUTH, "headers": {"X-A": "b"}}),
    },
)


@given(schedules, policies)
def test_document_of_a_definition_reads_back_as_the_same_definition(
    schedule: dict[str, Any], policy: dict[str, Any]
) -> None:
    definition = read(**schedule, **policy)
    document = write_definition(definition, secrets=True)
    assert read_definition(document) == definition  # without a clock: what is stored is complete
    assert write_definition(read_definition(document), secrets=True) == document


def test_interval_is_anchored_at_its_start_else_now() -> None:
    assert read(interval_seconds=60).timing.schedule == Every(60, NOW)
    start = "2027-01-01T00:00:00Z"
    assert read(interval_seconds=60, starts_at=start).timing.schedule == Every(60, datetime(2027, 1, 1, tzinfo=UTC))


def test_every_spelling_of_a_schedule_is_read() -> None:
    assert read(delay_seconds=90).timing.schedule == At(NOW + timedelta(seconds=90))
    assert read(cron_schedule="@every 5m").timing.schedule == Every(300, NOW)
    assert read(cron_schedule="TZ=Europe/Paris 0 9 * * *").timing.schedule == Cron("0 9 * * *", "Europe/Paris")


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({}, "/cron_schedule"),
        ({"cron_schedule": "* * * * *", "interval_seconds": 5}, "/interval_seconds"),
        ({"interval_seconds": 0}, "/interval_seconds"),
        ({"interval_seconds": 5, "timezone": "Europe/Paris"}, "/timezone"),
        ({"cron_schedule": "* * * * *", "timezone": "Mars/Base"}, "/timezone"),
        ({"cron_schedule": "* * * * *", "starts_at": "yesterday"}, "/starts_at"),
        ({"cron_schedule": "* * * * *", "ends_at": "2026-01-01T00:00:00"}, "/ends_at"),  # no offset: not guessed
        ({"execute_at": "1999-01-01T00:00:00Z"}, "/execute_at"),
        ({"cron_schedule": "* * * * *", "name": "a b"}, "/name"),
        ({"cron_schedule": "* * * * *", "tags": ["ok", ""]}, "/tags/1"),
        ({"cron_schedule": "* * * * *", "timeout_seconds": 0}, "/timeout_seconds"),
        ({"cron_schedule": "* * * * *", "overlap": "maybe"}, "/overlap"),
        ({"cron_schedule": "* * * * *", "misfire": {"limit": 0}}, "/misfire/limit"),
        ({"cron_schedule": "* * * * *", "retry": {"max_attempts": 0}}, "/retry/max_attempts"),
        ({"cron_schedule": "* * * * *", "type": "CARRIER PIGEON"}, "/type"),
        ({"cron_schedule": "* * * * *", "http_job": None}, "/http_job"),
        ({"cron_schedule": "* * * * *", "http_job": {**HTTP, "auth": {"type": "basic"}}}, "/http_job/auth/password"),
        ({"cron_schedule": "* * * * *", "http_job": {**HTTP, "auth": {"type": "digest"}}}, "/http_job/auth/type"),
        (
            {"cron_schedule": "* * * * *", "http_job": {**HTTP, "auth": {**AUTH, "password": MASK}}},
            "/http_job/auth",
        ),
    ],
)
def test_broken_rule_is_named_by_its_pointer(document: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        read(**document)
    assert [error.pointer for error in raised.value.errors] == [pointer]


def test_all_broken_rules_are_named_at_once() -> None:
    with pytest.raises(InvalidJob) as raised:
        read(cron_schedule="61 * * * *", overlap="maybe", http_job={"url": "ftp://x"})
    assert {error.pointer for error in raised.value.errors} == {"/cron_schedule", "/overlap", "/http_job/url"}


def test_answer_shows_no_secret() -> None:
    for auth in (AUTH, {"type": "bearer", "token": "bar"}):
        document = write_definition(read(interval_seconds=5, http_job={**HTTP, "auth": auth}), secrets=False)
        assert "bar" not in str(document)
        assert MASK in document["http_job"]["auth"].values()


AMQP = {
    "connection": "amqp://u:bar@broker/v",
    "exchange": "e",
    "routing_key": "k",
    "headers": {"x-delay": 10000, "x-table": {"a": [1]}},
    "body": "YQ==",
    "body_encoding": "base64",
    "content_type": "text/plain",
}


def test_amqp_job_reads_back_as_the_same_and_shows_no_password() -> None:
    definition = read(type="AMQP", http_job=None, amqp_job=AMQP, interval_seconds=5)
    document = write_definition(definition, secrets=True)
    assert document["amqp_job"] == AMQP
    assert "http_job" not in document
    assert read_definition(document) == definition
    shown = write_definition(definition, secrets=False)
    assert shown["amqp_job"]["connection"] == "amqp://u:***@broker/v"
    assert merge_patch(document, shown)["amqp_job"] == AMQP  # *** keeps the password


def test_other_type_replaces_the_target() -> None:
    before = stored(interval_seconds=5)
    after = merge_patch(before, {"type": "AMQP", "amqp_job": AMQP})
    assert "http_job" not in after
    assert read_definition(after).target.kind == "AMQP"


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"amqp_job": None}, "/amqp_job"),
        ({"amqp_job": {}}, "/amqp_job/connection"),
        ({"amqp_job": {**AMQP, "connection": "amqp://u:***@broker/v"}}, "/amqp_job/connection"),
        ({"amqp_job": AMQP, "http_job": HTTP}, "/http_job"),
    ],
)
def test_broken_rule_of_an_amqp_job_is_named_by_its_pointer(document: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        read(**{"type": "AMQP", "http_job": None, "interval_seconds": 5, **document})
    assert [error.pointer for error in raised.value.errors] == [pointer]


HANDLER = {"type": "email_notification", "http_job": None}
PRINTED = {"recipient": "user@example.com", "message": "…"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_NUMBER, MAX_NUMBER) | st.text(storable, max_size=9) | floats,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(storable, max_size=5), below, max_size=3),
    max_leaves=12,
)
payloads = st.dictionaries(st.text(storable, max_size=5), json_values, max_size=4)


@given(payloads, st.sampled_from(["handlers", "async"]), st.none() | st.just("patient"))
def test_document_of_any_handler_job_reads_back_as_the_same(
    payload: dict[str, Any], queue: str, strategy: str | None
) -> None:
    retry = {"strategy": strategy}
    definition = read(**HANDLER, payload=payload, interval_seconds=5, queue=queue, retry=retry)
    document = write_definition(definition, secrets=True)
    assert (document["type"], document["queue"], document["retry"]["strategy"]) == (HANDLER["type"], queue, strategy)
    assert "http_job" not in document
    back = read_definition(json.loads(json.dumps(document)))
    assert back == definition
    assert isinstance(back.target, HandlerTarget)
    assert back.target.payload == payload
    assert write_definition(back, secrets=False) == document


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"http_job": HTTP}, "/http_job"),
        ({"amqp_job": AMQP}, "/amqp_job"),
        ({"type": "HTTP", "http_job": HTTP, "payload": {}}, "/payload"),
        ({"type": "AMQP", "amqp_job": AMQP, "payload": {"a": 1}}, "/payload"),
        ({"type": "http"}, "/type"),
        ({"type": "1st"}, "/type"),
        ({"type": "a" * 101}, "/type"),
        ({"type": None}, "/type"),
        ({"queue": "io"}, "/queue"),
        ({"payload": {"a": {"b/c": "\x00"}}}, "/payload/a/b~1c"),
        ({"retry": {"strategy": "no such name"}}, "/retry/strategy"),
    ],
)
def test_broken_rule_of_a_handler_job_is_named_by_its_pointer(document: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        read(**{**HANDLER, "interval_seconds": 5, **document})
    assert [error.pointer for error in raised.value.errors] == [pointer]


def test_schedule_that_never_fires_is_refused_for_a_handler_too() -> None:
    with pytest.raises(InvalidJob) as raised:
        read(**HANDLER, cron_schedule="0 0 30 2 *")
    assert [error.pointer for error in raised.value.errors] == ["/cron_schedule"]


def test_patch_merges_into_the_payload() -> None:
    before = stored(**HANDLER, payload={**PRINTED, "cc": {"a": 1, "b": None}}, interval_seconds=5, queue="async")
    after = merge_patch(before, {"payload": {"message": "Hi", "recipient": None, "cc": {"a": 2}}})
    assert after["payload"] == {"message": "Hi", "cc": {"a": 2, "b": None}}
    assert after["queue"] == "async"
    assert read_definition(merge_patch(before, {"payload": None})).target.payload == {}
    assert merge_patch(before, {"payload": Whole(a=None)})["payload"] == {"a": None}


def test_other_type_drops_what_belongs_to_the_old_one() -> None:
    before = stored(**HANDLER, payload=PRINTED, interval_seconds=5, queue="async")
    called = merge_patch(before, {"type": "HTTP", "http_job": HTTP})
    assert not {"payload", "queue"} & called.keys()
    assert read_definition(called).target.kind == "HTTP"
    other = merge_patch(before, {"type": "report", "payload": {"day": 1}})
    assert other["payload"] == {"day": 1}
    assert "queue" not in other
    assert "http_job" not in merge_patch(called, {"type": "report"})
    kept = merge_patch(before, {"type": "email_notification", "payload": {"a": 1}})
    assert kept["payload"] == {**PRINTED, "a": 1}


def test_mask_sent_back_keeps_the_stored_secret() -> None:
    before = stored(interval_seconds=5, http_job={**HTTP, "auth": AUTH})
    after = merge_patch(before, {"http_job": {"auth": {"type": "basic", "username": "new", "password": MASK}}})
    assert after["http_job"]["auth"] == {"type": "basic", "username": "new", "password": "bar"}


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        # naming another kind of schedule drops the old one, and what belongs to it
        (
            {"cron_schedule": "0 9 * * *", "timezone": "Europe/Paris"},
            {"interval_seconds": 5},
            {"cron_schedule": None, "interval_seconds": 5, "timezone": None, "anchor_at": None},
        ),
        # the same interval sent back keeps its anchor, another one is anchored anew
        ({"interval_seconds": 5}, {"interval_seconds": 5}, {"anchor_at": "2026-06-01T12:00:00Z"}),
        ({"interval_seconds": 5}, {"interval_seconds": 6}, {"anchor_at": None}),
        # a new start moves the anchor
        ({"interval_seconds": 5}, {"starts_at": "2027-01-01T00:00:00Z"}, {"anchor_at": None}),
        # null takes a field away, what is not named stays
        ({"interval_seconds": 5, "name": "a", "tags": ["t"]}, {"name": None}, {"name": None, "tags": ["t"]}),
        ({"interval_seconds": 5}, {"retry": {"max_attempts": 9}}, {"timeout_seconds": 30}),
    ],
)
def test_patch_merges(before: dict[str, Any], patch: dict[str, Any], after: dict[str, Any]) -> None:
    merged = merge_patch(stored(**before), patch)
    assert {key: merged.get(key) for key in after} == after


def test_instants_are_read_in_any_offset_and_kept_in_utc() -> None:
    assert parse_instant("2030-01-01T10:00:00+01:00", "/x") == datetime(2030, 1, 1, 9, tzinfo=UTC)
