"""yamux frames: encoding, reading, and the queue of those that wait to be sent.

A frame is a header of 12 bytes, big endian: version (0), type, flags (16 bits), stream id
(32), length (32).  The length is the size of the body for Data, the window's growth for
WindowUpdate, an opaque number for Ping and the reason for GoAway.  Only Data has a body.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from ._errors import RemoteProtocolError

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "HEADER_SIZE",
    "INTERNAL_ERROR",
    "MAX_UINT32",
    "NORMAL",
    "PING",
    "PROTOCOL_ERROR",
    "RST",
    "SYN",
    "WINDOW_UPDATE",
    "Body",
    "FrameQueue",
    "FrameReader",
    "Header",
    "encode_frame",
]

# Plain integers: flags are tested for each frame, and enum members make that several times
# as slow.
DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

NORMAL: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2

HEADER_SIZE: Final = 12
MAX_UINT32: Final = 0xFFFFFFFF

_HEADER = struct.Struct(">BBHII")


class Header(NamedTuple):
    """The header of a frame; the body of a Data frame follows as :class:`Body` pieces."""

    kind: int
    flags: int
    stream_id: int
    length: int


class Body(NamedTuple):
    """A piece of the body of the last header's frame."""

    data: bytes
    complete: bool


def encode_frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    """Encode a frame of protocol version 0, the only one there is."""
    return _HEADER.pack(0, kind, flags, stream_id, length) + body


class FrameReader:
    """Cuts the peer's bytes into headers and pieces of bodies.

    A body is handed out as it arrives, so that a frame with a body of 4 GiB, which a peer
    may announce for a stream that is gone, costs no memory.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body = 0

    @property
    def inside_frame(self) -> bool:
        """Whether a part of a frame has been received and the rest has not."""
        return bool(self._body or self._buffer)

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def clear(self) -> None:
        self._buffer.clear()

    def next(self) -> Header | Body | None:
        """Return the next part, or nothing until more is received.

        Raises RemoteProtocolError for a header that is none.
        """
        if self._body:
            if not self._buffer:
                return None
            data = bytes(self._buffer[: self._body])
            del self._buffer[: len(data)]
            self._body -= len(data)
            return Body(data, not self._body)
        if len(self._buffer) < HEADER_SIZE:
            return None
        version, *rest = _HEADER.unpack_from(self._buffer)
        header = Header(*rest)
        if version != 0:
            raise RemoteProtocolError(f"yamux version {version}, only 0 is known")
        if header.kind > GO_AWAY:
            raise RemoteProtocolError(f"yamux frame of unknown type {header.kind}")
        del self._buffer[:HEADER_SIZE]
        if header.kind == DATA:
            self._body = header.length
        return header


class FrameQueue:
    """Whole frames that wait to be sent, taken out in pieces of any size."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._urgent: deque[bytes] = deque()
        self._cut = b""

    def add(self, frame: bytes) -> None:
        self._frames.append(frame)

    def extend(self, frames: Iterable[bytes]) -> None:
        self._frames.extend(frames)

    def add_urgent(self, frame: bytes) -> None:
        """Queue a frame that overtakes the others; the order of urgent ones is kept."""
        self._urgent.append(frame)

    def take(self, limit: int) -> bytes:
        """Take at most ``limit`` bytes; empty when nothing waits."""
        pieces = []
        while limit > 0:
            # The rest of a frame comes first: nothing may get into the middle of it.
            if self._cut:
                piece = self._cut
                self._cut = b""
            elif self._urgent:
                piece = self._urgent.popleft()
            elif self._frames:
                piece = self._frames.popleft()
            else:
                break
            if len(piece) > limit:
                piece, self._cut = piece[:limit], piece[limit:]
            limit -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
