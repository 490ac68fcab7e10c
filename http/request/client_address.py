"""Whose request it is where proxies stand in front of the gateway: ``--trusted-proxies``.

Each proxy adds the address that it sees at the right end of ``X-Forwarded-For``.  So the header is
read from the right, and only as far as proxies of ours have written it: what stands left of the
first address that is none of theirs, its sender may have made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aigateway.actors.codec.headers import Headers, joined

__all__ = ["ClientAddresses"]

MAX_HOPS = 32
"""Entries that are looked at; nobody has more proxies of their own."""


class ClientAddresses:
    """Finds clients' addresses behind trusted proxies."""

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        """``trusted`` networks hold the proxies."""
        self._trusted = tuple(trusted)
        # PERF: the same few proxies come with every request.
        self._is_trusted = lru_cache(1024)(self._within)

    def of(self, peer: str, headers: Headers) -> str:
        """Who asks, when ``peer`` is at the other end of the connection."""
        if not self._is_trusted(peer):
            return peer
        found = peer
        hops = joined(headers, "x-forwarded-for").split(",")
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            address = _address(hop)
            if address is None:
                # Nobody knows who wrote that.
                break
            found = str(address)
            if not self._is_trusted(found):
                break
        return found

    def trusts(self, peer: str) -> bool:
        """Whether what this peer forwards is believed."""
        return self._is_trusted(peer)

    def _within(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in an entry, which may have a port: ``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
