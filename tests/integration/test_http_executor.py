"""The HTTP executor against real sockets: what arrives at the target, and how every way to fail is told."""

import asyncio
import base64
import contextlib
import gzip
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from servers.certificates import Certificate, self_signed
from servers.target import Connection, Target, answer, drip, flood, hang, raw, reset, sequence
from support.calls import LOOPS, callers, make_call, unchecked

from gnomon.job.address import EgressPolicy, Server
from gnomon.job.errors import ConfigurationError
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import METHODS, BasicAuth, BearerAuth, HttpTarget
from gnomon.worker.executors import Call
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.premises import Premises

LOOPBACK = EgressPolicy.parse(["127.0.0.0/8"])
CANARY = "canary-7f3a"
DEADLINE = timedelta(seconds=0.3)


class Caller:
    """An executor on a loop of its own. Calling it makes one attempt."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop], **settings: Any) -> None:
        self.runner = asyncio.Runner(loop_factory=loop_factory)
        self.executor = HttpExecutor(**{"policy": LOOPBACK, **settings})

    def __call__(self, url: str, **fields: Any) -> Outcome:
        return self.runner.run(self.attempt(url, **fields))

    def call_unchecked(self, url: str) -> Outcome:
        return self.runner.run(self.executor.execute(unchecked(url), make_call()))

    async def attempt(self, url: str, **fields: Any) -> Outcome:
        call = make_call(**{name: fields.pop(name) for name in list(fields) if name in Call.__dataclass_fields__})
        return await self.executor.execute(HttpTarget(url=url, **fields), call)

    def close(self) -> None:
        self.runner.run(self.executor.aclose())
        self.runner.close()


@pytest.fixture(params=LOOPS)
def make_caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    with callers(partial(Caller, LOOPS[request.param])) as make:
        yield make


@pytest.fixture
def caller(make_caller: Callable[..., Caller]) -> Caller:
    return make_caller()


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as server:
        yield server


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


def succeeded(outcome: Outcome) -> Succeeded:
    assert isinstance(outcome, Succeeded), outcome
    return outcome


def check_failure(outcome: Outcome, code: str, sent: Sent, *, permanent: bool = False) -> Failed:
    failure = failed(outcome)
    assert (failure.code, failure.sent, failure.permanent) == (code, sent, permanent), failure
    assert CANARY not in failure.message
    return failure


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


# What arrives


@pytest.mark.parametrize("method", METHODS)
def test_every_method_arrives_without_a_body(caller: Caller, target: Target, method: str) -> None:
    outcome = caller(target.url("/path?a=1&b=%20"), method=method)

    assert succeeded(outcome) == Succeeded(response_status=200, response_excerpt=None if method == "HEAD" else "ok")
    (request,) = target.requests
    assert (request.method, request.path, request.body) == (method, "/path?a=1&b=%20", b"")
    assert request.header("Content-Length") == ("0" if method in ("POST", "PUT", "PATCH") else None)
    assert request.header("Content-Type") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_that_has_a_body_sends_it(caller: Caller, target: Target, method: str) -> None:
    body = '{"grüße": "✓"}' + "x" * 100_000
    succeeded(caller(target.url(), method=method, body=body))

    (request,) = target.requests
    assert (request.method, request.body) == (method, body.encode())
    assert request.header("Content-Length") == str(len(body.encode()))
    assert request.header("Content-Type") is None
    assert request.header("Expect") is None


def test_headers_tell_which_attempt_of_which_execution_it_is(caller: Caller, target: Target) -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    caller(target.url(), execution_id=UUID(int=7), attempt=3, scheduled_at=moment.astimezone())

    assert dict(target.requests[0].headers) == {
        "Host": f"127.0.0.1:{target.port}",
        "User-Agent": "gnomon/0.1.0",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Idempotency-Key": str(UUID(int=7)),
        "X-Scheduler-Attempt": "3",
        "X-Scheduler-Scheduled-At": "2030-01-02T03:04:05Z",
        "Content-Length": "0",
    }


def test_headers_of_the_job_replace_the_defaults(caller: Caller, target: Target) -> None:
    headers = {
        "user-agent": "mine",
        "ACCEPT": "text/plain",
        "Content-Type": "application/json",
        "X-Empty": "",
        "X-Blank": " \t",
        "X-Latin": "grüße",
    }
    caller(target.url(), headers=headers, body="{}")

    (request,) = target.requests
    for name, value in headers.items():
        assert [given for other, given in request.headers if other.lower() == name.lower()] == [value.strip()]


def test_path_is_sent_as_it_was_written(caller: Caller, target: Target) -> None:
    caller(target.url("/a/../b/./c"))

    assert target.requests[0].path == "/a/../b/./c"


def test_basic_and_bearer_auth_are_sent(caller: Caller, target: Target) -> None:
    caller(target.url(), auth=BasicAuth(username="jürgen", password="p:ss"))
    caller(target.url(), auth=BearerAuth(token="t0ken"))
    caller(target.url())

    basic = base64.b64encode("jürgen:p:ss".encode()).decode()
    assert [request.header("Authorization") for request in target.requests] == [f"Basic {basic}", "Bearer t0ken", None]


def test_netrc_and_proxy_of_the_environment_are_ignored(
    make_caller: Callable[..., Caller], target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    succeeded(make_caller()(target.url()))

    assert target.requests[0].header("Authorization") is None


# What the answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_success(caller: Caller, target: Target, status: int) -> None:
    target.on("/", answer(status, body=b""))

    assert succeeded(caller(target.url())).response_status == status


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        *((code, True) for code in (300, 304, 307, 400, 401, 403, 404, 405, 409, 410, 422, 451)),
        *((code, False) for code in (408, 425, 429, 500, 501, 502, 503, 504, 599)),
    ],
)
def test_other_status_is_a_failure_that_may_be_permanent(
    caller: Caller, target: Target, status: int, permanent: bool
) -> None:
    target.on("/", answer(status, body=b"why"))

    failure = check_failure(caller(target.url(f"/?{CANARY}")), "http_status", Sent.ANSWERED, permanent=permanent)
    assert failure.response_status == status
    assert failure.message == f"127.0.0.1:{target.port} answered {status}"
    assert failure.response_excerpt == (None if status == 304 else "why")


def test_codes_of_the_job_decide_what_is_a_success(caller: Caller, target: Target) -> None:
    target.on("/", sequence(answer(404), answer(200), answer(503)))

    outcomes = [caller(target.url(), valid_response_codes=frozenset({404, 301})) for _ in range(3)]

    assert succeeded(outcomes[0]).response_status == 404
    check_failure(outcomes[1], "http_status", Sent.ANSWERED, permanent=True)
    check_failure(outcomes[2], "http_status", Sent.ANSWERED)


def test_redirect_is_not_followed(caller: Caller, target: Target) -> None:
    target.on("/", answer(302, headers={"Location": target.url("/other")}))

    failure = check_failure(caller(target.url(), method="GET"), "http_status", Sent.ANSWERED, permanent=True)

    assert failure.response_status == 302
    assert [request.path for request in target.requests] == ["/"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0", None), ("-5", None), ("soon", None), ("3601", 3600), ("9" * 20, None)],
)
def test_retry_after_in_seconds(caller: Caller, target: Target, value: str, seconds: int | None) -> None:
    target.on("/", answer(503, headers={"Retry-After": value}))

    expected = None if seconds is None else timedelta(seconds=seconds)
    assert failed(caller(target.url())).retry_after == expected


def test_retry_after_as_a_date(caller: Caller, target: Target) -> None:
    def in_a_while(pause: timedelta) -> Mapping[str, str]:
        return {"Retry-After": format_datetime(datetime.now(UTC) + pause, usegmt=True)}

    pauses = [timedelta(seconds=60), timedelta(days=3), timedelta(days=-1)]
    target.on("/", sequence(*(answer(429, headers=in_a_while(pause)) for pause in pauses)))

    asked = [failed(caller(target.url())).retry_after for _ in pauses]

    assert asked[0] is not None
    assert timedelta(seconds=50) <= asked[0] <= timedelta(seconds=60)
    assert asked[1:] == [timedelta(hours=1), None]


def test_retry_after_of_a_permanent_failure_is_ignored(caller: Caller, target: Target) -> None:
    target.on("/", answer(404, headers={"Retry-After": "7"}))

    assert failed(caller(target.url())).retry_after is None


# What is kept of the answer


def test_excerpt_is_the_beginning_of_the_body_cut_between_characters(
    make_caller: Callable[..., Caller], target: Target
) -> None:
    target.on("/", answer(body="ééé".encode()))

    assert succeeded(make_caller(excerpt_bytes=6)(target.url())).response_excerpt == "ééé"
    assert succeeded(make_caller(excerpt_bytes=5)(target.url())).response_excerpt == "é…"


def test_body_that_is_not_text_is_kept_readable(caller: Caller, target: Target) -> None:
    target.on("/", answer(body=b"a\x00b\xff\xfec\x1b[31m"))

    assert succeeded(caller(target.url())).response_excerpt == "a�b��c�[31m"


def test_secrets_the_target_echoes_are_not_kept(caller: Caller, target: Target) -> None:
    encoded = base64.b64encode(f"me:{CANARY}".encode())
    target.on("/", answer(body=b"x" * 4_090 + CANARY.encode() + b" Basic " + encoded))
    target.on("/bearer", answer(500, body=b"you sent Bearer " + CANARY.encode()))

    basic = succeeded(caller(target.url(), auth=BasicAuth(username="me", password=CANARY))).response_excerpt
    bearer = failed(caller(target.url("/bearer"), auth=BearerAuth(token=CANARY))).response_excerpt

    assert basic == "x" * 4_090 + "*** B…"
    assert bearer == "you sent Bearer ***"


def test_body_of_exactly_the_limit_is_read_and_its_connection_kept(
    make_caller: Callable[..., Caller], target: Target
) -> None:
    caller = make_caller(max_response_bytes=10, excerpt_bytes=10)
    target.on("/", answer(body=b"0123456789"))

    assert [succeeded(caller(target.url())).response_excerpt for _ in range(2)] == ["0123456789"] * 2
    assert target.accepted == 1


def test_longer_body_is_cut_off_and_its_connection_closed(make_caller: Callable[..., Caller], target: Target) -> None:
    caller = make_caller(max_response_bytes=10, excerpt_bytes=100)
    target.on("/", answer(body=b"0123456789a"))

    assert [succeeded(caller(target.url())).response_excerpt for _ in range(2)] == ["012345678…"] * 2
    assert target.accepted == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n"]
)
def test_flood_is_a_success_that_is_cut_off(caller: Caller, target: Target, head: bytes) -> None:
    target.on("/", flood(head=head))

    outcome = succeeded(caller(target.url()))

    assert outcome.response_status == 200
    assert outcome.response_excerpt == "x" * 4_095 + "…"
    target.wait_for(lambda _: target.open_connections == 0)


def test_flood_with_a_wrong_status_fails_by_its_status(caller: Caller, target: Target) -> None:
    target.on("/", flood(head=b"HTTP/1.1 500 Oops\r\n\r\n"))

    assert check_failure(caller(target.url()), "http_status", Sent.ANSWERED).response_status == 500


def test_gzip_is_not_decompressed(caller: Caller, target: Target) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    target.on("/", answer(body=bomb, headers={"Content-Encoding": "gzip"}))

    outcome = succeeded(caller(target.url()))

    assert outcome.response_excerpt is not None
    assert "000" not in outcome.response_excerpt
    assert target.requests[0].header("Accept-Encoding") == "identity"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200\nContent-Length: 2\n\nok",
    ],
)
def test_answer_may_take_any_form_of_http_1(caller: Caller, target: Target, data: bytes) -> None:
    target.on("/", raw(data))

    assert succeeded(caller(target.url())) == Succeeded(response_status=200, response_excerpt="ok")


# Failures before anything was sent


def test_refused_connection(caller: Caller) -> None:
    port = free_port()

    failure = check_failure(caller(f"http://127.0.0.1:{port}/?{CANARY}"), "refused", Sent.NOT_SENT)
    assert failure.message == f"127.0.0.1:{port} could not be reached: connection refused"


def test_name_without_an_address(make_caller: Callable[..., Caller]) -> None:
    failure = check_failure(make_caller(lookup=lambda _host: ())("http://empty.test/"), "dns", Sent.NOT_SENT)

    assert failure.message == "the name 'empty.test' could not be resolved: it has no address"


def test_name_that_does_not_resolve(caller: Caller) -> None:
    failure = check_failure(caller(f"http://nowhere.invalid/{CANARY}"), "dns", Sent.NOT_SENT)

    assert failure.message.startswith("the name 'nowhere.invalid' could not be resolved: ")


def test_next_address_is_tried_when_one_refuses(make_caller: Callable[..., Caller], target: Target) -> None:
    caller = make_caller(lookup=lambda _host: ("127.0.0.2", "::1", "127.0.0.1"))
    target.on("/", answer(close=True))

    for host in ("two.test", "two.test.", "TWO.test"):
        succeeded(caller(target.url(host=host)))
        target.wait_for(lambda _: target.open_connections == 0)

    assert [request.header("Host") for request in target.requests] == [
        f"{host}:{target.port}" for host in ("two.test", "two.test.", "TWO.test")
    ]


def test_host_that_moved_is_looked_up_again_after_a_failure(make_caller: Callable[..., Caller], target: Target) -> None:
    addresses = itertools.chain(["127.0.0.2"], itertools.repeat("127.0.0.1"))
    caller = make_caller(lookup=lambda _host: (next(addresses),))

    check_failure(caller(target.url(host="moved.test")), "refused", Sent.NOT_SENT)
    succeeded(caller(target.url(host="moved.test")))


def test_names_that_hang_hold_up_nobody_else(make_caller: Callable[..., Caller], target: Target) -> None:
    released = threading.Event()

    def lookup(host: str) -> tuple[str, ...]:
        if host.startswith("hang"):
            released.wait(10)
        return ("127.0.0.1",)

    caller = make_caller(lookup=lookup)

    async def call_all() -> tuple[Outcome, list[Outcome]]:
        hanging = [
            asyncio.ensure_future(caller.attempt(target.url(host=f"hang-{n}.test"), timeout=DEADLINE))
            for n in range(60)
        ]
        await asyncio.sleep(0)
        good = await caller.attempt(target.url(host="good.test"))
        return good, await asyncio.gather(*hanging)

    good, hung = caller.runner.run(call_all())
    released.set()

    succeeded(good)
    for outcome in hung:
        failure = check_failure(outcome, "timeout", Sent.NOT_SENT)
        assert failure.message.endswith(" s looking up its name")


def test_closing_does_not_wait_for_a_name(make_caller: Callable[..., Caller]) -> None:
    asked, released = threading.Event(), threading.Event()

    def lookup(_host: str) -> tuple[str, ...]:
        asked.set()
        released.wait(10)
        return ()

    caller = make_caller(lookup=lookup)

    async def close_meanwhile() -> Outcome:
        task = asyncio.ensure_future(caller.attempt("http://hang.test/"))
        await asyncio.to_thread(asked.wait, 10)
        await caller.executor.aclose()
        return await task

    check_failure(caller.runner.run(close_meanwhile()), "cancelled", Sent.NOT_SENT)
    assert not released.is_set()
    released.set()


def test_connection_that_never_comes_about(caller: Caller) -> None:
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)  # one connection fills its queue; the kernel drops what comes after
        stack.enter_context(socket.create_connection(server.getsockname()))

        failure = check_failure(
            caller(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=DEADLINE), "timeout", Sent.NOT_SENT
        )
    assert failure.message.endswith(" s connecting")


def test_reset_before_the_request_was_read(caller: Caller, target: Target) -> None:
    async def hang_up(connection: Connection) -> None:
        connection.reset()

    target.on_connect(hang_up)

    failure = failed(caller(target.url()))

    assert failure.code in ("reset", "refused")
    assert failure.sent in (Sent.NOT_SENT, Sent.MAYBE_SENT)  # the kernel may have taken the request before the RST came
    assert not target.requests


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    try:
        return self_signed(tmp_path_factory.mktemp("tls"))
    except ConfigurationError as error:
        pytest.skip(str(error))


def test_https_target_with_a_trusted_certificate(make_caller: Callable[..., Caller], certificate: Certificate) -> None:
    caller = make_caller(ca_file=str(certificate.certificate))
    with Target(tls=certificate.server_context()) as target:
        assert succeeded(caller(target.url(), body="over TLS")).response_status == 200
        assert succeeded(caller(target.url(host="localhost"))).response_status == 200
        assert target.requests[0].body == b"over TLS"


def test_certificate_nobody_trusts(caller: Caller, certificate: Certificate) -> None:
    with Target(tls=certificate.server_context()) as target:
        failure = check_failure(caller(target.url(f"/{CANARY}")), "tls", Sent.NOT_SENT)

        assert not target.requests
    assert "self-signed certificate" in failure.message


def test_certificate_for_another_name(
    make_caller: Callable[..., Caller], tmp_path: Path, certificate: Certificate
) -> None:
    other = self_signed(tmp_path, names="DNS:other.example")
    caller = make_caller(ca_file=str(other.certificate))
    with Target(tls=other.server_context()) as target:
        check_failure(caller(target.url(f"/{CANARY}")), "tls", Sent.NOT_SENT)

        assert not target.requests


def test_https_url_of_a_server_that_speaks_plain_http(caller: Caller, target: Target) -> None:
    async def speak(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    target.on_connect(speak)

    check_failure(caller(target.url().replace("http:", "https:")), "tls", Sent.NOT_SENT)


def test_reset_in_the_tls_handshake(caller: Caller, target: Target) -> None:
    async def hang_up(connection: Connection) -> None:
        await connection.reader.read(1)
        connection.reset()

    target.on_connect(hang_up)

    check_failure(caller(target.url().replace("http:", "https:")), "tls", Sent.NOT_SENT)


def test_hang_in_the_tls_handshake(caller: Caller, target: Target) -> None:
    target.on_connect(Connection.until_gone)

    failure = check_failure(caller(target.url().replace("http:", "https:"), timeout=DEADLINE), "timeout", Sent.NOT_SENT)
    assert failure.message.endswith("in the TLS handshake")


# Failures after the request was sent


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (reset(), "reset"),
        (raw(b""), "reset"),
        (raw(b"HTTP/1.1 20"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\n"), "reset"),
        (reset(after=b"HTTP/1.1 200 OK\r\n"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nX-Half: "), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "reset"),
        (reset(after=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), "reset"),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "bad_response"),
        (raw(b"garbage\r\n\r\n"), "bad_response"),
        (raw(b"\x00\x01\x02\x03" * 100), "bad_response"),
        (raw(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n"), "bad_response"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "bad_response"),
        (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nx"), "bad_response"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n"), "response_too_large"),
        (raw(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 1_000 + b"\r\n") * 1_000 + b"\r\n"), "response_too_large"),
        (flood(head=b"HTTP/1.1 200 OK\r\n", piece=b"X: " + b"a" * 1_000 + b"\r\n"), "response_too_large"),
    ],
)
def test_broken_answer_leaves_open_whether_the_target_acted(
    caller: Caller, target: Target, behaviour: Callable[..., Any], code: str
) -> None:
    target.on("/", behaviour)

    failure = check_failure(caller(target.url(f"/?{CANARY}"), body=CANARY), code, Sent.MAYBE_SENT)

    assert f"127.0.0.1:{target.port}" in failure.message
    assert len(target.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "phase"),
    [
        (hang(), "before any answer"),
        (raw(b"HTTP/1.1 200 OK\r\n", then="hang"), "in the middle of its answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", then="hang"), "in the middle of its answer"),
        (drip(b"x", every=0.02), "in the middle of its answer"),
        (drip(b"X: y\r\n", every=0.02, head=b"HTTP/1.1 200 OK\r\n"), "in the middle of its answer"),
        (drip(b"HTTP/1.1 102 Processing\r\n\r\n", every=0.02, head=b""), "in the middle of its answer"),
    ],
)
def test_deadline_is_for_the_whole_attempt(
    caller: Caller, target: Target, behaviour: Callable[..., Any], phase: str
) -> None:
    target.on("/", behaviour)
    began = time.monotonic()

    failure = check_failure(caller(target.url(f"/?{CANARY}"), timeout=DEADLINE), "timeout", Sent.MAYBE_SENT)

    assert 0.29 <= time.monotonic() - began < 5
    assert re.fullmatch(rf"gave up on 127\.0\.0\.1:{target.port} after \d\.\d s {phase}", failure.message)
    target.wait_for(lambda _: target.open_connections == 0)


# Redirects


def to(url: str, status: int = 302, **more: Any) -> Any:
    return answer(status, headers={"Location": url}, **more)


def test_redirects_are_followed_as_far_as_the_job_says(caller: Caller, target: Target) -> None:
    for number in range(6):
        target.on(f"/{number}", to(f"/{number + 1}"))
    target.on("/6", answer(404))

    assert succeeded(caller(target.url("/4"), follow_redirects=2, valid_response_codes=frozenset({404})))
    failure = check_failure(caller(target.url("/2"), follow_redirects=3), "http_status", Sent.ANSWERED, permanent=True)
    assert failure.message == f"127.0.0.1:{target.port} answered 302 (after 3 redirects)"
    check_failure(caller(target.url("/1"), follow_redirects=5), "http_status", Sent.ANSWERED, permanent=True)

    assert [request.path for request in target.requests] == [
        *("/4", "/5", "/6"),
        *("/2", "/3", "/4", "/5"),
        *("/1", "/2", "/3", "/4", "/5", "/6"),
    ]


def test_redirect_that_the_job_takes_for_a_success_is_not_followed(caller: Caller, target: Target) -> None:
    target.on("/", to("/next"))

    outcome = caller(target.url(), follow_redirects=5, valid_response_codes=frozenset({200, 302}))

    assert succeeded(outcome).response_status == 302
    assert len(target.requests) == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_other_3xx_and_a_redirect_to_nowhere_are_judged_by_their_status(
    caller: Caller, target: Target, status: int
) -> None:
    target.on("/", to("/next", status))
    target.on("/nowhere", answer(302))

    for path in ("/", "/nowhere"):
        check_failure(caller(target.url(path), follow_redirects=5), "http_status", Sent.ANSWERED, permanent=True)
    assert [request.path for request in target.requests] == ["/", "/nowhere"]


def test_request_that_follows_bears_the_same_execution(caller: Caller, target: Target) -> None:
    target.on("/", to("/next", 307))

    succeeded(caller(target.url(), body="{}", execution_id=UUID(int=7), follow_redirects=1))

    assert [(request.method, request.key, request.body) for request in target.requests] == [
        ("POST", str(UUID(int=7)), b"{}")
    ] * 2


def test_credentials_go_to_no_other_origin(caller: Caller, target: Target) -> None:
    auth = BasicAuth(username="me", password=CANARY)
    with Target() as other:
        target.on("/", to(target.url("/here"), 307))
        target.on("/here", to(other.url("/there"), 307))
        outcome = caller(
            target.url(), method="GET", auth=auth, headers={"X-Api-Key": CANARY, "Accept": "a/b"}, follow_redirects=5
        )

        succeeded(outcome)
        (stranger,) = other.requests
    assert [request.header("Authorization") is not None for request in target.requests] == [True, True]
    assert CANARY not in str(stranger)
    assert base64.b64encode(f"me:{CANARY}".encode()).decode() not in str(stranger)
    assert stranger.header("Accept") == "a/b"


def test_secret_that_a_redirect_carries_along_is_not_kept(caller: Caller, target: Target) -> None:
    target.on("/", to(f"/next?{CANARY}"))
    target.on("/next", answer(500, body=CANARY.encode()))

    failure = check_failure(
        caller(target.url(), auth=BearerAuth(token=CANARY), follow_redirects=1), "http_status", Sent.ANSWERED
    )

    assert failure.response_excerpt == "***"


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/"])
def test_redirect_to_a_closed_address_is_an_answer_that_leads_nowhere(
    make_caller: Callable[..., Caller], target: Target, location: str
) -> None:
    caller = make_caller(policy=EgressPolicy.parse(["open.example"]), lookup=open_or_loopback)
    with Target() as inner:
        target.on("/", to(location.format(port=inner.port)))
        outcome = caller(target.url(host="open.example"), follow_redirects=5)

        check_failure(outcome, "egress_blocked", Sent.ANSWERED, permanent=True)
        assert inner.accepted == 0


def open_or_loopback(host: str) -> tuple[str, ...]:
    return {"open.example": ("127.0.0.1",), "localhost": ("127.0.0.1", "::1")}[host]


@pytest.mark.parametrize("location", ["http://169.254.169.254/", "ftp://a.example/", "http://user:pw@a.example/", "//"])
def test_redirect_to_what_no_job_could_name_is_a_failure_for_good(
    caller: Caller, target: Target, location: str
) -> None:
    target.on("/", to(location, body=b"moved"))

    failure = check_failure(caller(target.url(), follow_redirects=1), "bad_redirect", Sent.ANSWERED, permanent=True)

    assert (failure.response_status, failure.response_excerpt) == (302, "moved")


@pytest.mark.parametrize("behaviour", [reset(), raw(b""), raw(b"HTTP/1.1 200 OK\r\n")])
def test_redirected_request_whose_answer_is_lost_may_have_been_acted_on(
    caller: Caller, target: Target, behaviour: Callable[..., Any]
) -> None:
    target.on("/", to("/next"))
    target.on("/next", behaviour)

    failure = failed(caller(target.url(), follow_redirects=1, fresh_connection=True))

    assert (failure.code, failure.sent) == ("reset", Sent.MAYBE_SENT)


def test_redirect_to_where_nobody_listens_leaves_open_whether_the_first_has_acted(
    caller: Caller, target: Target
) -> None:
    target.on("/", to(f"http://127.0.0.1:{free_port()}/", 303))

    check_failure(caller(target.url(), follow_redirects=1), "refused", Sent.MAYBE_SENT)


def test_deadline_is_for_all_requests_together(caller: Caller, target: Target) -> None:
    for number in range(5):
        target.on(f"/{number}", to(f"/{number + 1}", delay=0.2))

    began = time.monotonic()
    failure = check_failure(
        caller(target.url("/0"), timeout=timedelta(seconds=0.5), follow_redirects=5), "timeout", Sent.MAYBE_SENT
    )

    assert 0.49 <= time.monotonic() - began < 5
    assert "after 2 redirects" in failure.message
    assert len(target.requests) == 3


def test_redirect_with_a_body_without_end_is_followed(caller: Caller, target: Target) -> None:
    target.on("/", flood(head=b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n"))

    succeeded(caller(target.url(), follow_redirects=1))

    target.wait_for(lambda _: target.open_connections == 1)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 103 Early Hints\r\nLocation: /next\r\n\r\nHTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nTrailer: Location\r\n\r\n0\r\nLocation: /next\r\n\r\n",
    ],
    ids=["informational", "trailer"],
)
def test_location_counts_in_the_head_of_the_answer_alone(caller: Caller, target: Target, head: bytes) -> None:
    target.on("/", raw(head))

    check_failure(caller(target.url(), follow_redirects=1), "http_status", Sent.ANSWERED, permanent=True)


# The egress guard


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
def test_loopback_is_blocked_however_it_is_spelt(make_caller: Callable[..., Caller], target: Target, host: str) -> None:
    caller = make_caller(policy=EgressPolicy())

    failure = check_failure(
        caller.call_unchecked(target.url(f"/{CANARY}", host=host)), "egress_blocked", Sent.NOT_SENT, permanent=True
    )

    assert "must not be called" in failure.message
    assert target.accepted == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "127.1", "localhost"])
def test_opened_loopback_is_called_however_it_is_spelt(caller: Caller, target: Target, host: str) -> None:
    succeeded(caller.call_unchecked(target.url(host=host)))


def test_blocked_message_names_the_setting(make_caller: Callable[..., Caller], target: Target) -> None:
    failure = failed(make_caller(policy=EgressPolicy())(target.url()))

    assert failure.message == (
        f"127.0.0.1:{target.port} must not be called: 127.0.0.1 is a loopback address; "
        "the setting egress-allow can open it"
    )


def test_mapped_loopback_is_blocked_although_loopback_is_open(caller: Caller, target: Target) -> None:
    outcome = caller.call_unchecked(target.url(host="[::ffff:127.0.0.1]"))

    check_failure(outcome, "egress_blocked", Sent.NOT_SENT, permanent=True)
    assert target.accepted == 0


def test_opened_host_name_reaches_a_private_address(make_caller: Callable[..., Caller], target: Target) -> None:
    caller = make_caller(policy=EgressPolicy.parse(["localhost"]))

    succeeded(caller(target.url(host="localhost")))
    check_failure(caller(target.url()), "egress_blocked", Sent.NOT_SENT, permanent=True)


def test_servers_of_our_own_are_refused_although_their_network_is_open(
    make_caller: Callable[..., Caller], target: Target
) -> None:
    premises = Premises([Server("database", "localhost", target.port)])
    premises.look_up()
    caller = make_caller(premises=premises)

    for host in ("127.0.0.1", "localhost"):
        failure = check_failure(caller(target.url(host=host)), "egress_blocked", Sent.NOT_SENT, permanent=True)
        assert "Gnomon's own database" in failure.message
    with Target() as other:
        succeeded(caller(other.url()))
    assert target.accepted == 0


def test_own_machine_is_refused_although_its_network_is_open(
    make_caller: Callable[..., Caller], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.job.address.LOOPBACK_4", IPv4Address("127.255.255.255"))  # else loopback opens it
    caller = make_caller(policy=EgressPolicy.parse(["127.0.0.0/16"]))

    failure = check_failure(caller(target.url()), "egress_blocked", Sent.NOT_SENT, permanent=True)

    assert "127.0.0.1 is the worker's own machine; the setting egress-allow can open it" in failure.message
    succeeded(make_caller(policy=EgressPolicy.parse(["127.0.0.1"]))(target.url()))


def test_port_of_another_protocol_is_refused_until_it_is_opened(
    make_caller: Callable[..., Caller], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.job.address.PORTS", {target.port: "Redis"})

    failure = check_failure(make_caller()(target.url()), "egress_blocked", Sent.NOT_SENT, permanent=True)

    assert f"port {target.port} is that of Redis; the setting egress-allow-ports can open it" in failure.message
    assert target.accepted == 0
    succeeded(make_caller(policy=EgressPolicy.parse(["127.0.0.0/8"], ports=[target.port]))(target.url()))


def test_connection_of_an_opened_host_serves_no_other_host(make_caller: Callable[..., Caller], target: Target) -> None:
    caller = make_caller(policy=EgressPolicy.parse(["open.example"]), lookup=lambda host: ("127.0.0.1",))

    succeeded(caller(target.url(host="open.example")))
    check_failure(caller(target.url(host="closed.example")), "egress_blocked", Sent.NOT_SENT, permanent=True)
    succeeded(caller(target.url(host="open.example")))

    assert (len(target.requests), target.accepted) == (2, 1)


def test_guard_that_fails_refuses(
    caller: Caller, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("guard broken")

    monkeypatch.setattr("gnomon.worker.executors.egress.Gate.admits", explode)

    check_failure(caller(target.url()), "internal_error", Sent.NOT_SENT)
    assert target.accepted == 0
    assert "RuntimeError" in caplog.text
    assert "guard broken" not in caplog.text, "what a library says may be a secret"


def test_reused_connection_is_judged_again(
    caller: Caller, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    succeeded(caller(target.url()))
    monkeypatch.setattr(caller.executor._guard, "_judge", lambda *_: "closed by now")

    failure = check_failure(caller(target.url()), "egress_blocked", Sent.NOT_SENT, permanent=True)

    assert failure.message.endswith("must not be called: closed by now")
    assert (len(target.requests), target.accepted) == (1, 1)


# Connections


def test_connection_is_kept_for_the_next_call(caller: Caller, target: Target) -> None:
    for _ in range(5):
        succeeded(caller(target.url()))

    assert {request.connection for request in target.requests} == {1}


def test_fresh_connection_is_neither_old_nor_kept(caller: Caller, target: Target) -> None:
    for fresh in (False, True, False, True):
        succeeded(caller(target.url(), fresh_connection=fresh))

    assert [request.connection for request in target.requests] == [1, 2, 1, 3]
    target.wait_for(lambda _: target.open_connections == 1)


def test_connection_closed_while_idle_is_replaced(caller: Caller, target: Target) -> None:
    target.on("/", answer(close=True))

    for _ in range(3):
        succeeded(caller(target.url()))
        target.wait_for(lambda _: target.open_connections == 0)

    assert [request.connection for request in target.requests] == [1, 2, 3]


@pytest.mark.parametrize("last_words", [raw(b""), reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_request_is_not_sent_again_when_its_old_connection_dies(
    caller: Caller, target: Target, last_words: Callable[..., Any], method: str
) -> None:
    target.on("/", sequence(answer(), last_words, answer()))
    succeeded(caller(target.url(), method=method))

    check_failure(caller(target.url(), method=method), "resend_refused", Sent.MAYBE_SENT)

    assert len(target.requests) == 2
    succeeded(caller(target.url(), method=method))
    assert len(target.requests) == 3


def test_calls_at_once_each_get_their_own_answer_while_one_hangs(caller: Caller, target: Target) -> None:
    target.on("/hang", hang())
    paths = [f"/{number}" for number in range(300)]
    for path in paths:
        target.on(path, answer(body=path.encode(), delay=0.01))

    async def call_all() -> list[Outcome]:
        hanging = asyncio.ensure_future(caller.attempt(target.url("/hang"), timeout=timedelta(seconds=60)))
        answered = await asyncio.gather(*(caller.attempt(target.url(path)) for path in paths))
        assert not hanging.done()
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        return answered

    answered = caller.runner.run(call_all())

    assert [succeeded(outcome).response_excerpt for outcome in answered] == paths
    assert max(target.keys().values()) == 1


# Cancelling and closing


def test_cancelling_aborts_one_transfer_and_no_other(caller: Caller, target: Target) -> None:
    target.on("/cancelled", drip(b"x", every=0.01))
    target.on("/other", answer(delay=0.5))

    async def cancel_one() -> Outcome:
        doomed = asyncio.ensure_future(caller.attempt(target.url("/cancelled")))
        other = asyncio.ensure_future(caller.attempt(target.url("/other")))
        await asyncio.to_thread(target.wait_for, lambda seen: len(seen) == 2)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        await asyncio.to_thread(target.wait_for, lambda _: target.open_connections == 1)
        assert not other.done()
        return await other

    succeeded(caller.runner.run(cancel_one()))
    succeeded(caller(target.url("/afterwards")))


def test_cancelling_before_the_first_step_sends_nothing(caller: Caller, target: Target) -> None:
    async def cancel_at_once() -> None:
        task = asyncio.ensure_future(caller.attempt(target.url()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    caller.runner.run(cancel_at_once())
    succeeded(caller(target.url()))

    assert len(target.requests) == 1


def test_closing_fails_what_is_under_way(caller: Caller, target: Target) -> None:
    target.on("/", hang())

    async def close_meanwhile() -> Outcome:
        task = asyncio.ensure_future(caller.attempt(target.url()))
        await asyncio.to_thread(target.wait_for, lambda seen: len(seen) == 1)
        await caller.executor.aclose()
        return await task

    check_failure(caller.runner.run(close_meanwhile()), "cancelled", Sent.MAYBE_SENT)
    check_failure(caller(target.url()), "cancelled", Sent.NOT_SENT)
    target.wait_for(lambda _: target.open_connections == 0)


# When libcurl or a callback breaks down


def test_callback_that_raises_strands_nobody(
    caller: Caller, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target.on("/slow", answer(delay=0.2))
    real = caller.executor._guard._judge

    def explode_for_localhost(address: str, port: int, host: str) -> str | None:
        if host == "localhost":
            raise RuntimeError("boom")
        return real(address, port, host)

    monkeypatch.setattr(caller.executor._guard, "_judge", explode_for_localhost)

    async def call_both() -> list[Outcome]:
        urls = [target.url("/slow"), target.url(host="localhost"), target.url("/slow")]
        return await asyncio.gather(*(caller.attempt(url) for url in urls))

    first, broken, last = caller.runner.run(call_both())

    succeeded(first)
    check_failure(broken, "internal_error", Sent.NOT_SENT)
    succeeded(last)


def test_multi_handle_that_breaks_down_is_replaced(
    caller: Caller, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    target.on("/hang", hang())

    async def break_down() -> list[Outcome]:
        calls = [caller.attempt(target.url("/hang")) for _ in range(2)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.to_thread(target.wait_for, lambda seen: len(seen) == 2)
        # What happens when libcurl refuses to go on; a real cause would be a file descriptor gone bad.
        caller.executor._multi.fail("broken")
        return await asyncio.gather(*tasks)

    for outcome in caller.runner.run(break_down()):
        check_failure(outcome, "internal_error", Sent.MAYBE_SENT)
    target.wait_for(lambda _: target.open_connections == 0)
    succeeded(caller(target.url()))
