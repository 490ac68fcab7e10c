"""Open a connection to an upstream, through a proxy and TLS where configured."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time

import requests.utils

from aigateway.actors.upstream.addresses import Address, Addresses
from aigateway.actors.upstream.endpoint import Endpoint, Proxy
from aigateway.actors.upstream.errors import ConnectFailed, ConnectTimeout, OutOfFiles

__all__ = ["Connector", "Endpoint"]

MIN_ATTEMPT = 2.0
"""Seconds that one of several addresses gets at least, as far as the timeout allows."""
MAX_PROXY_HEAD = 16 * 1024
"""Bytes of a proxy's answer to CONNECT before it is taken for something else."""
_SHOWN = 100
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Connector:
    """Opens connections to one endpoint; safe to use from many threads."""

    def __init__(
        self, endpoint: Endpoint, *, timeout: float, ca_file: str = "", proxy: str = ""
    ) -> None:
        """``timeout`` in seconds bounds all of resolving, connecting, the proxy and TLS.

        ``ca_file`` replaces the system's certificate authorities.  Raises ConnectFailed when
        it cannot be read or ``proxy`` is no address of an HTTP proxy.
        """
        self.endpoint = endpoint
        self.opened = 0
        """Connections opened so far."""
        self._timeout = timeout
        self._lock = threading.Lock()
        try:
            self._proxy = Proxy.of(proxy) if proxy else None
        except ValueError as ex:
            raise ConnectFailed(str(ex)) from ex
        self._target = self._proxy.endpoint if self._proxy is not None else endpoint
        self._addresses = Addresses(self._target)
        self._tls = _tls_context(ca_file) if endpoint.scheme == "https" else None

    @property
    def absolute_form(self) -> bool:
        """Whether requests must name the whole URL (plain HTTP through a proxy)."""
        return self._proxy is not None and self._tls is None

    @property
    def proxy_authorization(self) -> str:
        """The value of Proxy-Authorization that each request must carry; empty: none."""
        return self._proxy.authorization if self._proxy is not None and self._tls is None else ""

    def connect(self) -> socket.socket:
        """Connect; raises ConnectFailed or ConnectTimeout."""
        deadline = time.monotonic() + self._timeout
        target = self._target.authority
        try:
            sock = self._connect_tcp(deadline)
        except TimeoutError as ex:
            raise ConnectTimeout(f"no connection to {target} within {self._timeout:g} s") from ex
        except socket.gaierror as ex:
            if _no_files_left():
                # A resolver needs some too, and does not say so.
                raise OutOfFiles from ex
            text = ex.strerror or "unknown name"
            raise ConnectFailed(f"cannot resolve the name {self._target.host}: {text}") from ex
        except OSError as ex:
            raise ConnectFailed(f"cannot connect to {target}: {ex.strerror or ex}") from ex
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None and self._tls is not None:
                _tunnel(sock, self._proxy, self.endpoint.authority, deadline)
            if self._tls is not None:
                sock.settimeout(_left(deadline))
                sock = self._tls.wrap_socket(sock, server_hostname=self.endpoint.host)
        except TimeoutError as ex:
            sock.close()
            raise ConnectTimeout(
                f"the connection to {self.endpoint.authority} was not ready within"
                f" {self._timeout:g} s"
            ) from ex
        except (OSError, ValueError) as ex:
            sock.close()
            raise ConnectFailed(
                f"cannot set up the connection to {self.endpoint.authority}: {ex}"
            ) from ex
        with self._lock:
            self.opened += 1
        return sock

    def _connect_tcp(self, deadline: float) -> socket.socket:
        addresses = self._addresses.get(_left(deadline))
        error: OSError | None = None
        for place, address in enumerate(addresses):
            left = _left(deadline)
            share = max(left / (len(addresses) - place), min(MIN_ATTEMPT, left))
            try:
                sock = _dial(address, share)
            except OSError as ex:
                if ex.errno in _OUT_OF_FILES:
                    raise OutOfFiles from ex
                error = ex
                continue
            if place:
                self._addresses.worked(address)
            return sock
        self._addresses.failed()
        raise error or OSError("the name has no address")


def _dial(address: Address, timeout: float) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _no_files_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as ex:
        return ex.errno in _OUT_OF_FILES
    return False


def _left(deadline: float) -> float:
    """Seconds until ``deadline``; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _tls_context(ca_file: str) -> ssl.SSLContext:
    found = ssl.get_default_verify_paths()
    if not (ca_file or found.cafile or found.capath):
        # Small container images have no certificates of their own.
        ca_file = requests.utils.DEFAULT_CA_BUNDLE_PATH
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as ex:
        raise ConnectFailed(f"cannot read the CA file {ca_file}: {ex}") from ex
    context.set_alpn_protocols(["http/1.1"])
    return context


def _tunnel(sock: socket.socket, proxy: Proxy, target: str, deadline: float) -> None:
    """Ask a proxy for a way through (RFC 9110, section 9.3.6)."""
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        sock.settimeout(_left(deadline))
        # One byte at a time: what follows the head belongs to TLS.
        byte = sock.recv(1)
        if not byte or len(head) > MAX_PROXY_HEAD:
            raise OSError("the proxy closed the connection")
        head += byte
    line = head.partition(b"\r\n")[0].decode("latin-1")
    if not line.partition(" ")[2].startswith("2"):
        raise OSError(f"the proxy refused: {line[:_SHOWN]}")
