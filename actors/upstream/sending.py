"""Send a request, and notice when the upstream has heard enough.

Small requests are one system call.  A large one may be answered before it is sent (413, 401)
and the connection closed: then what was answered counts, not that the rest could not be sent.
So while the peer takes no more bytes, its own are looked at; and when it breaks off, what it
said before is read.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from aigateway.actors.upstream.errors import NotSent, SendFailed

__all__ = ["JOIN_LIMIT", "SEND_PATIENCE", "Receive", "send_request"]

JOIN_LIMIT = 16 * 1024
"""Head and body up to this size together travel as one piece, which is one record of TLS."""
SEND_PATIENCE = 60.0
"""Seconds in which the peer must take at least one byte."""
LISTEN_EVERY = 0.25
"""Seconds of waiting for the peer to take more, after which it is asked what it says."""
READ_SIZE = 65536
"""Bytes read at once: what a busy stream's socket buffer holds, a small part of a worker."""

Receive = Callable[[bytes], bool]
"""Takes what the peer sent early; says whether sending should end."""

_NOTHING = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def send_request(sock: socket.socket, head: bytes, body: bytes, receive: Receive) -> bool:
    """Send ``head`` and ``body``; returns whether all of it was sent.

    When it returns False, ``receive`` has got what the peer said instead, which may be
    nothing.  Raises NotSent and SendFailed.
    """
    room = max(JOIN_LIMIT - len(head), 0)
    whole = len(body) <= room
    first = head + body if whole else head + body[:room]
    try:
        sock.settimeout(SEND_PATIENCE)
        sent = sock.send(first)
    except OSError as ex:
        raise NotSent(f"the upstream closed the connection: {ex.strerror or ex}") from ex
    if whole and sent == len(first):
        return True
    try:
        return _send_rest(sock, memoryview(first)[sent:], receive) and _send_rest(
            sock, memoryview(body)[room:], receive
        )
    finally:
        sock.settimeout(SEND_PATIENCE)


def _send_rest(sock: socket.socket, rest: memoryview, receive: Receive) -> bool:
    sock.settimeout(LISTEN_EVERY)
    progress = time.monotonic()
    while rest:
        try:
            sent = sock.send(rest)
        except TimeoutError:
            if not _listen(sock, receive):
                return False
            if time.monotonic() - progress > SEND_PATIENCE:
                raise SendFailed(
                    f"the upstream took no byte of the request within {SEND_PATIENCE:g} s"
                ) from None
            sock.settimeout(LISTEN_EVERY)
        except OSError:
            _listen(sock, receive)
            return False
        else:
            # A greenlet's socket may say 0 for "not yet".
            if sent:
                rest = rest[sent:]
                progress = time.monotonic()
    return True


def _listen(sock: socket.socket, receive: Receive) -> bool:
    """Take what the peer has said so far; returns whether it may want to hear more."""
    sock.settimeout(0.0)
    try:
        while data := sock.recv(READ_SIZE):
            if receive(data):
                return False
    except _NOTHING:
        return True
    except OSError:
        pass
    return False
