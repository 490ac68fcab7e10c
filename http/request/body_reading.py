"""Reading requests' bodies from clients, which decide how long that takes.

A body has so much time in all, and must bring a least number of bytes in each window of
``WINDOW`` seconds.  All bodies that are being read by this process together may hold so many
bytes; a body that would go over that is refused.  So clients that stop in the middle, drip,
or come all at once cost the others nothing but a moment.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from attrs import define

from aigateway.actors.upstream.waiting import patient

__all__ = ["BodyTooLarge", "BodyTooSlow", "Bodies", "Pace", "TooManyBodies"]

WINDOW = 10.0
"""Seconds in which the least rate is measured."""


class BodyTooLarge(Exception):
    """The request's body is over the limit."""


class BodyTooSlow(Exception):
    """The body did not come in its time; the text says which rule it broke."""


class TooManyBodies(Exception):
    """The bodies that are being read hold as much memory as they may."""


class Bodies:
    """The bodies that this process is reading now.  Safe to use from many threads."""

    def __init__(self, limit: int, timeout: float, least_rate: int) -> None:
        """``limit`` is bytes of all bodies together, ``timeout`` seconds for each,
        ``least_rate`` bytes per second; 0 of the last: none."""
        self._limit = limit
        self._timeout = timeout
        self._least_rate = least_rate
        self._lock = threading.Lock()
        self.held = 0
        """Bytes that they hold."""

    def begin(self, most: int) -> Pace:
        """One more body of at most so many bytes is read; :meth:`Pace.over` must follow."""
        now = time.monotonic()
        until = now + self._timeout
        return Pace(self, most, until, self._timeout, self._least_rate, now + WINDOW)

    def hold(self, size: int) -> None:
        """``size`` more bytes are there.  Raises TooManyBodies."""
        with self._lock:
            if self._limit and self.held + size > self._limit:
                raise TooManyBodies
            self.held += size

    def release(self, size: int) -> None:
        with self._lock:
            self.held -= size


@define(eq=False)
class Pace:
    """One body's size, time, window and memory."""

    _bodies: Bodies
    _most: int
    _until: float
    _timeout: float
    _least_rate: int
    _window_until: float
    _in_window: int = 0
    _held: int = 0
    _announced: int = 0

    def announce(self, size: int) -> None:
        """The client says that a chunk of ``size`` bytes follows.  Raises BodyTooLarge."""
        self._announced += size
        if self._announced > self._most:
            raise BodyTooLarge

    def receive(self, sock: Any, size: int) -> bytes:
        """What ``sock`` receives.  Raises BodyTooSlow, TooManyBodies, and what a socket raises."""
        before = sock.gettimeout()
        try:
            data = self._receive(sock, size)
        finally:
            sock.settimeout(before)
        self._bodies.hold(len(data))
        self._held += len(data)
        self._in_window += len(data)
        return data

    def _receive(self, sock: Any, size: int) -> bytes:
        while True:
            now = time.monotonic()
            if now >= self._until:
                raise BodyTooSlow(f"it was not there within {self._timeout:g} s")
            until = self._until
            if self._least_rate:
                if now >= self._window_until:
                    self._next_window(now)
                until = min(until, self._window_until)
            sock.settimeout(max(until - now, 0.001))
            try:
                data: bytes = patient(sock).recv(size)
            except TimeoutError:
                continue
            return data

    def _next_window(self, now: float) -> None:
        if self._in_window < self._least_rate * WINDOW:
            raise BodyTooSlow(f"it came with less than {self._least_rate} bytes per second")
        self._in_window = 0
        self._window_until = now + WINDOW

    def over(self) -> None:
        """The body is whole or given up, and where it goes from here holds its memory."""
        held, self._held = self._held, 0
        self._bodies.release(held)
