"""The web server against clients that are slow, silent, wrong, or there when it stops."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from servers.api_server import IDLE, READ, SHUTDOWN, WRITE, ApiServer
from support.api import HOURLY

from gnomon.embedded.postgres import EmbeddedPostgres

LATE = 0.8  # seconds a busy machine may add
POST = b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def server(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One for the tests whose requests don't reach the database, nor stop it."""
    with ApiServer(postgres.url_of("postgres"), tmp_path_factory.mktemp("api")) as started:
        yield started


@pytest.fixture
def own_server(database_url: str, tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(database_url, tmp_path) as started:
        yield started


def answer_of(client: socket.socket) -> tuple[bytes, float]:
    """All that comes until the server closes, and after how many seconds it did."""
    started = time.monotonic()
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(2**20):
            received += block
    return received, time.monotonic() - started


def problem_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    found: dict[str, Any] = json.loads(body)
    return found


def test_jobs_are_served_from_a_child_with_connections_of_its_own(own_server: ApiServer) -> None:
    with requests.Session() as session:
        url = f"http://127.0.0.1:{own_server.port}"
        assert session.get(f"{url}/parent").text == str(own_server.pid)
        location = session.post(f"{url}/v1/jobs", json=HOURLY).headers["Location"]
        assert session.get(url + location).json()["cron_schedule"] == "@hourly"


def test_silent_connection_is_closed_when_the_request_should_be_there(server: ApiServer) -> None:
    with server.connect() as client:
        answer, seconds = answer_of(client)
    assert answer == b""
    assert READ - 0.1 <= seconds <= READ + LATE


@pytest.mark.parametrize("sent", [b"GET /health HT", POST])
def test_head_that_does_not_end_is_dropped_at_the_read_timeout(server: ApiServer, sent: bytes) -> None:
    with server.connect() as client:
        client.sendall(sent)
        answer, seconds = answer_of(client)
    assert answer == b""
    assert READ - 0.1 <= seconds <= READ + LATE
    assert "ERROR" not in server.log()


def test_head_that_trickles_is_dropped_at_the_read_timeout(server: ApiServer) -> None:
    started = time.monotonic()
    with server.connect() as client, contextlib.suppress(OSError):
        for byte in POST * 100:
            client.sendall(bytes([byte]))
            time.sleep(0.05)
    assert READ - 0.1 <= time.monotonic() - started <= READ + 1 + LATE  # it lingers for a second


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
def test_body_that_does_not_end_is_told_so_at_the_read_timeout(server: ApiServer, framing: bytes) -> None:
    with server.connect() as client:
        client.sendall(POST + framing)
        answer, seconds = answer_of(client)
    assert problem_of(answer)["status"] == 408
    assert READ - 0.1 <= seconds <= READ + LATE


def test_read_timeout_begins_anew_with_each_request(server: ApiServer) -> None:
    with server.connect() as client:
        for _ in range(3):
            client.sendall(GET[:10])
            time.sleep(READ * 0.6)
            client.sendall(GET[10:])
            received = b""
            while not received.endswith(b'{"status":"ok"}\n'):
                received += (block := client.recv(10_000))
                assert block, received


def test_slow_answer_is_not_cut_by_the_read_timeout(server: ApiServer) -> None:
    response = requests.get(f"http://127.0.0.1:{server.port}/slow?seconds={READ * 2}", timeout=10)
    assert response.text == "late"


def test_client_that_does_not_take_the_answer_is_dropped_at_the_write_timeout(server: ApiServer) -> None:
    with server.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(WRITE + 1 + LATE)
        answer, _ = answer_of(client)
    assert len(answer) < 2**26
    assert "ERROR" not in server.log()


def test_client_that_takes_a_large_answer_gets_all_of_it(server: ApiServer) -> None:
    response = requests.get(f"http://127.0.0.1:{server.port}/large", timeout=10)
    assert len(response.content) == 2**26


def test_kept_alive_connection_is_closed_at_the_idle_timeout(server: ApiServer) -> None:
    with server.connect() as client:
        client.sendall(GET)
        answer, seconds = answer_of(client)
    assert b"200 OK" in answer
    assert IDLE - 0.1 <= seconds <= IDLE + LATE


def test_silent_connections_hold_no_threads(server: ApiServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(server.connect())
        started = time.monotonic()
        assert requests.get(f"http://127.0.0.1:{server.port}/health/live", timeout=5).ok
        assert time.monotonic() - started < LATE


def test_client_that_does_not_close_holds_up_nobody(server: ApiServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(server.connect())
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        started = time.monotonic()
        assert requests.get(f"http://127.0.0.1:{server.port}/health/live", timeout=5).ok
        assert time.monotonic() - started < LATE


def test_endless_chunked_body_is_cut_at_the_limit(server: ApiServer) -> None:
    sent = 0
    with server.connect() as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 2**27:
                client.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                sent += 65_536
    assert sent < 2**27


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"Content-Length: 262145\r\n\r\n" + b" " * 262_145, 413),
        (b"Transfer-Encoding: chunked\r\n\r\n40001\r\n" + b" " * 262_145 + b"\r\n0\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 422),
        (b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}!!", 400),
    ],
)
def test_body_is_judged_however_it_is_framed(server: ApiServer, body: bytes, status: int) -> None:
    with server.connect() as client:
        client.sendall(POST + body)
        answer, _ = answer_of(client)
    assert problem_of(answer)["status"] == status


def test_body_that_breaks_off_creates_nothing(own_server: ApiServer) -> None:
    body = json.dumps(HOURLY).encode()
    with own_server.connect() as client:
        client.sendall(POST + b"Content-Length: %d\r\n\r\n" % (len(body) + 10) + body)
        client.shutdown(socket.SHUT_WR)
        answer, _ = answer_of(client)
    assert problem_of(answer)["status"] == 400
    assert requests.get(f"http://127.0.0.1:{own_server.port}/jobs", timeout=5).json() == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: canary\r\n\r\n", 501),
        (b"GET /canary\x7f HTTP/1.1 canary\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_is_a_problem_that_quotes_nothing(
    server: ApiServer, request_bytes: bytes, status: int
) -> None:
    with server.connect() as client:
        client.sendall(request_bytes)
        answer, _ = answer_of(client)
    document = problem_of(answer)
    assert document["status"] == status
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"canary" not in answer
    assert f"X-Request-Id: {document['request_id']}".encode() in answer


def test_client_on_this_machine_can_not_say_by_a_header_what_its_path_is(server: ApiServer) -> None:
    with server.connect() as client:
        client.sendall(GET[:-2] + b"SCRIPT_NAME: /health\r\nPATH_INFO: /parent\r\nConnection: close\r\n\r\n")
        answer, _ = answer_of(client)
    assert answer.endswith(b'{"status":"ok"}\n')


def test_requests_under_way_end_when_the_server_is_stopped(own_server: ApiServer) -> None:
    with own_server.connect() as client, own_server.connect() as idle:
        idle.sendall(GET)
        client.sendall(b"GET /slow?seconds=1.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        own_server.wait_for_slow_request()
        own_server.terminate()
        answer, _ = answer_of(client)
        assert b"200 OK" in answer
        assert answer.endswith(b"late")
    assert own_server.wait() == 0
    with pytest.raises(OSError, match="refused"):
        own_server.connect()


def test_request_that_takes_too_long_is_cut_when_the_server_is_stopped(own_server: ApiServer) -> None:
    with own_server.connect() as client:
        client.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: a\r\n\r\n")
        own_server.wait_for_slow_request()
        started = time.monotonic()
        own_server.terminate()
        answer, _ = answer_of(client)
        assert answer == b""
        own_server.wait()
    assert SHUTDOWN - 0.5 <= time.monotonic() - started <= SHUTDOWN + 2


def test_log_is_the_process_own_and_has_no_requests(own_server: ApiServer) -> None:
    requests.get(f"http://127.0.0.1:{own_server.port}/health/live", timeout=5)
    own_server.terminate()
    own_server.wait()
    lines = own_server.log().splitlines()
    assert lines
    assert all(line.startswith("INFO gunicorn.error ") for line in lines), lines
    assert not [line for line in lines if "health" in line]
