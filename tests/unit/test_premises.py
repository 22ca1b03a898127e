"""What is Gnomon's own: its servers at their ports, and the machine that a worker runs on."""

import socket
from ipaddress import ip_address

import pytest

from gnomon.job.address import Server
from gnomon.worker.executors.premises import Premises, is_here


def owner(premises: Premises, address: str, port: int) -> str | None:
    return premises.owner(ip_address(address), port)


def own_address() -> str:
    """That of an interface of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no interface but loopback")
        address: str = probe.getsockname()[0]
    return address


def test_server_is_its_address_and_its_port() -> None:
    premises = Premises([Server("database", "10.0.0.5", 5432), Server("broker", "fd00::5", 6379)])
    premises.look_up()

    assert owner(premises, "10.0.0.5", 5432) == "database"
    assert owner(premises, "fd00:0:0:0:0:0:0:5", 6379) == "broker"
    assert owner(premises, "10.0.0.5", 8080) is None
    assert owner(premises, "10.0.0.6", 5432) is None
    assert owner(premises, "127.0.0.1", 5432) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_server_on_this_machine_is_its_port_on_every_address_of_it(host: str) -> None:
    premises = Premises([Server("database", host, 5432)])
    premises.look_up()

    for address in ("127.0.0.1", "127.7.7.7", "::1", own_address()):
        assert owner(premises, address, 5432) == "database"
        assert owner(premises, address, 5433) is None
    assert owner(premises, "10.255.255.254", 5432) is None


def test_one_of_our_servers_can_be_left_out() -> None:
    premises = Premises([Server("database", "10.0.0.5", 5432), Server("broker", "10.0.0.6", 5672)]).without("broker")
    premises.look_up()

    assert owner(premises, "10.0.0.5", 5432) == "database"
    assert owner(premises, "10.0.0.6", 5672) is None


def test_name_with_several_addresses_is_each_of_them() -> None:
    premises = Premises([Server("cache", "cache.example", 6379)], lookup=lambda host: ("10.0.0.1", "10.0.0.2"))
    premises.look_up()

    assert [owner(premises, f"10.0.0.{last}", 6379) for last in (1, 2, 3)] == ["cache", "cache", None]


def test_server_that_moved_is_under_its_new_address() -> None:
    addresses = iter(["10.0.0.1", "10.0.0.2"])
    premises = Premises([Server("database", "db.example", 5432)], lookup=lambda host: (next(addresses),))
    premises.look_up()
    premises.look_up()

    assert [owner(premises, f"10.0.0.{last}", 5432) for last in (1, 2)] == [None, "database"]


def test_server_whose_name_can_not_be_found_out_is_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([("10.0.0.1",), OSError("no answer"), ()])

    def lookup(host: str) -> tuple[str, ...]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    premises = Premises([Server("database", "db.example", 5432)], lookup=lookup)
    for _ in range(3):
        premises.look_up()

    assert owner(premises, "10.0.0.1", 5432) == "database"
    assert "db.example" in caplog.text


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "::1"])
def test_loopback_is_this_machine(address: str) -> None:
    assert is_here(address)


def test_addresses_of_interfaces_are_this_machine_and_no_others() -> None:
    assert is_here(own_address())
    assert not is_here("198.51.100.1")
    assert not is_here("2001:db8::1")
