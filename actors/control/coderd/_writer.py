"""What a session has to send: at once if it fits, else in a thread that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from aigateway.actors.control.coderd._channel import Channel

__all__ = ["Writer"]


class Writer:
    """Sends what ``take`` returns until it returns nothing.

    ``lock`` guards ``take`` and belongs to the session; :meth:`run` is for a thread of its own.
    """

    def __init__(self, channel: Channel, lock: threading.Lock, take: Callable[[], bytes]) -> None:
        self._channel = channel
        self._lock = lock
        self._take = take
        self._wake = threading.Condition(lock)
        """There is a rest, or it is time to close."""
        self._rest = False
        """Whether the channel has one, so that only the thread may send."""
        self._closing = False

    def send_queued(self) -> None:
        """Send what fits, with the lock held.  Raises ChannelError."""
        if self._rest or self._closing:
            return
        while chunk := self._take():
            if not self._channel.send_now(chunk):
                self._rest = True
                self._wake.notify()
                return

    def close(self) -> None:
        """Have the thread send all there is, say goodbye and return; with the lock held."""
        self._closing = True
        self._wake.notify()

    def run(self) -> None:
        """Wait for a peer that does not read fast enough.  Raises ChannelError."""
        while self._wait():
            self._send_all()
        self._send_all()
        self._channel.close()

    def _wait(self) -> bool:
        """Wait until there is a rest, or return False when it is time to close."""
        with self._wake:
            while not self._rest and not self._closing:
                self._wake.wait()
            return not self._closing

    def _send_all(self) -> None:
        self._channel.flush()
        while chunk := self._next():
            self._channel.send_now(chunk)
            self._channel.flush()

    def _next(self) -> bytes:
        with self._lock:
            chunk = self._take()
            self._rest = bool(chunk)
        return chunk
