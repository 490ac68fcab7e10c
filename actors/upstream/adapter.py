"""The transport adapter that carries requests' API over one upstream connection.

``requests`` builds and answers with its own types; its default adapter spends three times
as much CPU on a call as everything else of the gateway together (docs/performance.md).
This adapter keeps the API and replaces the path of the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import structlog
from requests.adapters import BaseAdapter

from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.errors import ClosedUnanswered, NotSent, Unsendable
from aigateway.actors.upstream.exchange import Exchange, UpstreamConnection, request_head

__all__ = ["HeaderPairs", "UpstreamAdapter", "prepare"]

CLOSING = 5.0
"""Seconds in which an upstream that closes an idle connection has done so, seen from a request
that met it.  One that closes later has had the request, and may have begun to work on it."""

log = structlog.get_logger("ai-gateway.provider")


class HeaderPairs(list[tuple[str, str]]):
    """Headers in their order, repeated names kept: what a CaseInsensitiveDict cannot hold."""

    def items(self) -> HeaderPairs:
        return self


def prepare(method: str, url: str, headers: HeaderPairs, body: bytes) -> requests.PreparedRequest:
    """A request that is sent exactly as given: nothing is added, quoted or reordered."""
    prepared = requests.PreparedRequest()
    prepared.method = method
    prepared.url = url
    prepared.headers = cast(Any, headers)
    prepared.body = body
    return prepared


class UpstreamAdapter(BaseAdapter):
    """Sends prepared requests on one kept-alive connection, one at a time.

    The ``raw`` of its responses is an :class:`Exchange`.
    """

    def __init__(self, connector: Connector) -> None:
        super().__init__()
        self._connector = connector
        self.connection: UpstreamConnection | None = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: str | bytes | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """:meth:`exchange` as requests wants it.

        ``verify``, ``cert`` and ``proxies`` are the connector's business and ignored here.
        """
        del stream, verify, cert, proxies
        assert isinstance(timeout, float)
        exchange = self.exchange(request, timeout)
        response = requests.Response()
        response.status_code = exchange.status
        response.reason = exchange.reason
        response.request = request
        response.raw = exchange
        return response

    def exchange(self, request: requests.PreparedRequest, timeout: float) -> Exchange:
        """Send and wait for the head, ``timeout`` seconds at most.

        Raises an :class:`~aigateway.actors.upstream.errors.UpstreamError`.
        """
        head = self._head(request)
        body = request.body if isinstance(request.body, bytes) else b""
        bodiless = request.method == "HEAD"
        until = time.monotonic() + timeout
        connection = self._ready_connection()
        began = time.monotonic()
        try:
            exchange = connection.begin(head, body, bodiless_answer=bodiless)
            exchange.read_head(timeout)
        except (NotSent, ClosedUnanswered) as ex:
            met_close = isinstance(ex, NotSent) or time.monotonic() - began < CLOSING
            if connection.exchanges == 1 or not met_close:
                raise
            # It was closed while it was idle, and nobody has answered: a new one may try, once.
            log.info("sent again: the idle connection was just closed", error=str(ex))
            self.close()
            connection = self._ready_connection()
            exchange = connection.begin(head, body, bodiless_answer=bodiless)
            exchange.read_head(max(until - time.monotonic(), 0.001))
        return exchange

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _ready_connection(self) -> UpstreamConnection:
        if self.connection is not None and self.connection.is_alive():
            return self.connection
        self.close()
        self.connection = UpstreamConnection(self._connector.connect())
        return self.connection

    def _head(self, request: requests.PreparedRequest) -> bytes:
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
            return request_head(request.method or "GET", target, endpoint.host_header, headers)
        except ValueError as ex:
            raise Unsendable(str(ex)) from ex
