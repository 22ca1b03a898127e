"""What targets echo is kept without the job's own secrets, in whatever form it comes back."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.job.outcome import Failed, Sent, Succeeded
from gnomon.job.target import AmqpTarget, BasicAuth, BearerAuth, HandlerTarget, HttpTarget
from gnomon.worker.executors.scrub import Scrubber, scrubbed, scrubber_of

SECRETS = ["canary-日本-0001", "canary-token-0001", "p@ss w/rd+<&>\"'é", "S3cr3t=="]


def forms(secret: str) -> dict[str, str]:
    raw = secret.encode()
    return {
        "raw": secret,
        "percent": quote(secret, safe=""),
        "percent, small": quote(secret, safe="").replace("%2F", "%2f").replace("%C3%A9", "%c3%a9"),
        "percent, plus": quote_plus(secret),
        "percent, all": "".join(f"%{byte:02x}" for byte in raw),
        "JSON": json.dumps(secret)[1:-1],
        "JSON, not ASCII": json.dumps(secret, ensure_ascii=False)[1:-1],
        "JSON, slashes": json.dumps(secret)[1:-1].replace("/", "\\/"),
        "JSON as Go writes it": json.dumps(secret)[1:-1]
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026"),
        "HTML": html.escape(secret),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "base64": base64.b64encode(raw).decode(),
        "base64, URL": base64.urlsafe_b64encode(raw).decode(),
    }


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", forms(""))
def test_secret_is_taken_out_in_every_form(secret: str, name: str) -> None:
    echoed = f"before {forms(secret)[name]} after".encode()
    cleaned = Scrubber((secret,)).clean(echoed)
    assert cleaned.startswith(b"before ***")
    assert b"***" in cleaned
    assert forms(secret)[name].encode() not in cleaned


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", ["", "a", "ab", "user:", "abc:d"])
@pytest.mark.parametrize("after", ["", "z", "zz"])
def test_secret_within_something_in_base64_is_taken_out(secret: str, before: str, after: str) -> None:
    encoded = base64.b64encode(f"{before}{secret}{after}".encode())
    cleaned = Scrubber((secret,)).clean(b"echo " + encoded)
    assert b"***" in cleaned
    # of its edges up to a character may share a byte with what is around it
    assert len(cleaned) - len(b"echo ***") <= 4 * (len(before) + len(after)) / 3 + 8


def test_text_that_holds_no_secret_stays_as_it_is() -> None:
    text = b"nothing to see: 63616e, Y2Fu, can%61ry"
    assert Scrubber(("canary-token-0001",)).clean(text) == text
    assert Scrubber(()).clean(text) == text


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=30),
    st.lists(st.binary(max_size=20), max_size=5),
    st.integers(min_value=0, max_value=600),
)
def test_text_that_was_cut_off_holds_no_secret_and_no_more_than_the_whole(
    secret: str, parts: list[bytes], length: int
) -> None:
    scrubber = Scrubber((secret,))
    echoed = secret.encode().join([b"", *parts, b""])
    cut = scrubber.clean(echoed[:length], whole=False)
    assert secret.encode() not in cut
    assert scrubber.clean(echoed).startswith(cut)


def test_end_that_may_begin_a_secret_is_left_out() -> None:
    secret = "canary-token-0001"
    cleaned = Scrubber((secret,)).clean(b"x" * 200 + secret[:10].encode(), whole=False)
    assert b"canary" not in cleaned
    assert cleaned.startswith(b"x" * 100)


def test_every_secret_of_a_target_is_known() -> None:
    signing = "whsec_" + base64.b64encode(b"k" * 24).decode()
    http = HttpTarget(
        url="example.com",
        headers={"X-Api-Key": "canary-key", "X-Mine": "canary-mine", "X-Seen": "seen", "Cookie": "sid=canary-sid"},
        secret_headers=("x-mine",),
        auth=BasicAuth(username="me", password="canary-password"),
        signing_secrets=(signing,),
    )
    basic = base64.b64encode(b"me:canary-password").decode()
    said = f"canary-key canary-mine seen sid=canary-sid canary-password {basic} {signing} {signing[6:]}"
    assert scrubber_of(http).clean_text(said) == "*** *** seen *** *** *** *** ***"
    bearer = HttpTarget(url="example.com", auth=BearerAuth(token="canary-token"))
    assert scrubber_of(bearer).clean_text("Bearer canary-token") == "Bearer ***"
    header = HttpTarget(url="example.com", headers={"Authorization": "Bearer canary-token"})
    assert scrubber_of(header).clean_text("canary-token") == "***"
    latin = HttpTarget(url="example.com", headers={"X-Api-Key": "clé-canary"})
    assert scrubber_of(latin).clean("clé-canary".encode("latin-1") + "clé-canary".encode()) == b"******"
    cookies = HttpTarget(url="example.com", headers={"Cookie": "a=1; sid=canary-sid"})
    assert scrubber_of(cookies).clean_text('{"a": "1", "sid": "canary-sid"}') == '{"a": "1", "sid": "***"}'
    amqp = AmqpTarget(connection="amqp://me:p%2Fss@broker")
    assert scrubber_of(amqp).clean_text("p/ss p%2Fss guest") == "*** *** guest"
    assert scrubber_of(HandlerTarget(name="h")).clean_text("anything") == "anything"


def test_message_of_a_failure_is_cleaned_and_a_success_left_alone() -> None:
    target = HttpTarget(url="example.com", auth=BearerAuth(token="canary-token"))
    failed = Failed(code="tls", message="certificate of canary-token", sent=Sent.NOT_SENT, permanent=False)
    cleaned = scrubbed(failed, target)
    assert isinstance(cleaned, Failed)
    assert cleaned.message == "certificate of ***"
    done = Succeeded(response_status=200)
    assert scrubbed(done, target) is done
