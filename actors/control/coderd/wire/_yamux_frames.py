"""yamux frames: encoding, reading, and the queue of those that wait to be sent.

A frame is a header of 12 bytes, big endian: version (0), type, flags (16 bits), stream id
(32), length (32).  The length is the size of the body for Data, the window's growth for
WindowUpdate, an opaque number for Ping and the reason for GoAway.  Only Data has a body.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, TypeAlias

from ._protocol import InputBuffer, RemoteProtocolError

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
    "Frame",
    "FrameQueue",
    "FrameReader",
    "MORE",
    "encode_frame",
]

# Plain integers: flags are tested for each frame, and enum members make that several times
# as slow.
DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3
MORE: Final = 4
"""Not on the wire: a further piece of the body of the last Data frame."""

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
_WORDS = struct.Struct(">III")
"""The same three words; the first is 0 for a Data frame without flags."""


Frame: TypeAlias = tuple[int, int, int, int, bytes]
"""Kind, flags, stream id, length, and as much of the body of a Data frame as there is.

The rest of the body follows as MORE, whose length is what is still missing behind it.
"""


def encode_frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    """Encode a frame of protocol version 0, the only one there is."""
    return _HEADER.pack(0, kind, flags, stream_id, length) + body


class FrameReader(InputBuffer):
    """Cuts the peer's bytes into frames.

    A body is handed out as it arrives, so that a frame with a body of 4 GiB, which a peer
    may announce for a stream that is gone, costs no memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._missing = 0

    @property
    def inside_frame(self) -> bool:
        """Whether a part of a frame has been received and the rest has not."""
        return bool(self._missing) or self._at < len(self._data)

    def clear(self) -> None:
        self._data, self._at = b"", 0

    def next(self) -> Frame | None:
        """Return the next frame or piece of one, or nothing until more is received.

        Raises RemoteProtocolError for a header that is none.
        """
        data, at = self._data, self._at
        if self._missing:
            if at == len(data):
                return None
            kind, flags, stream_id = MORE, 0, 0
        else:
            if len(data) - at < HEADER_SIZE:
                return None
            version, kind, flags, stream_id, length = _HEADER.unpack_from(data, at)
            if version != 0:
                raise RemoteProtocolError(f"yamux version {version}, only 0 is known")
            if kind > GO_AWAY:
                raise RemoteProtocolError(f"yamux frame of unknown type {kind}")
            self._at = at = at + HEADER_SIZE
            if kind != DATA:
                return kind, flags, stream_id, length, b""
            self._missing = length
        body = bytes(data[at : at + self._missing])
        self._at = at + len(body)
        missing = self._missing = self._missing - len(body)
        return kind, flags, stream_id, missing if kind == MORE else length, body

    def next_plain(self) -> tuple[int, bytes] | None:
        """Take a Data frame that has no flags and is there as a whole: its stream's id and body.

        None for all else, which is left for :meth:`next`.
        """
        data, at = self._data, self._at
        start = at + HEADER_SIZE
        if self._missing or len(data) <= start:
            return None
        first, stream_id, length = _WORDS.unpack_from(data, at)
        end = start + length
        if first or len(data) < end:
            return None
        self._at = end
        return stream_id, bytes(data[start:end])

    def put_back(self, body: bytes) -> None:
        """The frame with this body, the last that was taken, was not plain after all."""
        self._at -= HEADER_SIZE + len(body)


class FrameQueue:
    """Whole frames that wait to be sent, taken out in pieces of any size."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._urgent: deque[bytes] = deque()
        self._cut = b""

    def add(self, frame: bytes) -> None:
        self._frames.append(frame)

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
