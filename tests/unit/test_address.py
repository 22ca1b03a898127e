"""Which addresses may be called."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gnomon.job.address import METADATA, PORTS, EgressPolicy, foreseen, judge, judge_port, wrong_host
from gnomon.job.errors import ConfigurationError

NOTHING_OPENED = EgressPolicy()
EVERYTHING_OPENED = EgressPolicy.parse(["0.0.0.0/0", "::/0", "some.host"])

PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1")

NEEDS_OPENING = (
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "255.255.255.254",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "100::1",
    "5f00::1",
    "4000::1",
)

NEVER = (
    "0.0.0.0",
    "0.1.2.3",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.42.42",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::1%2",
    "2606:4700::1%eth0",
    "febf::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
)

EMBEDDED = (
    "::2",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:7f00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff::7f00:1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2002:a9fe:a9fe::",
    "2002:7f00:1::1",
    "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
)

NOT_ADDRESSES = (
    "",
    "localhost",
    "127.1",
    "0x7f.1",
    "2130706433",
    "0177.0.0.1",
    "１２７.0.0.1",
    "127.0.0.1\x00",
    " 127.0.0.1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_may_be_called(address: str) -> None:
    assert judge(address, NOTHING_OPENED) is None


@pytest.mark.parametrize("address", NEEDS_OPENING)
def test_closed_address_is_refused_and_the_setting_that_opens_it_named(address: str) -> None:
    reason = judge(address, NOTHING_OPENED)

    assert reason is not None
    assert str(ip_address(address)) in reason
    assert "egress-allow" in reason


@pytest.mark.parametrize("address", NEEDS_OPENING)
def test_closed_address_may_be_called_once_its_network_is_opened(address: str) -> None:
    assert judge(address, EVERYTHING_OPENED) is None
    assert judge(address, EgressPolicy.parse([address])) is None


@pytest.mark.parametrize("address", NEEDS_OPENING)
def test_closed_address_may_be_called_under_a_host_name_that_is_opened(address: str) -> None:
    policy = EgressPolicy.parse(["Internal.Example."])

    assert judge(address, policy, host="internal.example") is None
    assert judge(address, policy, host="INTERNAL.example.") is None
    assert judge(address, policy, host="other.example") is not None
    assert judge(address, policy) is not None


@pytest.mark.parametrize("address", [*NEVER, *EMBEDDED])
def test_no_setting_opens_it(address: str) -> None:
    reason = judge(address, EVERYTHING_OPENED, host="some.host")

    assert reason is not None
    assert "egress-allow" not in reason, "would send the operator to a setting that does not help"


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_metadata_service_is_refused_whatever_is_opened(address: str) -> None:
    assert judge(address, EVERYTHING_OPENED, host="some.host") is not None


@pytest.mark.parametrize("address", NOT_ADDRESSES)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert judge(address, EVERYTHING_OPENED, host="some.host") is not None


@pytest.mark.parametrize(
    ("entries", "opened"),
    [
        ([], False),
        (["10.0.0.0/8"], False),
        (["10.0.0.4"], False),
        (["other.example"], False),
        (["10.0.0.5"], True),
        (["host.example"], True),
        (["127.0.0.0/8"], True),
        (["127.0.0.2"], False),
    ],
)
def test_own_machine_is_opened_by_itself_or_with_loopback(entries: list[str], opened: bool) -> None:
    policy = EgressPolicy.parse(entries)

    assert policy.opens_machine(IPv4Address("10.0.0.5"), "host.example") is opened


@pytest.mark.parametrize("port", [80, 443, 8000, 8080, 9200, 50_000])
def test_ports_of_http_may_be_called(port: int) -> None:
    assert judge_port(port, NOTHING_OPENED, protocol="HTTP") is None
    assert judge_port(port, NOTHING_OPENED, protocol="AMQP") is None


@pytest.mark.parametrize("port", sorted(PORTS))
def test_ports_of_other_protocols_are_refused_until_they_are_opened(port: int) -> None:
    reason = judge_port(port, NOTHING_OPENED, protocol="HTTP")

    assert reason is not None
    assert "egress-allow-ports" in reason
    assert judge_port(port, EgressPolicy.parse([], ports=[port]), protocol="HTTP") is None


def test_brokers_may_be_called_at_their_own_ports() -> None:
    assert [judge_port(port, NOTHING_OPENED, protocol="AMQP") for port in (5671, 5672)] == [None, None]
    assert judge_port(6379, NOTHING_OPENED, protocol="AMQP") is not None


@pytest.mark.parametrize(
    "host", ["example.com", "example.com.", "localhost", "1.example", "127.0.0.1", "10.0.0.1", "[::1]", "[fd00::1]"]
)
def test_host_that_some_setting_opens_is_not_wrong(host: str) -> None:
    assert wrong_host(host) is None


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "0", "017700000001", "127.0.0.1."),
        *("127.0.0.01", "256.0.0.1", "1.2.3.4.5", "4294967296", "0x", "example.127", "a.0x7f"),
        *("[1::2::3]", "[::127.1]", "[127.0.0.1]", "[:::]"),
        *(address if ":" not in address else f"[{address}]" for address in (*NEVER, *EMBEDDED) if "%" not in address),
    ],
)
def test_host_that_no_setting_opens_or_that_is_spelt_oddly_is_wrong(host: str) -> None:
    reason = wrong_host(host)

    assert reason is not None
    assert host.strip("[]") not in reason.split(), "it may be a part of a password"


@pytest.mark.parametrize(
    ("host", "port", "foreseeable"),
    [
        ("example.com", 443, False),
        ("8.8.8.8", 443, False),
        ("example.com", 6379, True),
        ("10.0.0.1", 80, True),
        ("localhost", 80, True),
        ("API.localhost.", 80, True),
        ("localhost.example.com", 80, False),
        ("[::1]", 80, True),
        ("::1", 80, True),
    ],
)
def test_refusal_is_foreseen_where_no_name_has_to_be_asked_for(host: str, port: int, foreseeable: bool) -> None:
    assert (foreseen(host, port, NOTHING_OPENED, protocol="HTTP") is not None) is foreseeable
    everything = EgressPolicy.parse(["0.0.0.0/0", "::/0"], ports=PORTS)
    assert foreseen(host, port, everything, protocol="HTTP") is None


def test_only_the_opened_network_is_open() -> None:
    policy = EgressPolicy.parse(["10.1.0.0/16", "fd00:1::/32"])

    assert judge("10.1.255.255", policy) is None
    assert judge("10.2.0.0", policy) is not None
    assert judge("fd00:1::1", policy) is None
    assert judge("fd00:2::1", policy) is not None


@given(st.ip_addresses())
@example(IPv4Address("168.63.129.16"))
@example(IPv6Address("2002:a9fe:a9fe::"))
def test_nothing_but_global_unicast_is_allowed_by_default(address: IPv4Address | IPv6Address) -> None:
    """The standard library's registry as a second opinion: it is too lax, so whatever it refuses must be refused."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert judge(str(address), NOTHING_OPENED) is not None


@given(
    st.sampled_from(
        ["::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"]
    ),
    st.data(),
)
def test_embedded_ipv4_is_refused_wherever_it_hides(prefix: str, data: st.DataObject) -> None:
    network = IPv6Network(prefix)
    offset = data.draw(st.integers(2, network.num_addresses - 1))

    assert judge(str(network[offset]), EVERYTHING_OPENED) is not None


@given(st.ip_addresses(v=6))
def test_ipv6_outside_the_global_unicast_block_is_refused_by_default(address: IPv6Address) -> None:
    if address not in IPv6Network("2000::/3"):
        assert judge(str(address), NOTHING_OPENED) is not None


@given(st.ip_addresses())
def test_opening_more_never_closes_anything(address: IPv4Address | IPv6Address) -> None:
    if judge(str(address), NOTHING_OPENED) is None:
        assert judge(str(address), EVERYTHING_OPENED) is None


def test_entries_are_networks_addresses_and_host_names() -> None:
    policy = EgressPolicy.parse(["10.0.0.0/8", " 192.168.1.7 ", "fd00::/8", "Hooks.Internal.", "under_score"])

    assert policy.networks == (ip_network("10.0.0.0/8"), ip_network("192.168.1.7/32"), ip_network("fd00::/8"))
    assert policy.hosts == {"hooks.internal", "under_score"}


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "fd00::/129",
        "*.example.com",
        "http://internal",
        "internal:8080",
        "10.0.0.0:80",
        "-x.example",
        "a..b",
        "127.1",
        "0x7f.1",
        "2130706433",
        "host.0x7f",
        "exämple.com",
        "169.254.169.254",
        "169.254.0.0/16",
        "fe80::/10",
        "0.0.0.0",
        "224.0.0.0/4",
        "168.63.129.16",
        "::ffff:10.0.0.0/104",
        "64:ff9b::/96",
        "::127.0.0.1",
    ],
)
def test_wrong_entry_is_named_together_with_the_setting(entry: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        EgressPolicy.parse(["10.0.0.0/8", entry])

    assert "egress-allow" in str(refused.value)
    assert repr(entry) in str(refused.value)
