"""WebSocket messages (RFC 6455) as one side writes and as the other reads them, without I/O.

A server's frames go to a client as they came from another server: nothing in them depends on the
connection.  So a message keeps the bytes of its frames beside what it says.  A client's frames are
masked, and are written again for another connection.

Extensions are not spoken: nobody asks for one, so a frame that uses one is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from functools import lru_cache
from typing import Final

from attrs import frozen

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Message",
    "MessageReader",
    "WrongMessage",
    "accept_key",
    "close_frame",
    "encode_frame",
    "read_close",
]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload."""
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_RESERVED: Final = 0x70
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_WHOLE: Final = (_FINAL | TEXT, _FINAL | BINARY)
_FEW: Final = 512
"""Bytes of a payload from which on it is mixed in four parts."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_FRAGMENT: Final = 64
"""Bytes that a fragment takes beside its payload: even of empty ones there may not be many."""
_UNSAID: Final = frozenset({1004, 1005, 1006, 1015})
"""Codes that stand for the lack of one, and may not be sent."""


def accept_key(key: str) -> str:
    """What a server answers to a client's ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(key.encode("latin-1", "replace") + _GUID, usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode()


def encode_frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """Encode one whole frame; a client's has a ``mask``: four bytes that nobody can foresee."""
    size = len(payload)
    flag = _MASKED if mask else 0
    if size <= MAX_CONTROL:
        head = bytes((_FINAL | opcode, flag | size))
    elif size < 1 << 16:
        head = struct.pack(">BBH", _FINAL | opcode, flag | 126, size)
    else:
        head = struct.pack(">BBQ", _FINAL | opcode, flag | 127, size)
    return b"".join((head, mask, _with_mask(payload, mask))) if mask else head + payload


def _with_mask(payload: bytes, mask: bytes) -> bytes:
    """Masked, or unmasked: twice is none."""
    size = len(payload)
    if size < _FEW:
        repeated = (mask * (size // 4 + 1))[:size]
        mixed = int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")
        return mixed.to_bytes(size, "little")
    # PERF: each fourth byte is mixed with the same one.  Half the time of one large number.
    done = bytearray(payload)
    for at, byte in enumerate(mask):
        done[at::4] = done[at::4].translate(_mixed_with(byte))
    return bytes(done)


@lru_cache(maxsize=256)
def _mixed_with(byte: int) -> bytes:
    """What becomes of each byte."""
    return bytes([other ^ byte for other in range(256)])


def close_frame(code: int | None, reason: str = "", mask: bytes = b"") -> bytes:
    """The frame that ends a connection; ``reason`` is cut to what there is room for."""
    if code is None:
        return encode_frame(CLOSE, b"", mask)
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL - 2]
    text = text.decode("utf-8", "ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text, mask)


def read_close(payload: bytes) -> tuple[int | None, str]:
    """Code and reason of a close frame; no code where there is none that may be sent on."""
    if len(payload) < 2:
        return None, ""
    code = int.from_bytes(payload[:2], "big")
    if not 1000 <= code < 5000 or code in _UNSAID or 1016 <= code < 3000:
        return None, ""
    return code, payload[2:].decode("utf-8", "replace")


def _check_payload(message: Message) -> None:
    """Raise WrongMessage for what no client may say.  A provider's messages go on as they came."""
    payload = message.payload
    if message.opcode == TEXT:
        _check_text(payload)
    elif message.opcode == CLOSE and payload:
        if read_close(payload)[0] is None:
            raise WrongMessage("a close with a code that nobody may send")
        _check_text(payload[2:])


def _check_text(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as ex:
        raise WrongMessage("a text that is not UTF-8", 1007) from ex


class WrongMessage(ValueError):
    """The peer has sent what nobody may send; ``code`` is what to close with."""

    def __init__(self, text: str, code: int = 1002) -> None:
        super().__init__(text)
        self.code = code


@frozen
class Message:
    """A whole message, or a control frame."""

    opcode: int
    payload: bytes
    """Unmasked; of all fragments together."""
    wire: bytes = b""
    """Its frames as they came, where they are not masked."""


class MessageReader:
    """Turns bytes into messages.  Feed it, and ask :meth:`next` until it says None."""

    __slots__ = (
        "_arrived", "_at", "_data", "_fragments", "_have", "_kept", "_limit", "_masked", "_need",
        "_opcode", "_wires",
    )  # fmt: skip

    def __init__(self, *, masked: bool, limit: int) -> None:
        """``masked``: a client is read, else a server; ``limit`` is bytes of one message."""
        self._masked = masked
        self._limit = limit
        self._data = b""
        self._at = 0
        self._arrived: list[bytes] = []
        self._have = 0
        """Bytes in ``_data``, behind ``_at``, and in ``_arrived``."""
        self._need = 2
        """Bytes without which there is nothing to read: a large frame is put together once."""
        self._opcode = CONTINUATION
        """Of the message whose fragments are coming; CONTINUATION: none are."""
        self._fragments: list[bytes] = []
        self._wires: list[bytes] = []
        self._kept = 0
        """Bytes that the fragments take."""

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._arrived.append(data)
        self._have += len(data)

    @property
    def held(self) -> int:
        """Bytes of messages that are not whole."""
        return self._have + self._kept

    def next(self) -> Message | None:
        """The next message, None when it is not whole.  Raises WrongMessage."""
        while True:
            if self._have < self._need:
                return None
            if self._arrived:
                self._data = b"".join((self._data[self._at :], *self._arrived))
                self._at = 0
                self._arrived = []
            data, at, have = self._data, self._at, self._have
            first, second = data[at], data[at + 1]
            size, start = second & 0x7F, at + 2
            # PERF: nearly all messages are one frame.
            plain = first in _WHOLE and not self._opcode and (second >= _MASKED) == self._masked
            if not plain:
                self._check(first, second)
            if size > MAX_CONTROL:
                width = 2 if size == 126 else 8
                if have < 2 + width:
                    self._need = 2 + width
                    return None
                start += width
                size = int.from_bytes(data[at + 2 : start], "big")
            if size + self._kept > self._limit:
                raise WrongMessage(f"a message of more than {self._limit} bytes", 1009)
            body = start + 4 if self._masked else start
            end = body + size
            if end > len(data):
                self._need = end - at
                return None
            self._at = end
            self._have -= end - at
            self._need = 2
            payload = data[body:end]
            wire = b""
            if self._masked:
                payload = _with_mask(payload, data[start:body])
            else:
                wire = data[at:end]
            message = (
                Message(first & 0x0F, payload, wire)
                if plain
                else self._assembled(first, payload, wire)
            )
            if message is not None:
                if self._masked:
                    _check_payload(message)
                return message

    def _check(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if first & _RESERVED or opcode not in _OPCODES:
            raise WrongMessage(f"a frame with opcode {opcode}, rsv {first >> 4 & 7}")
        if (second >= _MASKED) != self._masked:
            raise WrongMessage("a frame without a mask" if self._masked else "a masked frame")
        if opcode >= CLOSE:
            if second & 0x7F > MAX_CONTROL or not first & _FINAL:
                raise WrongMessage("a control frame that is too long or not whole")
        elif (opcode == CONTINUATION) != bool(self._opcode):
            raise WrongMessage("the frames of two messages, mixed up")

    def _assembled(self, first: int, payload: bytes, wire: bytes) -> Message | None:
        """The message that this frame is, or completes."""
        opcode = first & 0x0F
        if opcode >= CLOSE:
            return Message(opcode, payload, wire)
        self._opcode = self._opcode or opcode
        self._fragments.append(payload)
        self._wires.append(wire)
        self._kept += len(payload) + _FRAGMENT
        if not first & _FINAL:
            return None
        whole = Message(self._opcode, b"".join(self._fragments), b"".join(self._wires))
        self._opcode = CONTINUATION
        self._fragments, self._wires, self._kept = [], [], 0
        return whole
