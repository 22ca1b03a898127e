"""Where a redirect leads, and what of the request goes along."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.job.target import BasicAuth, HttpTarget
from gnomon.worker.executors.redirect import REDIRECTS, NotFollowed, followed

SECRETS = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "k"}
HARMLESS = {"Accept": "text/plain", "User-Agent": "mine"}


def target(url: str = "https://a.example/start", **fields: Any) -> HttpTarget:
    return HttpTarget(url=url, **fields)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/next", "https://a.example/next"),
        ("next?a=b", "https://a.example/next?a=b"),
        ("//b.example/next", "https://b.example/next"),
        ("https://b.example:8443/next#part", "https://b.example:8443/next"),
        ("", "https://a.example/start"),
        ("?page=2", "https://a.example/start?page=2"),
        ("HTTPS://A.example/x", "https://A.example/x"),
    ],
)
def test_location_is_read_relative_to_the_request(location: str, url: str) -> None:
    assert followed(target(method="GET"), 302, [location]).url == url


@pytest.mark.parametrize(
    "location",
    [
        "http://a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "localhost:8080/x",
        "https://user:password@b.example/",
        "https://b.example\\@c.example/",
        "/a b",
        "/a\tb",
        "/a\x00b",
        "/\u00e9",
        "https://127.1/",
        "https://2130706433/",
        "https://169.254.169.254/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::1/",
        "https://b.example:0/",
        "https://b.example:99999/",
        "https://b.example:x/",
        "https://b.example:/",
        "https:///b.example/",
        "///b.example/",
        "https:/b.example/",
        "https:b.example",
        "//",
        "https://b%2eexample/",
        "/" + "a" * 3000,
    ],
)
def test_redirect_to_what_no_job_could_name_is_not_followed(location: str) -> None:
    with pytest.raises(NotFollowed) as refused:
        followed(target(method="GET"), 302, [location])
    assert len(str(refused.value)) < 300


def test_redirect_to_several_places_is_not_followed() -> None:
    with pytest.raises(NotFollowed, match="several places"):
        followed(target(), 302, ["/a", "/b"])
    assert followed(target(), 302, ["/a", "/a"]).url == "https://a.example/a"


@pytest.mark.parametrize(
    ("status", "method", "afterwards"),
    [
        *((status, "GET", "GET") for status in sorted(REDIRECTS)),
        *((status, "HEAD", "HEAD") for status in sorted(REDIRECTS)),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (302, "DELETE", "DELETE"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (307, "PATCH", "PATCH"),
    ],
)
def test_method_and_body_change_as_rfc_9110_has_it(status: int, method: str, afterwards: str) -> None:
    body = None if method in ("GET", "HEAD") else "{}"
    headers = {"Content-Type": "application/json", "Digest": "x", "X-Mine": "y"}
    following = followed(target(method=method, body=body, headers=headers), status, ["/next"])

    kept = afterwards == method and method not in ("GET", "HEAD")
    assert (following.method, following.body) == (afterwards, body if kept else None)
    assert following.headers["X-Mine"] == "y"
    if afterwards != method:
        assert following.headers == {"X-Mine": "y"}


@pytest.mark.parametrize(
    ("before", "after", "trusted"),
    [
        ("https://a.example/x", "https://a.example/y", True),
        ("https://a.example/x", "https://A.EXAMPLE:443/y", True),
        ("http://a.example/x", "https://a.example/y", True),  # the same host, made secure
        ("http://a.example:8080/x", "https://a.example:8443/y", False),
        ("http://a.example/x", "https://a.example:8443/y", False),
        ("https://a.example/x", "https://a.example:8443/y", False),
        ("https://a.example/x", "https://b.a.example/y", False),
        ("https://a.example/x", "https://a.example./y", False),
        ("https://b.a.example/x", "https://a.example/y", False),
    ],
)
def test_credentials_stay_with_their_origin(before: str, after: str, trusted: bool) -> None:
    by_header = followed(target(before, method="GET", headers={**SECRETS, **HARMLESS}), 307, [after])
    assert by_header.headers == ({**SECRETS, **HARMLESS} if trusted else HARMLESS)

    auth = BasicAuth(username="u", password="p")
    by_auth = followed(target(before, method="GET", auth=auth), 307, [after])
    assert by_auth.auth == (auth if trusted else None)
    if not trusted and before.startswith("https"):
        assert followed(by_auth, 307, [before]).auth is None, "they do not come back"


def test_what_a_job_says_is_secret_stays_with_its_origin_and_so_does_its_signature() -> None:
    signed = target(
        method="GET",
        headers={"User-Agent": "a secret", "Content-Mine": "another", "Accept": "a/b"},
        secret_headers=("user-agent", "Content-Mine"),
        signing_secrets=("whsec_" + "A" * 32,),
    )
    stranger = followed(signed, 307, ["https://b.example/"])
    assert (stranger.headers, stranger.secret_headers, stranger.signing_secrets) == ({"Accept": "a/b"}, (), ())

    at_home = followed(signed, 303, ["/next"])
    assert (at_home.secret_headers, at_home.signing_secrets) == (("user-agent",), signed.signing_secrets)


@pytest.mark.parametrize("status", [307, 308])
def test_body_goes_to_no_other_origin(status: int) -> None:
    posted = target(method="POST", body="{}")

    with pytest.raises(NotFollowed, match="body to another origin"):
        followed(posted, status, ["https://b.example/"])
    assert followed(posted, status, ["https://a.example/next"]).body == "{}"
    assert followed(target(method="POST"), status, ["https://b.example/"]).method == "POST"
    assert followed(posted, 303, ["https://b.example/"]).body is None


@given(st.text(max_size=60), st.sampled_from(sorted(REDIRECTS)))
def test_any_location_is_a_target_or_not_followed(location: str, status: int) -> None:
    try:
        following = followed(target(method="GET"), status, [location])
    except NotFollowed:
        return
    assert following.url.startswith("https://")
