"""Sets up a libcurl handle for one HTTP attempt."""

import base64
import ssl
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import assert_never

import certifi
import pycurl

from gnomon.job.secret import revealed
from gnomon.job.signing import signature_headers
from gnomon.job.target import BasicAuth, BearerAuth, HttpTarget
from gnomon.worker.executors import Call

# Servers hang up on idle connections after 2 s (gunicorn), 5 s (node, uvicorn, Apache) or more. A job that runs at just
# that interval would meet the closing connection again and again; after a second a new one costs nothing.
IDLE_CONNECTION_SECONDS = 1
CONNECT_TIMEOUT = timedelta(seconds=10)  # name lookup and TLS handshake included; three SYNs are lost by then
KEEPALIVE_SECONDS = 15

WITH_CONTENT = ("POST", "PUT", "PATCH")  # RFC 9110, 8.6: these send Content-Length: 0 when there is no body


class Deadline:
    """When an attempt must be over; the clock starts with the object. Seconds.

    An attempt has one leg, and one more for each redirect.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._began = self._leg_began = time.monotonic()
        self._timeout = timeout.total_seconds()

    def begin_leg(self) -> None:
        """Another connection is to be made."""
        self._leg_began = time.monotonic()

    def elapsed(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def seconds_left(self, limit: timedelta | None = None) -> float:
        """Until the deadline, and no more than the limit counted from the leg's beginning; may be negative."""
        left = self._timeout - self.elapsed()
        return left if limit is None else min(left, limit.total_seconds() - (time.monotonic() - self._leg_began))


def default_ca_file() -> str:
    """The system's certificate bundle (or SSL_CERT_FILE), else certifi's.

    pycurl's wheels look for /etc/pki/tls/certs/ca-bundle.crt, which Debian does not have.
    """
    return ssl.get_default_verify_paths().cafile or certifi.where()


def prepare(curl: pycurl.Curl, target: HttpTarget, call: Call, *, user_agent: str, ca_file: str) -> None:
    """Set what the request says and how it travels. The handle must be new or reset."""
    curl.setopt(pycurl.URL, target.url)
    curl.setopt(pycurl.PATH_AS_IS, 1)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.PROXY, "")  # not even one named by the environment
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.CAINFO, ca_file)
    _set_connection(curl, call)
    _set_method(curl, target)
    curl.setopt(pycurl.HTTPHEADER, header_lines(target, call, user_agent))


def limit_time(curl: pycurl.Curl, deadline: Deadline) -> None:
    """Have libcurl give up at the deadline, or earlier when no connection comes about."""
    curl.setopt(pycurl.TIMEOUT_MS, _milliseconds(deadline.seconds_left()))
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, _milliseconds(deadline.seconds_left(CONNECT_TIMEOUT)))


def header_lines(target: HttpTarget, call: Call, user_agent: str) -> list[bytes]:
    """The request's headers in libcurl's notation: "name:" takes away a default, "name;" sends an empty value."""
    lines = dict(_own_lines(user_agent))
    if target.auth is not None:
        lines["authorization"] = _header_line("Authorization", authorization(target.auth))
    for name, secret in target.headers.items():
        lines[name.lower()] = _header_line(name, revealed(secret))
    given = call.headers()
    if target.signing_secrets:
        given |= _signature(target, call)
    for name, value in given.items():
        lines[name.lower()] = _header_line(name, value)
    return list(lines.values())


@lru_cache(maxsize=8)
def _own_lines(user_agent: str) -> Mapping[str, bytes]:
    """By names in lower case: a job may give its own. `Expect` and `Content-Type` are libcurl's defaults."""
    own = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
    lines = {name.lower(): _header_line(name, value) for name, value in own.items()}
    return {**lines, "expect": b"Expect:", "content-type": b"Content-Type:"}


def _signature(target: HttpTarget, call: Call) -> dict[str, str]:
    """The id stays the same when the call is tried again; the time does not, or a late attempt would be too old."""
    return signature_headers(
        [*map(revealed, target.signing_secrets)],
        message_id=str(call.execution_id),
        timestamp=int(time.time()),
        body=body_of(target),
    )


def body_of(target: HttpTarget) -> bytes:
    """What is sent."""
    return (target.body or "").encode()


def authorization(auth: BasicAuth | BearerAuth) -> str:
    """The value of the Authorization header."""
    match auth:
        case BasicAuth():
            return f"Basic {base64.b64encode(f'{auth.username}:{revealed(auth.password)}'.encode()).decode()}"
        case BearerAuth():
            return f"Bearer {revealed(auth.token)}"
        case _:
            assert_never(auth)


def _header_line(name: str, value: str) -> bytes:
    value = value.strip(" \t")
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def _set_connection(curl: pycurl.Curl, call: Call) -> None:
    curl.setopt(pycurl.TCP_KEEPALIVE, 1)
    curl.setopt(pycurl.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    curl.setopt(pycurl.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    curl.setopt(pycurl.MAXAGE_CONN, IDLE_CONNECTION_SECONDS)
    if call.fresh_connection:
        curl.setopt(pycurl.FRESH_CONNECT, 1)
        curl.setopt(pycurl.FORBID_REUSE, 1)


def _set_method(curl: pycurl.Curl, target: HttpTarget) -> None:
    body = body_of(target)
    if target.method == "HEAD":
        curl.setopt(pycurl.NOBODY, 1)
    elif body or target.method in WITH_CONTENT:
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.CUSTOMREQUEST, target.method)
    elif target.method != "GET":
        curl.setopt(pycurl.CUSTOMREQUEST, target.method)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1_000))  # to libcurl 0 means no limit at all
