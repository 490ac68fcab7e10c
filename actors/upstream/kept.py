"""A connection to an upstream that is kept between requests: the way of every byte.

A provider's worker owns one and calls :meth:`KeptConnection.exchange` itself; everything else
comes through requests and :class:`~aigateway.actors.upstream.adapter.UpstreamAdapter`.  Both
speak of requests' ``PreparedRequest``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import structlog

from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.errors import ClosedUnanswered, NotSent, Unsendable
from aigateway.actors.upstream.exchange import Exchange, UpstreamConnection, request_head

__all__ = ["HeaderPairs", "KeptConnection", "prepare"]

CLOSING = 5.0
"""Seconds in which an upstream that closes an idle connection has done so, seen from a request
that met it.  One that closes later has had the request, and may have begun to work on it."""

log = structlog.get_logger("ai-gateway.provider")


class HeaderPairs(list[tuple[str, str]]):
    """Headers in their order, repeated names kept: what a CaseInsensitiveDict cannot hold."""

    def items(self) -> HeaderPairs:
        return self

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under ``name``; requests' sessions look for ``Host``."""
        return next((value for key, value in self if key.lower() == name.lower()), default)


def prepare(method: str, url: str, headers: HeaderPairs, body: bytes) -> requests.PreparedRequest:
    """A request that is sent exactly as given: nothing is added, quoted or reordered."""
    prepared = requests.PreparedRequest()
    prepared.method = method
    prepared.url = url
    prepared.headers = cast(Any, headers)
    prepared.body = body
    return prepared


class KeptConnection:
    """One connection to an endpoint, one exchange at a time; opened again when it was closed."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.connection: UpstreamConnection | None = None

    def exchange(
        self,
        request: requests.PreparedRequest,
        timeout: float,
        *,
        connect_timeout: float | None = None,
        host: str = "",
    ) -> Exchange:
        """Send and wait for the head, ``timeout`` seconds at most (infinity: as long as it takes).

        The body is bytes, or there is none.  ``connect_timeout`` stands in for the connector's,
        ``host`` for the endpoint's own name.

        Raises an :class:`~aigateway.actors.upstream.errors.UpstreamError`.
        """
        head = self._head(request, host)
        body = request.body if isinstance(request.body, bytes) else b""
        bodiless = request.method == "HEAD"
        upgrade = request.method == "GET" and request.headers.get("Upgrade") is not None
        until = time.monotonic() + timeout
        connection = self._ready_connection(connect_timeout)
        began = time.monotonic()
        try:
            exchange = connection.begin(head, body, bodiless_answer=bodiless, upgrade=upgrade)
            exchange.read_head(timeout)
        except (NotSent, ClosedUnanswered) as ex:
            met_close = isinstance(ex, NotSent) or time.monotonic() - began < CLOSING
            if connection.exchanges == 1 or not met_close:
                raise
            # It was closed while it was idle, and nobody has answered: a new one may try, once.
            log.info("sent again: the idle connection was just closed", error=str(ex))
            self.close()
            connection = self._ready_connection(connect_timeout)
            exchange = connection.begin(head, body, bodiless_answer=bodiless, upgrade=upgrade)
            exchange.read_head(max(until - time.monotonic(), 0.001))
        return exchange

    def let_go(self) -> None:
        """The connection is the exchange's from now on, and whoever holds that sees to it."""
        self.connection = None

    def is_alive(self) -> bool:
        """Whether the next request needs no new connection, as far as can be seen."""
        return self.connection is not None and self.connection.is_alive()

    def shut(self) -> None:
        """From another thread: break the connection; the one who waits on it gets an error."""
        if self.connection is not None:
            self.connection.shut()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _ready_connection(self, timeout: float | None) -> UpstreamConnection:
        if self.connection is not None and self.connection.is_alive():
            return self.connection
        self.close()
        self.connection = UpstreamConnection(self._connector.connect(timeout))
        return self.connection

    def _head(self, request: requests.PreparedRequest, host: str) -> bytes:
        connector = self._connector
        endpoint = connector.endpoint
        parts = urlsplit(request.url or "")
        target = str(parts.path or "/")
        if parts.query:
            target = f"{target}?{parts.query}"
        headers: Iterable[tuple[str, str]] = request.headers.items()
        if connector.absolute_form:
            target = f"{endpoint.scheme}://{endpoint.host_header}{target}"
            if connector.proxy_authorization:
                headers = [*headers, ("Proxy-Authorization", connector.proxy_authorization)]
        try:
            host = host or endpoint.host_header
            return request_head(request.method or "GET", target, host, headers)
        except ValueError as ex:
            raise Unsendable(str(ex)) from ex
