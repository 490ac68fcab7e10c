"""The addresses of one host, asked for once in a while and tried in a good order."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import TypeAlias

from aigateway.actors.upstream.endpoint import Endpoint

__all__ = ["ADDRESS_TTL", "Address", "Addresses"]

ADDRESS_TTL = 30.0
"""Seconds a resolved address is used again: short enough for DNS-based failover, long enough
that a burst of connections asks once (gevent resolves in a small thread pool)."""

Address: TypeAlias = tuple[int, tuple[object, ...]]
"""An address family and what ``connect`` takes."""


class Addresses:
    """Resolves one endpoint's host; safe to use from many threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._known: list[Address] = []
        self._worked: Address | None = None
        """To which the last connection was made, however long ago."""
        self._expires = 0.0
        if endpoint.numeric:
            family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
            self._known = [(family, (endpoint.host, endpoint.port))]
            self._expires = float("inf")

    def get(self, timeout: float) -> list[Address]:
        """All addresses, the most promising first.

        One caller asks, the others wait for its answer, ``timeout`` seconds at most.  While
        the resolver fails the old addresses stay good.  Raises OSError (``gaierror`` when the
        name is unknown, TimeoutError).
        """
        if time.monotonic() < self._expires:
            return self._known
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError(f"the name {self._endpoint.host} was not resolved in time")
        try:
            if time.monotonic() >= self._expires:
                self._resolve()
            return self._known
        finally:
            self._lock.release()

    def worked(self, address: Address) -> None:
        """Try this one first from now on; once it is not an address of the name any more, those
        of its family."""
        self._worked = address
        if self._known[0] != address:
            self._known = _in_order(self._known, address)

    def failed(self) -> None:
        """None of them worked: ask again the next time."""
        if not self._endpoint.numeric:
            self._expires = 0.0

    def _resolve(self) -> None:
        endpoint = self._endpoint
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except UnicodeError as ex:
            raise socket.gaierror(socket.EAI_NONAME, "the name is no domain name") from ex
        except OSError:
            if not self._known:
                raise
        else:
            self._known = _in_order([(info[0], info[4]) for info in found], self._worked)
        self._expires = time.monotonic() + ADDRESS_TTL


def _in_order(addresses: Sequence[Address], worked: Address | None) -> list[Address]:
    """The resolver's order, with what worked first, and families in turns (RFC 8305, section 4)."""
    found = sorted(addresses, key=lambda address: address != worked)
    if not found:
        return []
    first = found[0][0] if worked is None else worked[0]
    families = [
        [address for address in found if (address[0] == first) is wanted]
        for wanted in (True, False)
    ]
    return [address for pair in zip_longest(*families) for address in pair if address is not None]
