"""Connect to the first of several addresses that answers (RFC 8305, "Happy Eyeballs").

An address that leads nowhere says nothing: a name whose IPv6 address is dead would cost a connect
timeout each time.  So the next address is tried soon, beside those that have not answered yet,
and the first connection wins.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence

from aigateway.actors.upstream.addresses import Address

__all__ = ["ATTEMPT_DELAY", "connect_first"]

ATTEMPT_DELAY = 0.3
"""Seconds that an address has for itself before the next is tried beside it.  RFC 8305 wants 0.1 to
2 and recommends 0.25."""
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR})
_ANSWERED = select.POLLOUT | select.POLLERR | select.POLLHUP


def connect_first(addresses: Sequence[Address], deadline: float) -> tuple[socket.socket, Address]:
    """Connect to one of ``addresses``, preferably an early one; ``deadline`` is monotonic time.

    Raises TimeoutError when none answers in time, else what the last failed with (OSError).
    """
    waiting = list(addresses)
    under_way: dict[int, tuple[socket.socket, Address]] = {}
    error: OSError = OSError("the name has no address")
    poll = select.poll()
    begin = True
    try:
        while waiting or under_way:
            if waiting and (begin or not under_way):
                begin = False
                next_at = time.monotonic() + ATTEMPT_DELAY
                address = waiting.pop(0)
                try:
                    sock = _begin(address)
                except OSError as ex:
                    if ex.errno in (errno.EMFILE, errno.ENFILE):
                        raise
                    error = ex
                    continue
                under_way[sock.fileno()] = sock, address
                poll.register(sock.fileno(), _ANSWERED)
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError("timed out")
            until = min(deadline, next_at) if waiting else deadline
            for descriptor, _ in poll.poll(max(until - now, 0.001) * 1000):
                poll.unregister(descriptor)
                sock, address = under_way.pop(descriptor)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return sock, address
                sock.close()
                error = OSError(code, os.strerror(code))
            # RFC 8305, section 5: one that has failed is not waited for.
            begin = time.monotonic() >= next_at or not under_way
        raise error
    finally:
        for sock, _ in under_way.values():
            sock.close()


def _begin(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code and code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
