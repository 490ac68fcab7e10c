"""Ask a proxy for a way through: with CONNECT (RFC 9110, section 9.3.6) or SOCKS 5 (RFC 1928)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Final

from aigateway.actors.upstream.endpoint import Proxy
from aigateway.actors.upstream.waiting import time_left

__all__ = ["NoTunnel", "ask_connect", "ask_socks"]

MAX_PROXY_HEAD: Final = 16 * 1024
"""Bytes of a proxy's answer to CONNECT before it is taken for something else."""
_SHOWN: Final = 100

_VERSION: Final = 5
_NO_LOGIN, _PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REFUSALS: Final[Mapping[int, str]] = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "the way was too long (TTL expired)",
    7: "command not supported",
    8: "address type not supported",
}
"""RFC 1928, section 6."""


class NoTunnel(OSError):
    """The proxy makes no way through."""


def ask_connect(sock: socket.socket, proxy: Proxy, target: str, deadline: float) -> None:
    """Ask an HTTP proxy for a way to ``target`` (host and port).

    Raises NoTunnel when it refuses, OSError for everything else.
    """
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows the head belongs to TLS.
        head += _receive(sock, 1, deadline)
        if len(head) > MAX_PROXY_HEAD:
            raise NoTunnel("what the proxy answered has no end")
    line = head.partition(b"\r\n")[0].decode("latin-1")
    if not line.partition(" ")[2].startswith("2"):
        raise NoTunnel(f"the proxy refused: {line[:_SHOWN]}")


def ask_socks(sock: socket.socket, proxy: Proxy, host: str, port: int, deadline: float) -> None:
    """Ask a SOCKS 5 proxy for a way to ``host``, a name or a numeric address.

    Raises NoTunnel when it refuses, OSError for everything else.
    """
    methods = bytes([_NO_LOGIN, _PASSWORD] if proxy.login is not None else [_NO_LOGIN])
    sock.sendall(bytes([_VERSION, len(methods)]) + methods)
    version, method = _receive(sock, 2, deadline)
    if version != _VERSION:
        raise NoTunnel("the proxy does not speak SOCKS 5")
    if method == _PASSWORD and proxy.login is not None:
        user, password = (text.encode() for text in proxy.login)
        sock.sendall(b"\x01" + _counted(user) + _counted(password))
        if _receive(sock, 2, deadline)[1]:
            raise NoTunnel("the proxy refused the user name or the password")
    elif method != _NO_LOGIN:
        raise NoTunnel("the proxy wants another kind of login")
    sock.sendall(bytes([_VERSION, 1, 0]) + _destination(host) + port.to_bytes(2, "big"))
    _, reply, _, kind = _receive(sock, 4, deadline)
    if reply:
        raise NoTunnel(f"the proxy refused: {_REFUSALS.get(reply, f'code {reply}')}")
    # From where it connects, which nobody needs to know.
    sizes = {_IPV4: 4, _IPV6: 16}
    size = sizes[kind] if kind in sizes else _receive(sock, 1, deadline)[0]
    _receive(sock, size + 2, deadline)


def _destination(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bytes([_NAME]) + _counted(host.encode("ascii"))
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _counted(text: bytes) -> bytes:
    if len(text) > 255:
        raise NoTunnel("a name of more than 255 bytes cannot be told to the proxy")
    return bytes([len(text)]) + text


def _receive(sock: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly so many bytes, and none behind them."""
    data = b""
    while len(data) < size:
        sock.settimeout(time_left(deadline))
        more = sock.recv(size - len(data))
        if not more:
            raise NoTunnel("the proxy closed the connection")
        data += more
    return data
