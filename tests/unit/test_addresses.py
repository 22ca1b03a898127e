"""Where a request comes from, and how often it may fail."""

from ipaddress import ip_network

import pytest

from gnomon.api.addresses import block_of, client_address, is_loopback, is_own_name, is_same_origin
from gnomon.api.throttle import REMEMBERED, Throttle

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # not a proxy of ours: what it says is not believed
        ("10.0.0.1", " ", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),  # what stands before it the client wrote
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
    ],
)
def test_client_is_who_the_last_trusted_proxy_names(peer: str, forwarded: str, client: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


def test_nobody_is_believed_by_default() -> None:
    assert client_address("127.0.0.1", "198.51.100.7", ()) == "127.0.0.1"


def test_addresses_of_one_client_are_one_block() -> None:
    assert block_of("2001:db8::1") == block_of("2001:db8::ffff:1") != block_of("2001:db8:0:1::1")
    assert block_of("192.0.2.1") != block_of("192.0.2.2")
    assert block_of("::ffff:192.0.2.1") != block_of("::ffff:192.0.2.2")
    assert block_of("") == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.1", "gnomon.example", "localhost.example", "127.1", "2130706433", ""]
)
def test_beyond_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LocalHost", True),
        ("[::1]:8000", True),
        ("192.168.1.1", True),
        ("gnomon.internal:8000", True),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_own_name(host, ["gnomon.internal"]) is own


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.0.0.1:8001", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_origins(origin: str, same: bool) -> None:
    assert is_same_origin(origin, "127.0.0.1:8000") is same


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_whoever_fails_too_often_waits_until_the_time_is_over_and_others_do_not() -> None:
    clock = Clock()
    throttle = Throttle(3, 60, clock=clock)
    for _ in range(2):
        throttle.failed("one")
        clock.now += 1
    assert throttle.wait("one") == 0
    throttle.failed("one")
    assert throttle.wait("one") == 58
    assert throttle.wait("other") == 0
    clock.now += 57.9
    assert throttle.wait("one") > 0
    clock.now += 0.1
    assert throttle.wait("one") == 0
    throttle.failed("one")
    assert throttle.wait("one") == 0


def test_memory_is_bounded_and_the_latest_stay() -> None:
    throttle = Throttle(1, 60, clock=Clock())
    for number in range(REMEMBERED + 100):
        throttle.failed(f"{number}")
    assert len(throttle._failures) == REMEMBERED
    assert throttle.wait(f"{REMEMBERED + 99}") == 60
    assert throttle.wait("0") == 0
