"""Open a connection to an upstream, through a proxy and TLS where configured."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Hashable

import requests.utils

from aigateway.actors.upstream.addresses import Addresses
from aigateway.actors.upstream.endpoint import Endpoint, Proxy
from aigateway.actors.upstream.errors import (
    ConnectFailed,
    ConnectTimeout,
    OutOfFiles,
    ProxyFailed,
)
from aigateway.actors.upstream.racing import connect_first
from aigateway.actors.upstream.tunnels import NoTunnel, ask_connect, ask_socks
from aigateway.actors.upstream.unwrapping import unwrapped
from aigateway.actors.upstream.waiting import time_left

__all__ = ["Connector", "Connectors", "Endpoint", "accept_company_authorities", "tls_context"]

MAX_CONNECTORS = 1000
"""Endpoints whose connectors are kept; more than a deployment has."""
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Connector:
    """Opens connections to one endpoint; safe to use from many threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float,
        ca_file: str = "",
        proxy: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``timeout`` in seconds bounds all of resolving, connecting, the proxy and TLS.

        ``ca_file`` replaces the system's certificate authorities, ``tls`` all that is made of
        it.  Both hold for a proxy that is spoken to by TLS too.  Raises ConnectFailed when a file
        cannot be read or ``proxy`` is not an address of a proxy.
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
        self._destinations = Addresses(endpoint)
        """For a proxy that wants addresses."""
        if "https" in (endpoint.scheme, self._target.scheme):
            tls = tls or tls_context(ca_file or True)
        self._tls = tls if endpoint.scheme == "https" else None
        self._proxy_tls = tls if self._proxy and self._target.scheme == "https" else None

    @property
    def absolute_form(self) -> bool:
        """Whether requests must name the whole URL (plain HTTP through a proxy)."""
        return self._proxy is not None and self._tls is None and not self._proxy.is_socks

    @property
    def proxy_authorization(self) -> str:
        """The value of Proxy-Authorization that each request must carry; empty: none."""
        return self._proxy.authorization if self._proxy and self.absolute_form else ""

    def connect(self, timeout: float | None = None) -> socket.socket:
        """Connect, within ``timeout`` seconds if these are given.

        Raises ConnectFailed or ConnectTimeout.
        """
        timeout = self._timeout if timeout is None else timeout
        return self._connect(timeout, self._tls, tunnel=self._tls is not None)

    def connect_below_tls(self) -> socket.socket:
        """Connect to where TLS, or whatever is spoken in its place, can begin.

        Through a proxy that is a tunnel.  Raises ConnectFailed or ConnectTimeout.
        """
        return self._connect(self._timeout, None, tunnel=True)

    def _connect(
        self, timeout: float, tls: ssl.SSLContext | None, *, tunnel: bool
    ) -> socket.socket:
        deadline = time.monotonic() + timeout
        target = self._target.authority
        try:
            sock = self._connect_tcp(deadline)
        except TimeoutError as ex:
            raise ConnectTimeout(f"no connection to {target} within {timeout:g} s") from ex
        except socket.gaierror as ex:
            if _no_files_left():
                # A resolver needs some too, and does not say so.
                raise OutOfFiles from ex
            text = ex.strerror or "unknown name"
            raise self._failed(f"cannot resolve the name {self._target.host}: {text}") from ex
        except OSError as ex:
            raise self._failed(f"cannot connect to {target}: {ex.strerror or ex}") from ex
        try:
            sock.settimeout(time_left(deadline))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None:
                sock = self._through(self._proxy, sock, deadline, tunnel=tunnel)
            if tls is not None:
                sock.settimeout(time_left(deadline))
                sock = tls.wrap_socket(sock, server_hostname=self.endpoint.host)
        except TimeoutError as ex:
            sock.close()
            raise ConnectTimeout(
                f"the connection to {self.endpoint.authority} was not ready within {timeout:g} s"
            ) from ex
        except (OSError, ValueError) as ex:
            sock.close()
            failed = ProxyFailed if isinstance(ex, NoTunnel) else ConnectFailed
            raise failed(f"cannot set up the connection to {self.endpoint.authority}: {ex}") from ex
        with self._lock:
            self.opened += 1
        return sock

    def _through(
        self, proxy: Proxy, sock: socket.socket, deadline: float, *, tunnel: bool
    ) -> socket.socket:
        """The way behind a proxy that ``sock`` is connected to."""
        if proxy.is_socks:
            return self._through_socks(proxy, sock, deadline)
        if self._proxy_tls is None:
            if tunnel:
                ask_connect(sock, proxy, self.endpoint.authority, deadline)
            return sock
        sock.settimeout(time_left(deadline))
        try:
            outer = self._proxy_tls.wrap_socket(sock, server_hostname=proxy.endpoint.host)
        except ssl.SSLError as ex:
            raise NoTunnel(
                f"no TLS with the proxy {proxy.endpoint.authority}: {ex} "
                "(one without TLS has an address that begins with http://)"
            ) from ex
        if not tunnel:
            return outer
        try:
            ask_connect(outer, proxy, self.endpoint.authority, deadline)
        except BaseException:
            outer.close()
            raise
        return unwrapped(outer)

    def _through_socks(self, proxy: Proxy, sock: socket.socket, deadline: float) -> socket.socket:
        port = self.endpoint.port
        if proxy.resolves:
            ask_socks(sock, proxy, self.endpoint.host, port, deadline)
            return sock
        addresses = list(self._destinations.get(time_left(deadline)))
        while addresses:
            address = addresses.pop(0)
            try:
                ask_socks(sock, proxy, str(address[1][0]), port, deadline)
            except NoTunnel:
                sock.close()
                if not addresses:
                    self._destinations.failed()
                    raise
                sock = self._connect_tcp(deadline)
            else:
                self._destinations.worked(address)
                return sock
        raise NoTunnel("the name has no address")

    def _failed(self, text: str) -> ConnectFailed:
        return ConnectFailed(text) if self._proxy is None else ProxyFailed(text)

    def _connect_tcp(self, deadline: float) -> socket.socket:
        try:
            sock, address = connect_first(self._addresses.get(time_left(deadline)), deadline)
        except OSError as ex:
            if ex.errno in _OUT_OF_FILES:
                raise OutOfFiles from ex
            self._addresses.failed()
            raise
        self._addresses.worked(address)
        return sock


class Connectors:
    """The connectors of many endpoints, each made once: it holds the certificates and the
    resolved addresses.  Safe to use from many threads."""

    def __init__(self, *, timeout: float) -> None:
        """``timeout`` is that of each connector, in seconds."""
        self._timeout = timeout
        self._known: dict[Hashable, Connector] = {}

    def get(
        self,
        endpoint: Endpoint,
        *,
        proxy: str = "",
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
    ) -> Connector:
        """The one for this endpoint, this way.  Raises ConnectFailed, as both
        :class:`Connector` and :func:`tls_context` do."""
        key = (endpoint, proxy, verify, cert)
        connector = self._known.get(key)
        if connector is None:
            if len(self._known) >= MAX_CONNECTORS:
                self._known.clear()
            tls = tls_context(verify, cert) if endpoint.scheme == "https" else None
            connector = Connector(endpoint, timeout=self._timeout, proxy=proxy, tls=tls)
            # The first caller has made it.
            connector = self._known.setdefault(key, connector)
        return connector


def _no_files_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as ex:
        return ex.errno in _OUT_OF_FILES
    return False


def accept_company_authorities(context: ssl.SSLContext) -> None:
    """Verify certificates as OpenSSL, Go and curl do by default.

    Python does it by the letter of RFC 5280 since 3.13, and many a company's own authority leaves
    out what that asks for: a critical basicConstraints, a key identifier.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT


def tls_context(
    verify: bool | str = True, cert: str | tuple[str, str] | None = None
) -> ssl.SSLContext:
    """How to speak TLS to an upstream.

    ``verify`` is a file or a folder of certificate authorities, True for the system's, False
    to trust every certificate; ``cert`` a file with a client's certificate, or one and the file
    of its key.  Raises ConnectFailed for what cannot be read.
    """
    authorities = verify if isinstance(verify, str) else ""
    found = ssl.get_default_verify_paths()
    if not (authorities or found.cafile or found.capath):
        # Small container images have no certificates of their own.
        authorities = requests.utils.DEFAULT_CA_BUNDLE_PATH
    is_folder = os.path.isdir(authorities)
    try:
        context = ssl.create_default_context(
            cafile=None if is_folder else authorities or None,
            capath=authorities if is_folder else None,
        )
    except OSError as ex:
        raise ConnectFailed(f"cannot read the CA file {authorities}: {ex}") from ex
    accept_company_authorities(context)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        file, key = (cert, None) if isinstance(cert, str) else cert
        try:
            context.load_cert_chain(file, key)
        except OSError as ex:
            raise ConnectFailed(f"cannot use the certificate {file}: {ex}") from ex
    context.set_alpn_protocols(["http/1.1"])
    return context
