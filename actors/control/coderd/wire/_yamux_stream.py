"""One stream of a yamux session: its windows, and what waits in it."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from ._protocol import LocalProtocolError, RemoteProtocolError
from ._yamux_frames import DATA, FIN, MAX_UINT32, WINDOW_UPDATE, FrameQueue, encode_frame

__all__ = ["INITIAL_WINDOW", "Stream"]

INITIAL_WINDOW: Final = 256 * 1024
"""Bytes per stream and direction before window must be given back; fixed by the protocol."""

_MAX_BODY: Final = 128 * 1024
_GIVE_BACK: Final = INITIAL_WINDOW // 2


@define(eq=False)
class Stream:
    """Both directions of a stream; ``done`` when both have seen their FIN."""

    id: int
    _output: FrameQueue
    finishing: bool = False
    """The caller is done; FIN is sent or waits behind what is pending."""
    _finished: bool = False
    _ended: bool = False
    _send_window: int = INITIAL_WINDOW
    _receive_window: int = INITIAL_WINDOW
    _unconsumed: int = 0
    """Bytes handed to the caller that it still has to consume."""
    _consumed: int = 0
    """Bytes consumed whose window was not given back yet."""
    _pending: bytearray = field(factory=bytearray)

    @property
    def done(self) -> bool:
        return self._finished and self._ended

    @property
    def pending(self) -> int:
        """Bytes that wait for the peer's window."""
        return len(self._pending)

    def send(self, data: bytes) -> None:
        """Queue data: in frames as far as the window goes, the rest here."""
        if self._pending or len(data) > min(self._send_window, _MAX_BODY):
            self._pending += data
            self.flush()
        elif data:
            self._send_frame(data)

    def flush(self) -> None:
        """Queue the frames that may leave now, FIN last."""
        while self._pending and self._send_window:
            size = min(self._send_window, _MAX_BODY)
            body = bytes(self._pending[:size])
            del self._pending[:size]
            self._send_frame(body)
        if self.finishing and not self._pending:
            self._finished = True
            self._output.add(encode_frame(WINDOW_UPDATE, FIN, self.id, 0))

    def _send_frame(self, body: bytes) -> None:
        self._send_window -= len(body)
        self._output.add(encode_frame(DATA, 0, self.id, len(body), body))

    def grow_window(self, delta: int) -> None:
        """The peer gives window back; queue what has waited for it."""
        self._send_window += delta
        if self._send_window > MAX_UINT32:
            raise RemoteProtocolError(f"stream {self.id}: the window exceeds 32 bits")
        if self._pending:
            self.flush()

    def announce(self, length: int) -> None:
        """The peer says that ``length`` bytes follow."""
        if length > self._receive_window:
            raise RemoteProtocolError(
                f"stream {self.id}: {length} bytes for a window of {self._receive_window}"
            )
        if length and self._ended:
            raise RemoteProtocolError(f"stream {self.id}: data after FIN")
        self._receive_window -= length

    def receive(self, count: int) -> None:
        """``count`` of the announced bytes are handed to the caller."""
        self._unconsumed += count

    def consume(self, count: int) -> None:
        """The caller is done with ``count`` bytes; queue a WindowUpdate when it is time."""
        if count > self._unconsumed:
            raise LocalProtocolError(
                f"stream {self.id}: {count} bytes consumed of {self._unconsumed} received"
            )
        self._unconsumed -= count
        self._consumed += count
        if self._consumed >= _GIVE_BACK and not self._ended:
            self._give_back()

    def pass_on(self, count: int) -> bool:
        """``count`` bytes were announced, handed out and consumed; False, and nothing is changed,
        if the peer may not send them."""
        if count > self._receive_window or self._ended:
            return False
        self._receive_window -= count
        self._consumed += count
        if self._consumed >= _GIVE_BACK:
            self._give_back()
        return True

    def _give_back(self) -> None:
        self._output.add(encode_frame(WINDOW_UPDATE, 0, self.id, self._consumed))
        self._receive_window += self._consumed
        self._consumed = 0

    def end(self) -> None:
        """The peer's FIN has come."""
        if self._ended:
            raise RemoteProtocolError(f"stream {self.id}: FIN sent twice")
        self._ended = True
