"""Open a TCP connection to an upstream, through a proxy and TLS where configured."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from aigateway.actors.providers.errors import ConnectFailed, ConnectTimeout

__all__ = ["Connector", "Endpoint"]

ADDRESS_TTL = 30.0
"""Seconds a resolved address is used again: short enough for DNS-based failover, long enough
that a burst of connections asks once (gevent resolves in a small thread pool)."""


@frozen
class Endpoint:
    """Where an upstream is, taken from its base URL."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """Take apart ``url`` (http or https, with a host)."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


class Connector:
    """Opens connections to one endpoint; safe to use from many threads."""

    def __init__(
        self, endpoint: Endpoint, *, timeout: float, ca_file: str = "", proxy: str = ""
    ) -> None:
        """``timeout`` in seconds bounds the whole of resolving, connecting and TLS per address.

        Raises ConnectFailed when ``ca_file`` cannot be read.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._proxy = Endpoint.of(proxy) if proxy else None
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._resolved: tuple[float, list[tuple[Any, Any]]] = (0.0, [])
        if endpoint.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file or None)
            except (OSError, ssl.SSLError) as ex:
                raise ConnectFailed(f"cannot read the CA file {ca_file}: {ex}") from ex
            self._tls.set_alpn_protocols(["http/1.1"])

    def connect(self) -> socket.socket:
        """Connect; raises ConnectFailed or ConnectTimeout."""
        target = self._proxy or self.endpoint
        try:
            sock = self._connect_tcp(target)
        except TimeoutError as ex:
            raise ConnectTimeout(
                f"no connection to {target.host}:{target.port} within {self._timeout:g} s"
            ) from ex
        except OSError as ex:
            raise ConnectFailed(
                f"cannot connect to {target.host}:{target.port}: {ex.strerror or ex}"
            ) from ex
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None and self._tls is not None:
                self._tunnel(sock)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self.endpoint.host)
        except TimeoutError as ex:
            sock.close()
            raise ConnectTimeout(
                f"{self.endpoint.host}: no TLS handshake within {self._timeout:g} s"
            ) from ex
        except (OSError, ValueError) as ex:
            sock.close()
            raise ConnectFailed(
                f"cannot set up the connection to {self.endpoint.host}: {ex}"
            ) from ex
        return sock

    @property
    def absolute_form(self) -> bool:
        """Whether requests must name the whole URL (plain HTTP through a proxy)."""
        return self._proxy is not None and self._tls is None

    def _connect_tcp(self, target: Endpoint) -> socket.socket:
        error: OSError | None = None
        for family, address in self._addresses(target):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(self._timeout)
            try:
                sock.connect(address)
            except OSError as ex:
                sock.close()
                error = ex
                continue
            return sock
        with self._lock:
            self._resolved = (0.0, [])
        raise error or OSError(f"no address for {target.host}")

    def _addresses(self, target: Endpoint) -> list[tuple[Any, Any]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, target.host)
            except OSError:
                continue
            return [(family, (target.host, target.port))]
        with self._lock:
            expires, addresses = self._resolved
        if time.monotonic() < expires:
            return addresses
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = [(info[0], info[4]) for info in found]
        with self._lock:
            self._resolved = (time.monotonic() + ADDRESS_TTL, addresses)
        return addresses

    def _tunnel(self, sock: socket.socket) -> None:
        host = f"{self.endpoint.host}:{self.endpoint.port}"
        sock.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            # One byte at a time: what follows the head belongs to TLS.
            byte = sock.recv(1)
            if not byte or len(head) > 16384:
                raise OSError("the proxy closed the connection")
            head += byte
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            line = head.split(b"\r\n", 1)[0].decode("latin-1")
            raise OSError(f"the proxy refused: {line}")
