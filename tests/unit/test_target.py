"""What an HTTP job may call: URLs, headers, bodies and credentials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.job.errors import InvalidJob
from gnomon.job.target import MAX_BODY_BYTES, METHODS, BasicAuth, BearerAuth, HttpTarget, normalise_url


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
        ("http://" + "a" * 3000, "at most 2048"),
        ("", "is not a host name"),
    ],
)
def test_url_that_can_not_be_called_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason) as raised:
        HttpTarget(url=url)
    assert raised.value.errors[0].pointer == "/url"


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
