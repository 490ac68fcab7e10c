"""The transport adapter that carries requests' API over one upstream connection.

``requests`` builds and answers with its own types; its default adapter spends three times
as much CPU on a call as everything else of the gateway together (docs/performance.md).
This adapter keeps the API and replaces the path of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter

from aigateway.actors.providers.connect import Connector
from aigateway.actors.providers.exchange import Exchange, UpstreamConnection, request_head

__all__ = ["HeaderPairs", "UpstreamAdapter", "prepare"]


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
        self.sending = False
        """Whether a byte of the request in hand may have left."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: str | bytes | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send and wait for the head, ``timeout`` seconds at most.

        Raises an :class:`~aigateway.actors.providers.errors.UpstreamError`.  ``verify``,
        ``cert`` and ``proxies`` are the connector's business and ignored here.
        """
        del stream, verify, cert, proxies
        assert isinstance(timeout, float)
        self.sending = False
        connection = self._ready_connection()
        head = self._head(request)
        self.sending = True
        body = request.body if isinstance(request.body, bytes) else b""
        exchange = connection.begin(head, body, bodiless_answer=request.method == "HEAD")
        exchange.read_head(timeout)
        response = requests.Response()
        response.status_code = exchange.status
        response.reason = exchange.reason
        response.request = request
        response.raw = exchange
        return response

    def exchange(self, request: requests.PreparedRequest, timeout: float) -> Exchange:
        """:meth:`send`, for callers that want the exchange itself."""
        return cast(Exchange, self.send(request, timeout=timeout).raw)

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
        parts = urlsplit(request.url or "")
        target = str(parts.path or "/")
        if parts.query:
            target = f"{target}?{parts.query}"
        endpoint = self._connector.endpoint
        if self._connector.absolute_form:
            target = f"{endpoint.scheme}://{endpoint.host_header}{target}"
        method = request.method or "GET"
        return request_head(method, target, endpoint.host_header, request.headers.items())
