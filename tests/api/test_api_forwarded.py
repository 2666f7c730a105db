"""The client's address behind proxies: a table of headers, and where the address is used."""

import socket
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_network

import httpx
import pytest

from app.http.proxies import Origin, TrustedProxies, plain
from app.server.listening import listen
from app.settings import Settings
from tests.support.gateway import Talk
from tests.support.http_server import served

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
XFF, FWD = b"x-forwarded-for", b"forwarded"

FOUND = {  # one X-Forwarded-For line from the peer 10.0.0.1: the client that it names
    "1.2.3.4": "1.2.3.4",
    "1.2.3.4:5678": "1.2.3.4",
    " 1.2.3.4 ": "1.2.3.4",
    "9.9.9.9, 1.2.3.4": "1.2.3.4",
    "1.2.3.4,10.0.0.2": "1.2.3.4",
    "1.2.3.4:80, 10.0.0.2:443": "1.2.3.4",
    "1.2.3.4, 10.0.0.2, fd00::7": "1.2.3.4",
    "1.2.3.4, ::ffff:10.0.0.2": "1.2.3.4",
    "1.2.3.4, [::ffff:10.0.0.2]:443": "1.2.3.4",
    "::ffff:1.2.3.4": "1.2.3.4",
    "[::ffff:1.2.3.4]:99": "1.2.3.4",
    "::FFFF:102:304": "1.2.3.4",
    "2001:db8::1": "2001:db8::1",
    "2001:DB8:0:0::1": "2001:db8::1",
    "[2001:db8::1]": "2001:db8::1",
    "[2001:db8::1]:443": "2001:db8::1",
    '"[2001:db8::1]:443"': "2001:db8::1",
    "fe80::1%eth0": "fe80::1",
    "[fe80::1%25eth0]:80": "fe80::1",
    "1.2.3.4,": "1.2.3.4",
    "1.2.3.4, ,": "1.2.3.4",
    ",,1.2.3.4,,10.0.0.2": "1.2.3.4",
    "garbage, 1.2.3.4": "1.2.3.4",
    "unknown, 1.2.3.4, 10.0.0.2": "1.2.3.4",
}
NOT_FOUND = {  # one line in which the client can't be relied on: the nearest address that can
    "": "10.0.0.1",
    ",": "10.0.0.1",
    "10.0.0.2": "10.0.0.2",
    "10.0.0.3, 10.0.0.2": "10.0.0.3",
    "unknown": "10.0.0.1",
    "1.2.3.4, unknown": "10.0.0.1",
    "1.2.3.4, garbage, 10.0.0.2": "10.0.0.2",
    "1.2.3.4, _hidden": "10.0.0.1",
    "1.2.3.4:99999": "10.0.0.1",
    "1.2.3.4:http": "10.0.0.1",
    "1.2.3.4:": "10.0.0.1",
    "[1.2.3.4]": "10.0.0.1",
    "[2001:db8::1": "10.0.0.1",
    "[2001:db8::1]443": "10.0.0.1",
    "1.2.3": "10.0.0.1",
    "1.2.3.256": "10.0.0.1",
    "010.0.0.1": "10.0.0.1",
    "1.2.3.4 10.0.0.2": "10.0.0.1",
    "1.2.3.4;10.0.0.2": "10.0.0.1",
    "1.2.3.4\xff": "10.0.0.1",
    ", ".join(["1.2.3.4"] + ["10.0.0.2"] * 32): "10.0.0.2",
}
FORWARDED = {  # one Forwarded line from the peer 10.0.0.1: the client, and the nearest address
    "for=1.2.3.4": ("1.2.3.4", "1.2.3.4"),
    "For=1.2.3.4;proto=https;by=10.0.0.9": ("1.2.3.4", "1.2.3.4"),
    "proto=http; FOR = 1.2.3.4": (None, "10.0.0.1"),
    "proto=http; FOR=1.2.3.4": ("1.2.3.4", "1.2.3.4"),
    'for="1.2.3.4:80"': ("1.2.3.4", "1.2.3.4"),
    'for="[2001:db8::1]:4711"': ("2001:db8::1", "2001:db8::1"),
    'for="[2001:db8::1]"': ("2001:db8::1", "2001:db8::1"),
    r'for="1.2.3.\4"': ("1.2.3.4", "1.2.3.4"),
    "for=[2001:db8::1]:80": ("2001:db8::1", "2001:db8::1"),
    'for="1.2.3.4:_p1"': ("1.2.3.4", "1.2.3.4"),
    'for="1.2.3.4:_a.B-c_9"': ("1.2.3.4", "1.2.3.4"),
    'for="[2001:db8::1]:_x"': ("2001:db8::1", "2001:db8::1"),
    'for=1.2.3.4, for="10.0.0.2:_p", for="[fd00::7]:_q"': ("1.2.3.4", "1.2.3.4"),
    'for="1.2.3.4:_"': (None, "10.0.0.1"),
    'for="1.2.3.4:_p 1"': (None, "10.0.0.1"),
    'for="1.2.3.4:p1"': (None, "10.0.0.1"),
    'for="[2001:db8::1]_x"': (None, "10.0.0.1"),
    "for=9.9.9.9, for=1.2.3.4": ("1.2.3.4", "1.2.3.4"),
    "for=1.2.3.4, for=10.0.0.2": ("1.2.3.4", "1.2.3.4"),
    'for=1.2.3.4,for="[fd00::7]:80";by=_x': ("1.2.3.4", "1.2.3.4"),
    ", for=1.2.3.4, ,": ("1.2.3.4", "1.2.3.4"),
    'for=1.2.3.4;host="a,for=6.6.6.6"': ("1.2.3.4", "1.2.3.4"),
    "for=1.2.3.4, for=_obfuscated": (None, "10.0.0.1"),
    "for=1.2.3.4, for=unknown, for=10.0.0.2": (None, "10.0.0.2"),
    "for=1.2.3.4, proto=https": (None, "10.0.0.1"),
    "for=1.2.3.4, for=": (None, "10.0.0.1"),
    'for=", for=1.2.3.4': (None, "10.0.0.1"),
    "for=6.6.6.6;for=1.2.3.4": (None, "10.0.0.1"),
    "for 1.2.3.4": (None, "10.0.0.1"),
    'for="1.2.3.4": x': (None, "10.0.0.1"),
    "": (None, "10.0.0.1"),
}


@pytest.mark.parametrize(("line", "client"), FOUND.items())
def test_the_first_address_that_is_no_proxy_s_is_the_client_s(line: str, client: str) -> None:
    found = PROXIES.origin("10.0.0.1", [(XFF, line.encode("latin-1"))])
    assert found == Origin(client, client, client)


@pytest.mark.parametrize(("line", "nearest"), NOT_FOUND.items())
def test_nothing_is_believed_beyond_a_hop_that_cannot_be_read(line: str, nearest: str) -> None:
    found = PROXIES.origin("10.0.0.1", [(XFF, line.encode("latin-1"))])
    assert found == Origin(nearest, None, None)


@pytest.mark.parametrize(("line", "found"), FORWARDED.items())
def test_forwarded_names_the_client_too(line: str, found: tuple[str | None, str]) -> None:
    named, nearest = found
    assert PROXIES.origin("10.0.0.1", [(FWD, line.encode())]) == Origin(nearest, named, named)


def test_several_lines_are_one_chain_and_the_last_line_is_the_nearest() -> None:
    chain = [(XFF, b"9.9.9.9, 1.2.3.4"), (b"host", b"h"), (XFF, b"10.0.0.3,"), (XFF, b"10.0.0.2")]
    assert PROXIES.origin("10.0.0.1", chain).named == "1.2.3.4"
    assert PROXIES.origin("10.0.0.1", [(FWD, b'for="x'), (FWD, b"for=1.2.3.4")]).named == "1.2.3.4"
    assert PROXIES.origin("10.0.0.1", [(FWD, b"for=1.2.3.4"), (FWD, b'for="x')]).named is None


def test_x_forwarded_for_goes_before_forwarded() -> None:
    both = [(FWD, b"for=6.6.6.6"), (XFF, b"1.2.3.4")]
    assert PROXIES.origin("10.0.0.1", both).named == "1.2.3.4"
    assert PROXIES.origin("10.0.0.1", [(FWD, b"for=6.6.6.6"), (XFF, b"unknown")]).named is None


@pytest.mark.parametrize("empty", [[b""], [b" "], [b","], [b"", b" , "]])
def test_an_x_forwarded_for_that_names_nobody_leaves_it_to_forwarded(empty: list[bytes]) -> None:
    headers = [(FWD, b"for=1.2.3.4"), *((XFF, line) for line in empty)]
    assert PROXIES.origin("10.0.0.1", headers).named == "1.2.3.4"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("5.6.7.8", "5.6.7.8"),
        ("::ffff:5.6.7.8", "5.6.7.8"),
        ("2001:db8::9", "2001:db8::9"),
        ("", ""),
    ],
)
def test_a_peer_that_is_not_trusted_is_the_client_itself(peer: str, address: str) -> None:
    assert PROXIES.origin(peer, [(XFF, b"1.2.3.4")]) == Origin(address, None, address)


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1", "fd00::1", "fd00::1%eth0"]
)
def test_a_proxy_is_recognised_in_every_form_of_its_address(peer: str) -> None:
    assert PROXIES.origin(peer, [(XFF, b"1.2.3.4")]).named == "1.2.3.4"


@pytest.mark.parametrize("network", ["::/0", "::/80", "::ffff:0:0/96"])
def test_a_network_that_holds_all_mapped_addresses_covers_ipv4(network: str) -> None:
    proxies = TrustedProxies([ip_network(network)])
    assert all(map(proxies.trusts, ("11.1.2.3", "::ffff:11.1.2.3")))
    assert proxies.trusts("2001:db8::1") is (network == "::/0")


def test_a_network_beside_the_mapped_addresses_covers_no_ipv4() -> None:
    assert not TrustedProxies([ip_network("::/96")]).trusts("11.1.2.3")


def test_a_network_of_mapped_addresses_is_the_ipv4_network() -> None:
    proxies = TrustedProxies([ip_network("::ffff:10.0.0.0/104")])
    assert proxies.trusts("10.1.2.3")
    assert proxies.trusts("::ffff:10.1.2.3")
    assert not proxies.trusts("11.1.2.3")


def test_without_networks_nobody_is_trusted() -> None:
    assert not TrustedProxies([])
    assert not TrustedProxies([]).trusts("127.0.0.1")


def test_an_address_loses_its_mapping_and_its_zone_and_nothing_else() -> None:
    assert [plain(one) for one in ("::ffff:10.0.0.1", "fe80::1%3", "testclient", "")] == [
        "10.0.0.1",
        "fe80::1",
        "testclient",
        "",
    ]


# --- through the gateway ----------------------------------------------------------------------------------------------


def test_the_audit_has_the_client_s_address(start: Callable[..., Talk]) -> None:
    talk = start(gateway_trusted_proxies="127.0.0.0/8")
    for headers in ({"X-Forwarded-For": "6.6.6.6, 1.2.3.4:5678"}, {"Forwarded": 'for="1.2.3.4:1"'}):
        answer = talk.event(headers=headers)
        assert answer.status_code == 202
        (record,) = talk.audit(answer.headers["x-request-id"])
        assert record["src_endpoint"]["ip"] == "1.2.3.4"


def test_a_client_that_fails_too_often_is_locked_out_and_its_neighbour_is_not(
    start: Callable[..., Talk],
) -> None:
    talk = start(gateway_trusted_proxies="127.0.0.0/8", gateway_failed_auth_per_minute=2)

    def failing(client: str) -> int:
        return talk.event(key=None, headers={"X-Forwarded-For": client}).status_code

    assert [failing(f"1.2.3.4:{port}") for port in (1, 2, 3)] == [401, 401, 429]
    assert failing("1.2.3.5") == 401
    assert failing("[::ffff:1.2.3.4]:80") == 429


def test_a_header_from_a_peer_that_is_not_trusted_changes_nothing(
    start: Callable[..., Talk],
) -> None:
    talk = start(gateway_trusted_proxies="10.0.0.0/8", gateway_failed_auth_per_minute=2)
    answers = [
        talk.event(key=None, headers={"X-Forwarded-For": f"1.2.3.{n}"}).status_code
        for n in (1, 2, 3)
    ]
    assert answers == [401, 401, 429]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_proxy_is_recognised_by_a_gateway_that_listens_on_all_addresses(
    start: Callable[..., Talk], settings: Callable[..., Settings]
) -> None:
    given = settings(
        gateway_host="::",
        gateway_port=0,
        gateway_trusted_proxies="127.0.0.0/8",
        gateway_failed_auth_per_minute=1,
    )
    with closing(listen(given)) as listening, served(given, listening=listening) as port:
        assert given.gateway_bootstrap_key is not None
        url, headers = f"http://127.0.0.1:{port}/v1/audit", {"X-Forwarded-For": "1.2.3.4:77"}
        assert httpx.get(url, headers=headers).status_code == 401
        assert httpx.get(url, headers=headers).status_code == 429
        assert httpx.get(url, headers={"X-Forwarded-For": "1.2.3.5"}).status_code == 401
        key = given.gateway_bootstrap_key.get_secret_value()
        found = httpx.get(url, headers={**headers, "Authorization": f"Bearer {key}"})
        assert found.status_code == 200
        of_it = {"requestId": found.headers["x-request-id"]}
        again = httpx.get(url, params=of_it, headers={**headers, "Authorization": f"Bearer {key}"})
        assert [one["record"]["src_endpoint"] for one in again.json()["records"]] == [
            {"ip": "1.2.3.4"}
        ]
