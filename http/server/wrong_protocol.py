"""Clients that speak TLS to a listener without it, or plain HTTP to one with it.

Each sees an error that does not say so (``wrong version number``, an empty answer), and the one who
runs the gateway saw nothing.  Scanners do it all day, so it is told seldom.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import Any, Final

import structlog

__all__ = ["begins_tls", "note_plain", "note_tls"]

EVERY: Final = 60.0
"""Seconds between two lines of a kind."""
_HANDSHAKE: Final = b"\x16\x03"
"""Type and major version of the record that opens TLS (RFC 8446, section 5.1)."""
_PLAIN: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
"""What OpenSSL calls it."""

log = structlog.get_logger("ai-gateway")

_told: dict[str, float] = {}


def begins_tls(first: bytes | bytearray) -> bool:
    """Whether a connection's first bytes are no HTTP, but TLS."""
    return first[:2] == _HANDSHAKE


def note_tls(sock: object) -> None:
    """A client has begun TLS where there is none."""
    _tell(
        "a client speaks TLS, but this listener has none: give it an http:// address, "
        "or the gateway a certificate (--tls-cert-file)",
        sock,
    )


def note_plain(ex: Exception, sock: object) -> None:
    """A handshake has failed with ``ex``; no more is done unless that was no handshake."""
    if isinstance(ex, ssl.SSLError) and ex.reason in _PLAIN:
        text = "a client speaks plain HTTP, but this listener has TLS: give it an https:// address"
        _tell(text, sock)


def _tell(text: str, sock: Any) -> None:
    now = time.monotonic()
    if now < _told.get(text, 0.0):
        return
    _told[text] = now + EVERY
    peer = ""
    with contextlib.suppress(OSError, IndexError, TypeError):
        peer = str(sock.getpeername()[0])
    log.warning(text, client_ip=peer)
