"""A server's WebSocket frames, without I/O.

PERF: coderd sends four frames per answer, most of them 12 bytes long.  The WebSocket library
takes several reads and objects for each; reading them here halves what a call costs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MAX_MESSAGE", "Frame", "FrameReader"]

MAX_MESSAGE: Final = 256 * 1024
"""Largest frame read, in bytes; coderd has the same limit."""

_MAX_CONTROL: Final = 125
_OPCODES: Final = frozenset({0, 1, 2, 8, 9, 10})


class Frame(NamedTuple):
    """One frame; control frames have opcodes from 8 on."""

    opcode: int
    fin: bool
    payload: bytes


class FrameReader:
    """Cuts a server's bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Frame | None:
        """Return the next frame, or nothing until more is received.

        Raises ValueError for what no server may send.
        """
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size = buffer[0], buffer[1]
        opcode, fin, at = first & 0x0F, bool(first & 0x80), 2
        if first & 0x70 or opcode not in _OPCODES:
            raise ValueError(f"a WebSocket frame with opcode {opcode}, rsv {first >> 4 & 7}")
        if size & 0x80:
            raise ValueError("a masked WebSocket frame")
        if opcode >= 8 and (size > _MAX_CONTROL or not fin):
            raise ValueError("a WebSocket control frame that is too long or not whole")
        if size > _MAX_CONTROL:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return None
            size, at = int.from_bytes(buffer[at : at + width], "big"), at + width
            if size > MAX_MESSAGE:
                raise ValueError(f"a WebSocket frame of {size} bytes, at most {MAX_MESSAGE}")
        end = at + size
        if len(buffer) < end:
            return None
        payload = bytes(buffer[at:end])
        del buffer[:end]
        return Frame(opcode, fin, payload)
