"""What a job may call: URLs, headers, bodies and credentials; messages of AMQP; payloads of handlers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.data import encode_table

from gnomon.job.address import EgressPolicy
from gnomon.job.amqp import Broker, keeps_password, masked, table_size, with_password
from gnomon.job.errors import InvalidJob
from gnomon.job.payload import MAX_PAYLOAD_BYTES
from gnomon.job.target import (
    MAX_BODY_BYTES,
    METHODS,
    AmqpTarget,
    BasicAuth,
    BearerAuth,
    HandlerTarget,
    HttpTarget,
    Target,
    closed_to,
    normalise_url,
)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("https://example.com/a?b=c", "https://example.com/a?b=c"),
        ("example.com/hook", "https://example.com/hook"),  # without a scheme it is https
        ("localhost:8080/x", "https://localhost:8080/x"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("http://example.com/a#part", "http://example.com/a"),  # a fragment is never sent
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://example.com.", "http://example.com."),
    ],
)
def test_url_is_stored_in_its_absolute_form(written: str, stored: str) -> None:
    assert normalise_url(written) == stored
    assert normalise_url(stored) == stored


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com", "scheme must be http or https"),
        ("file:///etc/passwd", "scheme must be http or https"),
        ("http://user:secret@example.com", "must not hold a user name"),
        ("http://example.com\\@evil.example", "holds the character"),
        ("http://example.com/\r\nX: y", "holds the character"),
        ("http://exa mple.com", "holds the character"),
        ("http://bücher.example", "holds the character"),
        ("http://\uff11\uff12\uff17.0.0.1", "holds the character"),  # full-width digits
        ("http://", "is not a host name"),
        ("http://-a.example", "is not a host name"),
        ("http://example.com:0", "port 0"),
        ("http://example.com:99999", "is not a URL"),
        ("http://example.com:8x", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://[fe80::1%25eth0]/", "is not a"),
        ("http://127.1/", "not an IPv4 address in its plain form"),
        ("http://2130706433/", "not an IPv4 address in its plain form"),
        ("http://0x7f.1/", "not an IPv4 address in its plain form"),
        ("http://169.254.169.254/latest/", "a cloud's metadata service, which no setting opens"),
        ("http://[::ffff:127.0.0.1]/", "an IPv4 address inside an IPv6 one, which no setting opens"),
        ("http://%31%32%37.0.0.1/", "is not a host name"),
        ("http://example.com:/", "no port"),
        ("http:/example.com/", "no port"),
        ("file:/etc/passwd", "no port"),
        ("http://example.com..", "is not a host name"),
        ("http://1.2.3.4&@5.6.7.8", "must not hold a user name"),
        ("http://" + "a" * 3000, "at most 2048"),
        ("", "is not a host name"),
    ],
)
def test_url_that_can_not_be_called_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason) as raised:
        HttpTarget(url=url)
    assert raised.value.errors[0].pointer == "/url"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (HttpTarget(url="http://example.com/"), None),
        (HttpTarget(url="http://10.0.0.1/"), "10.0.0.1 is a private address; the setting egress-allow can open it"),
        (HttpTarget(url="http://localhost:8080/"), "127.0.0.1 is a loopback address"),
        (HttpTarget(url="http://example.com:6379/"), "port 6379 is that of Redis; the setting egress-allow-ports can"),
        (AmqpTarget(connection="amqp://[fd00::1]/"), "fd00::1 is a private address"),
        (AmqpTarget(connection="amqp://broker.example/"), None),
        (HandlerTarget(name="reports.daily"), None),
    ],
)
def test_target_that_workers_will_refuse_is_foreseen(target: Target, reason: str | None) -> None:
    warnings = closed_to(target, EgressPolicy())
    assert [reason is not None and reason in warning for warning in warnings] == ([] if reason is None else [True])


@given(st.text(max_size=80))
def test_any_text_is_a_url_or_an_invalid_job(text: str) -> None:
    try:
        url = normalise_url(text)
    except InvalidJob:
        return
    assert url.isascii()
    assert url.startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("Bad Name", "x", "not a header name"),
        ("", "x", "not a header name"),
        ("X-A:", "x", "not a header name"),
        ("X-A", "a\r\nX-B: c", "control"),
        ("X-A", "a\x00b", "control"),
        ("X-A", "snow \u2603", "control or non-Latin-1"),
        ("host", "x", "set by Gnomon"),
        ("Content-Length", "1", "set by Gnomon"),
        ("Idempotency-Key", "1", "set by Gnomon"),
        ("X-Scheduler-Attempt", "1", "set by Gnomon"),
        ("Proxy-Authorization", "1", "set by Gnomon"),
        ("X-A", "x" * 9000, "longer than"),
    ],
)
def test_header_that_could_not_be_sent_safely_is_refused(name: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason) as raised:
        HttpTarget(url="example.com", headers={name: value})
    assert raised.value.errors[0].pointer.startswith("/headers/")


def test_pointer_to_a_header_is_escaped() -> None:
    with pytest.raises(InvalidJob) as raised:
        HttpTarget(url="example.com", headers={"a/b~c": "x"})
    assert raised.value.errors[0].pointer == "/headers/a~1b~0c"


def test_all_broken_rules_are_named_at_once() -> None:
    with pytest.raises(InvalidJob) as raised:
        HttpTarget(url="example.com", method="BREW", headers={"a b": "x"}, valid_response_codes=frozenset({99}))
    assert [error.pointer for error in raised.value.errors] == ["/method", "/valid_response_codes", "/headers/a b"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_the_list_are_accepted(method: str) -> None:
    assert HttpTarget(url="example.com", method=method).method == method


@pytest.mark.parametrize(
    ("body", "method"),
    [("x", "GET"), ("x" * (MAX_BODY_BYTES + 1), "POST"), ("\ud800", "POST"), ("a\x00b", "POST")],
)
def test_body_that_can_not_be_sent_or_stored_is_refused(body: str, method: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        HttpTarget(url="example.com", method=method, body=body)
    assert raised.value.errors[0].pointer == "/body"


@pytest.mark.parametrize(
    ("codes", "accepted", "refused"),
    [
        (frozenset[int](), (200, 204, 299), (199, 300, 404, 500)),
        (frozenset({200, 404}), (200, 404), (201, 204, 500)),
    ],
)
def test_success_is_any_2xx_or_exactly_what_is_listed(
    codes: frozenset[int], accepted: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    target = HttpTarget(url="example.com", valid_response_codes=codes)
    assert all(target.accepts(status) for status in accepted)
    assert not any(target.accepts(status) for status in refused)


def test_secrets_do_not_show_in_the_representation() -> None:
    for auth in (BasicAuth(username="foo", password="canary"), BearerAuth(token="canary")):
        assert "canary" not in repr(HttpTarget(url="example.com", auth=auth)) + repr(auth)


def test_credentials_are_given_once() -> None:
    with pytest.raises(InvalidJob, match="not both"):
        HttpTarget(url="example.com", headers={"authorization": "x"}, auth=BearerAuth(token="t"))
    with pytest.raises(InvalidJob, match="can't contain ':'"):
        BasicAuth(username="a:b", password="c")
    with pytest.raises(InvalidJob, match="control"):
        BearerAuth(token="a\nb")


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {"a": 1}


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "vhost"),
    [
        ("amqp://broker", "broker", 5672, "guest", "/"),
        ("amqps://broker/", "broker", 5671, "guest", "/"),
        ("amqp://u:p@broker:99/%2F", "broker", 99, "u", "/"),
        ("amqp://u:p@[::1]:99/a%2Fb", "::1", 99, "u", "a/b"),
        ("AMQP://u%40x:p@Broker/v", "broker", 5672, "u@x", "v"),
    ],
)
def test_broker_is_what_the_url_names(url: str, host: str, port: int, user: str, vhost: str) -> None:
    broker = AmqpTarget(connection=url).broker
    assert (broker.host, broker.port, broker.user, broker.vhost) == (host, port, user, vhost)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://u:hunter2@broker",
        "amqp://",
        "amqp://u:hunter2@",
        "amqp://u:hunter2@-broker",
        "amqp://u:hun/ter2@broker",  # read as a port and a vhost
        "amqp://u:hunter2@broker:0",
        "amqp://u:hunter2@broker:99999",
        "amqp://u:hunter2@broker/a/b",
        "amqp://u:hunter2@broker/?heartbeat=5",
        "amqp://u:hunter2@broker/#a",
        "amqp://u:hunter2 @broker",
        "amqp://u:hunter2é@broker",
        "amqp://u:hunter2%ff@broker",
        "amqp://u:hunter2%00@broker",
        "amqp://u:hunter2@[::1",
        "amqp://u:***@broker",
        "amqp://u:%2A%2A%2A@broker",
        "amqp://u:hunter2@broker/" + "v" * 256,
        "amqp://u:hunter2@broker/" + "v" * 3000,
    ],
)
def test_connection_that_can_not_be_made_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        AmqpTarget(connection=url)
    assert [error.pointer for error in raised.value.errors] == ["/connection"]
    assert "hun" not in str(raised.value)


def test_password_of_a_broker_is_never_shown() -> None:
    target = AmqpTarget(connection="amqp://u:hunter2@broker/v")
    assert "hunter2" not in f"{target!r} {target.broker!r} {target.broker} {masked(target.connection)}"
    assert masked(target.connection) == "amqp://u:***@broker/v"
    assert masked("amqp://broker/v") == "amqp://broker/v"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("amqp://u:***@broker/v", True),
        ("amqps://u:***@broker:99/other", True),
        ("amqp://u:new@broker/v", False),
        ("amqp://u:***@elsewhere/v", False),  # the password does not go to another host
        ("amqp://other:***@broker/v", False),
        ("no URL", False),
    ],
)
def test_mask_stands_for_the_password_of_this_user_and_host(sent: str, kept: bool) -> None:
    assert keeps_password(sent, "amqp://u:p%40ss@broker/v") is kept


def test_password_is_put_back_into_a_url() -> None:
    assert with_password("amqps://u:***@broker:99/other", "p@s/s") == "amqps://u:p%40s%2Fs@broker:99/other"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"exchange": "é" * 128}, "/exchange"),
        ({"routing_key": "k" * 256}, "/routing_key"),
        ({"routing_key": "a\x00"}, "/routing_key"),
        ({"content_type": "t" * 256}, "/content_type"),
        ({"headers": {"k" * 256: 1}}, "/headers/" + "k" * 256),
        ({"headers": {"a/b": 2**63}}, "/headers/a~1b"),
        ({"headers": {"a": -(2**63) - 1}}, "/headers/a"),
        ({"headers": {"a": [1, 1.5]}}, "/headers/a/1"),
        ({"headers": {"a": {"b": ["\ud800"]}}}, "/headers/a/b/0"),
        ({"headers": nested(9)}, "/headers" + "/a" * 8),
        ({"headers": {"a": "x" * 65_536}}, "/headers"),
        ({"headers": {str(place): 1 for place in range(65)}}, "/headers"),
        ({"headers": {"x-scheduler-attempt": 1}}, "/headers/x-scheduler-attempt"),
        ({"headers": {"Idempotency-Key": "1"}}, "/headers/Idempotency-Key"),
        ({"headers": {"CC": "queue"}}, "/headers/CC"),
        ({"body": "a\x00"}, "/body"),
        ({"body": "x" * (MAX_BODY_BYTES + 1)}, "/body"),
        ({"body": "x", "body_encoding": "base64"}, "/body"),
        ({"body": "YQ==\n", "body_encoding": "base64"}, "/body"),
        ({"body": "é", "body_encoding": "base64"}, "/body"),
        ({"body": "A" * 180_000, "body_encoding": "base64"}, "/body"),
        ({"body_encoding": "hex"}, "/body_encoding"),
    ],
)
def test_message_that_amqp_can_not_carry_is_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        AmqpTarget(connection="amqp://broker", **fields)
    assert [error.pointer for error in raised.value.errors] == [pointer]


def test_message_that_amqp_just_carries_is_accepted() -> None:
    headers = {"k" * 255: 2**63 - 1, "x-delay": 10000, "CC": ["a"], "n": None, "b": True, "t": nested(7)}
    AmqpTarget(
        connection="amqp://broker",
        exchange="e" * 255,
        routing_key="k" * 255,
        headers=headers,
        body="x" * MAX_BODY_BYTES,
    )
    assert AmqpTarget(connection="amqp://broker", body="YQ==", body_encoding="base64").payload() == b"a"
    assert AmqpTarget(connection="amqp://broker", body="é").payload() == "é".encode()
    assert AmqpTarget(connection="amqp://broker").payload() == b""


def test_headers_of_other_types_are_other_headers() -> None:
    assert AmqpTarget(connection="amqp://broker", headers={"a": 1}) != AmqpTarget(
        connection="amqp://broker", headers={"a": True}
    )


@given(st.text(max_size=60).map("amqp://u:p".__add__) | st.text(max_size=60))
def test_any_text_is_a_connection_or_an_invalid_job(text: str) -> None:
    try:
        broker = Broker.parse(text)
    except InvalidJob:
        return
    assert broker.host
    assert masked(masked(text)) == masked(text)


tables = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("abé", max_size=5), below, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abé", max_size=5), tables, max_size=6))
def test_size_of_a_table_is_never_understated(table: dict[str, Any]) -> None:
    pieces: list[bytes] = []
    assert encode_table(pieces, table) <= table_size(table)


def handler(payload: dict[str, Any]) -> HandlerTarget:
    return HandlerTarget(name="report.daily", payload=payload)


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"a": float("nan")}, "/payload/a"),
        ({"a": [float("inf")]}, "/payload/a/0"),
        ({"a": 2**53}, "/payload/a"),
        ({"a": 1e16}, "/payload/a"),
        ({"a": "\x00"}, "/payload/a"),
        ({"a/b": "\ud800"}, "/payload/a~1b"),
        ({"a": b"bytes"}, "/payload/a"),
        ({"a": (1,)}, "/payload/a"),
        ({1: 2}, "/payload"),
        ({"a\x00": 1}, "/payload/a\ufffd"),
        (nested(21), "/payload" + "/a" * 20),
        ({"a": "é" * 65_536}, "/payload"),
    ],
)
def test_payload_that_not_every_reader_of_json_carries_is_refused(payload: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        handler(payload)
    assert [error.pointer for error in raised.value.errors] == [pointer]


def test_payload_that_json_just_carries_is_accepted_and_not_shown_in_logs() -> None:
    target = handler({"deep": nested(19), "n": None, "b": True, "i": 2**53 - 1, "f": 1e-300, "s": "hunter2"})
    assert "hunter2" not in repr(target)
    assert target.queue == "handlers"
    handler({"a": "x" * (MAX_PAYLOAD_BYTES - len('{"a":""}'))})


def test_payloads_that_json_tells_apart_are_different() -> None:
    same = [handler({"a": 1, "b": 2}), handler({"b": 2, "a": 1})]
    assert same[0] == same[1]
    assert handler({"a": [-0.0, "-0.0"]}) == handler({"a": [0.0, "-0.0"]})
    others = [handler({"a": value}) for value in (1, 1.0, True, "1", None)]
    assert all(one != other for place, one in enumerate(others) for other in others[:place])


@pytest.mark.parametrize("name", ["HTTP", "http", "Amqp", "", "a b", "1st", "a/b", "é", "x" * 101])
def test_name_that_no_handler_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        HandlerTarget(name=name)
    assert [error.pointer for error in raised.value.errors] == ["/type"]
