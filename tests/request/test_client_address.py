"""Whose address counts behind proxies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.headers import HeaderList
from aigateway.http.request.client_address import MAX_HOPS, ClientAddresses

PROXIES = ClientAddresses([ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")])
PEER = "10.0.0.1"


def _of(*said: str, peer: str = PEER) -> str:
    return PROXIES.of(peer, HeaderList([("X-Forwarded-For", line) for line in said]))


@pytest.mark.parametrize(
    ("said", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7", "10.9.9.9"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db8:2::7]:4711"], "2001:db8:2::7"),
        (["2001:db8:2::7, 2001:db8:1::1"], "2001:db8:2::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (['"192.0.2.7"'], "192.0.2.7"),
        (["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        (["6.6.6.6, unknown, 10.9.9.9"], "10.9.9.9"),
        (["6.6.6.6, "], PEER),
        (["<script>"], PEER),
        ([], PEER),
    ],
)
def test_the_first_address_from_the_right_that_is_no_proxys_is_the_clients(
    said: list[str], client: str
) -> None:
    assert _of(*said) == client


def test_whoever_is_no_proxy_speaks_for_nobody_else() -> None:
    assert _of("6.6.6.6", peer="192.0.2.7") == "192.0.2.7"
    assert _of("6.6.6.6", peer="") == ""


def test_a_proxy_that_comes_by_a_mapped_address_is_one() -> None:
    assert _of("192.0.2.7", peer="::ffff:10.0.0.1") == "192.0.2.7"


def test_only_so_many_entries_are_looked_at() -> None:
    assert _of("192.0.2.7," + ",".join(["10.0.0.2"] * MAX_HOPS)) == "10.0.0.2"


@given(st.lists(st.text(alphabet='0123456789.:[]", abcdefx', max_size=60), max_size=4))
def test_what_a_client_makes_up_never_counts(made_up: list[str]) -> None:
    assert _of(*made_up, "192.0.2.7, 10.9.9.9") == "192.0.2.7"
