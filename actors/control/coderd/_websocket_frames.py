"""WebSocket frames as the one stream of bytes that coderd means by them, without I/O.

PERF: coderd sends four frames per answer, most of them 12 bytes long.  The WebSocket library
takes several reads and objects for each: 19 µs for the four, and 3 here (``python -m bench run
own-parts``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aigateway.actors.codec.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from aigateway.actors.control.coderd.wire._protocol import InputBuffer

__all__ = ["MAX_MESSAGE", "FrameReader", "Notice", "TextMessage"]

MAX_MESSAGE: Final = 256 * 1024
"""Largest frame read, in bytes; coderd has the same limit."""

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_MAX_CONTROL: Final = 125
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_DATA: Final = (BINARY, CONTINUATION)
_WHOLE: Final = _FINAL | BINARY
"""How a message begins that is one frame."""


class TextMessage(ValueError):
    """The server sent text, which is not a byte stream."""

    def __init__(self) -> None:
        super().__init__("the peer sent a text message")


class Notice(NamedTuple):
    """A control frame."""

    opcode: int
    payload: bytes


class FrameReader(InputBuffer):
    """Turns a server's bytes into one stream of data, with notices in between."""

    def __init__(self) -> None:
        super().__init__()
        self._missing = 0
        """Bytes of the current frame that have not come."""
        self._fragmented = False

    def next(self) -> bytes | Notice | None:
        """Return the data of all frames up to the next notice, or that, or nothing.

        Data come as they arrive, whether or not their frame is whole.  Raises ValueError for
        what no server may send.
        """
        data, at = self._data, self._at
        end = len(data)
        pieces = []
        while True:
            # PERF: nearly all frames are messages of a few bytes, and here as a whole.
            while not (self._missing or self._fragmented) and at + 2 <= end:
                size = data[at + 1]
                behind = at + 2 + size
                if data[at] != _WHOLE or size > _MAX_CONTROL or behind > end:
                    break
                pieces.append(data[at + 2 : behind])
                at = behind
            if self._missing:
                piece = data[at : at + self._missing]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._missing -= len(piece)
                continue
            try:
                head = self._read_head(at)
            except ValueError:
                if pieces:
                    # What came before it is told first.
                    break
                raise
            if head is None:
                break
            opcode, size, start = head
            if opcode in _DATA:
                self._missing = size
                at = start
            elif pieces or len(data) - start < size:
                break
            else:
                self._at = start + size
                return Notice(opcode, bytes(data[start : start + size]))
        self._at = at
        return b"".join(pieces) or None

    def _read_head(self, at: int) -> tuple[int, int, int] | None:
        """Return opcode and size of a frame, and where its payload begins, if all that is there."""
        data = self._data
        if len(data) - at < 2:
            return None
        first, size = data[at], data[at + 1]
        opcode, final = first & 0x0F, first & _FINAL
        at += 2
        if first & 0x70 or opcode not in _OPCODES:
            raise ValueError(f"a WebSocket frame with opcode {opcode}, rsv {first >> 4 & 7}")
        if opcode == TEXT:
            raise TextMessage
        if size & _MASKED:
            raise ValueError("a masked WebSocket frame")
        if opcode >= CLOSE and (size > _MAX_CONTROL or not final):
            raise ValueError("a WebSocket control frame that is too long or not whole")
        if size > _MAX_CONTROL:
            width = 2 if size == 126 else 8
            if len(data) - at < width:
                return None
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
            if size > MAX_MESSAGE:
                raise ValueError(f"a WebSocket frame of {size} bytes, at most {MAX_MESSAGE}")
        if opcode in _DATA:
            if (opcode == CONTINUATION) != self._fragmented:
                raise ValueError("the frames of two messages, mixed up")
            self._fragmented = not final
        return opcode, size, at
