"""The proxy that tests break links with does what it says."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest
from servers.proxy import Direction, Proxy
from servers.stamp import BLANK, StampingProxy
from support.cluster import wait_until


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # as broken links have it
            for line in self.rfile:
                self.wfile.write(line.upper())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def server() -> Iterator[_Server]:
    """Answers each line in capitals."""
    with _Server(("127.0.0.1", 0), _Echo) as started:
        threading.Thread(target=started.serve_forever, args=(0.02,), daemon=True).start()
        yield started
        started.shutdown()


@pytest.fixture
def link(server: _Server) -> Iterator[Proxy]:
    """A link to that server."""
    with Proxy(*server.server_address) as proxy:
        yield proxy


def connect(link: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=5)


def asked(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    return client.recv(100)


def refused(link: Proxy) -> bool:
    """The reset can come before the client knows that it is connected."""
    try:
        with connect(link) as client:
            return asked(client, b"hello\n") == b""
    except ConnectionError:
        return True


def silent(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_what_is_asked_is_answered(link: Proxy) -> None:
    with connect(link) as client:
        assert asked(client, b"hello\n") == b"HELLO\n"


def test_cut_resets_the_present_connections_only(link: Proxy) -> None:
    with connect(link) as client:
        asked(client, b"hello\n")
        link.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(link) as client:
        assert asked(client, b"again\n") == b"AGAIN\n"


def test_refusal_lasts_until_healed(link: Proxy) -> None:
    link.refuse()
    assert refused(link)
    link.heal()
    with connect(link) as client:
        assert asked(client, b"again\n") == b"AGAIN\n"


def test_stalled_link_holds_everything_back_and_passes_it_on_when_healed(link: Proxy) -> None:
    with connect(link) as client:
        asked(client, b"hello\n")
        link.stall()
        client.sendall(b"late\n")
        assert silent(client)
        link.heal()
        assert client.recv(100) == b"LATE\n"


def test_half_open_link_carries_requests_but_no_answers(link: Proxy) -> None:
    with connect(link) as client:
        asked(client, b"hello\n")
        link.half_open()
        client.sendall(b"heard\n")
        assert silent(client)
        link.heal()
        assert client.recv(100) == b"HEARD\n"


def test_lost_reply_is_that_of_the_request_that_was_named(link: Proxy) -> None:
    with connect(link) as first, connect(link) as second:
        link.lose_reply(b"commit")
        assert asked(first, b"select\n") == b"SELECT\n"
        with pytest.raises(ConnectionResetError):
            asked(second, b"commit\n")
        assert link.lost_replies == 1
        assert asked(first, b"commit\n") == b"COMMIT\n"


def test_connections_of_clients_that_left_are_forgotten(link: Proxy) -> None:
    with connect(link) as client:
        asked(client, b"hello\n")
        assert link.connections == 1
    wait_until("it is forgotten", lambda: link.connections == 0, seconds=5)


@pytest.fixture
def stamping(server: _Server) -> Iterator[StampingProxy]:
    """A link to that server which fills in blanks."""
    with StampingProxy(*server.server_address) as proxy:
        yield proxy


def test_each_message_that_passes_a_stamping_link_gets_a_number_of_its_own(stamping: StampingProxy) -> None:
    with connect(stamping) as client:
        answer = asked(client, b"a " + BLANK + b" b " + BLANK + b" c\n")
    found = re.fullmatch(rb"A (\d{17}) B (\d{17}) C\n", answer)
    assert found
    assert int(found[1]) < int(found[2])


def test_blank_that_comes_in_two_pieces_is_filled_in_as_well(stamping: StampingProxy) -> None:
    first, rest = stamping.rewritten(b"a " + BLANK[:5], Direction.REQUEST)
    assert (first, rest) == (b"a ", BLANK[:5])
    second, rest = stamping.rewritten(rest + BLANK[5:] + b" b", Direction.REQUEST)
    assert re.fullmatch(rb"\d{17} b", second)
    assert rest == b""
