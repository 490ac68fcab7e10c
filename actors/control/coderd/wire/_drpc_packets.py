"""DRPC frames and packets: encoding, reassembly, and what the payloads hold.

A frame is ``control (1 byte) | stream id | message id | length | data``, the three numbers
as LEB128 varints.  Of the control byte, bit 0 says that the frame is the last of its packet,
bits 1 to 6 are the kind and bit 7 marks kinds that a receiver may ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from ._protocol import InputBuffer, LocalProtocolError, RemoteProtocolError

__all__ = [
    "CANCEL",
    "CLOSE",
    "CLOSE_SEND",
    "ERROR",
    "INVOKE",
    "INVOKE_METADATA",
    "MAX_PACKET",
    "MESSAGE",
    "Packet",
    "PacketReader",
    "WHOLE_CLOSE_SEND",
    "WHOLE_MESSAGE",
    "decode_error",
    "decode_metadata",
    "decode_varint",
    "encode_error",
    "encode_frame",
    "encode_message",
    "encode_metadata",
    "encode_request",
    "encode_varint",
]

INVOKE: Final = 1
MESSAGE: Final = 2
ERROR: Final = 3
CANCEL: Final = 4
CLOSE: Final = 5
CLOSE_SEND: Final = 6
INVOKE_METADATA: Final = 7

MAX_PACKET: Final = 4 * 1024 * 1024
"""Largest reassembled packet, in bytes; coderd sets its reader to the same."""

_SPLIT: Final = 64 * 1024
_DONE: Final = 0x01
_CONTROL: Final = 0x80
_MAX_UINT64: Final = 0xFFFFFFFFFFFFFFFF
_SHORT: Final = tuple(bytes((number,)) for number in range(0x80))
"""Numbers of one byte."""

_INVOKE: Final = bytes((INVOKE << 1 | _DONE,))
_MESSAGE: Final = bytes((MESSAGE << 1 | _DONE,))
_CLOSE_SEND: Final = bytes((CLOSE_SEND << 1 | _DONE,))
WHOLE_MESSAGE: Final = _MESSAGE[0]
WHOLE_CLOSE_SEND: Final = _CLOSE_SEND[0]
"""How frames begin that are these packets."""


class Packet(NamedTuple):
    """One reassembled packet.  ``control`` says that an unknown kind may be ignored."""

    kind: int
    stream: int
    message: int
    data: bytes
    control: bool


def encode_varint(number: int) -> bytes:
    """Encode a number that is not negative."""
    # PERF: two of these for each call; streams carry very many.
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def decode_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return a number and the offset behind it.

    Raises IndexError when it is cut off, RemoteProtocolError when it does not end.
    """
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Ten groups hold 70 bits; the surplus is dropped, as the Go reader does.
            return number & _MAX_UINT64, at
    raise RemoteProtocolError("a number longer than ten bytes")


def encode_frame(
    kind: int, stream: int, message: int, data: bytes, *, done: bool = True, control: bool = False
) -> bytes:
    """Encode one frame."""
    first = kind << 1 | (_DONE if done else 0) | (_CONTROL if control else 0)
    return b"".join(
        (
            bytes((first,)),
            encode_varint(stream),
            encode_varint(message),
            encode_varint(len(data)),
            data,
        )
    )


def encode_message(stream: int, message: int, data: bytes) -> bytes:
    """Encode a Message packet in frames of 64 KiB.

    Raises LocalProtocolError above 4 MiB: the peer would close the transport.
    """
    if len(data) > MAX_PACKET:
        raise LocalProtocolError(
            f"a message of {len(data)} bytes is over the limit of {MAX_PACKET}"
        )
    if len(data) <= _SPLIT:
        return encode_frame(MESSAGE, stream, message, data)
    return b"".join(
        encode_frame(
            MESSAGE, stream, message, data[at : at + _SPLIT], done=at + _SPLIT >= len(data)
        )
        for at in range(0, len(data), _SPLIT)
    )


@lru_cache(maxsize=64)
def _named(rpc: str) -> bytes:
    """What follows the stream's id in the Invoke frame of a call."""
    name = rpc.encode()
    return encode_varint(1) + encode_varint(len(name)) + name


def encode_request(stream: int, number: bytes, rpc: str, data: bytes) -> bytes:
    """Encode Invoke, Message and CloseSend, which is all that a usual call sends.

    ``number`` is the stream's id, encoded.  Raises LocalProtocolError above 4 MiB.
    """
    if len(data) > _SPLIT:
        invoke = encode_frame(INVOKE, stream, 1, rpc.encode())
        return invoke + encode_message(stream, 2, data) + encode_frame(CLOSE_SEND, stream, 3, b"")
    # PERF: one of these for each call.
    size = encode_varint(len(data))
    return b"".join(
        (
            *(_INVOKE, number, _named(rpc)),
            *(_MESSAGE, number, b"\x02", size, data),
            *(_CLOSE_SEND, number, b"\x03\x00"),
        )
    )


class PacketReader(InputBuffer):
    """Turns the peer's bytes into packets.

    Ids never go back: a frame with a lower id than the last one is an error, one with a
    higher id throws away an unfinished packet before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stream = 1
        self._message = 1
        self._kind: int | None = None
        """Of a packet whose last frame has not come."""
        self._parts: list[bytes] = []
        self._size = 0
        self._control = False

    def next_packet(self) -> Packet | None:
        """Return the next packet, or nothing until more is received.

        Raises RemoteProtocolError.
        """
        fields = self.next_fields()
        return None if fields is None else Packet(*fields)

    def next_fields(self) -> tuple[int, int, int, bytes, bool] | None:
        """The same as what a :class:`Packet` is made of, which takes longer to make."""
        while self._at != len(self._data) and (frame := self._next_frame()) is not None:
            first, stream, message, data = frame
            if stream < self._stream or (stream == self._stream and message < self._message):
                raise RemoteProtocolError(
                    f"DRPC id {stream}.{message} after {self._stream}.{self._message}: "
                    "ids must grow"
                )
            kind, control = first >> 1 & 0x3F, first >= _CONTROL
            if self._kind is not None or not first & _DONE:
                data, control = self._join(first, stream, message, data)
            self._stream = stream
            if first & _DONE:
                # Nothing may be added to a finished packet.
                self._message = message + 1
                self._kind = None
                return kind, stream, message, data, control
        return None

    def pass_over(self, stream: int, message: int) -> bool:
        """Somebody has read a whole packet with these ids.  False: it may not come now, and is
        still to be received."""
        if self._kind is not None or self._at != len(self._data):
            return False
        if stream < self._stream or (stream == self._stream and message < self._message):
            return False
        self._stream, self._message = stream, message + 1
        return True

    def _next_frame(self) -> tuple[int, int, int, bytes] | None:
        """Return the first byte, both ids and the data of a frame that is there as a whole."""
        data, at = self._data, self._at
        try:
            # PERF: nearly every number is one byte; the stream's is two on a stream that
            # has carried more than 127 calls.
            first, stream, at = data[at], data[at + 1], at + 2
            if stream >= 0x80:
                if (high := data[at]) < 0x80:
                    stream, at = stream & 0x7F | high << 7, at + 1
                else:
                    stream, at = decode_varint(data, at - 1)
            message, at = data[at], at + 1
            if message >= 0x80:
                message, at = decode_varint(data, at - 1)
            length, at = data[at], at + 1
            if length >= 0x80:
                length, at = decode_varint(data, at - 1)
        except IndexError:
            return None
        if length > MAX_PACKET:
            raise RemoteProtocolError(f"DRPC frame of {length} bytes, at most {MAX_PACKET} allowed")
        end = at + length
        if len(data) < end:
            return None
        self._at = end
        return first, stream, message, bytes(data[at:end])

    def _join(self, first: int, stream: int, message: int, data: bytes) -> tuple[bytes, bool]:
        """Add a frame to the packet that it belongs to; return what there is of it."""
        kind = first >> 1 & 0x3F
        if self._kind is None or (stream, message) != (self._stream, self._message):
            self._message, self._kind = message, kind
            self._parts = []
            self._size = 0
            self._control = False
        elif kind != self._kind:
            raise RemoteProtocolError(
                f"DRPC packet {stream}.{message} changes its kind from {self._kind} to {kind}"
            )
        self._control = self._control or first >= _CONTROL
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_PACKET:
            raise RemoteProtocolError(f"DRPC packet of more than {MAX_PACKET} bytes")
        return (b"".join(self._parts) if first & _DONE else b""), self._control


def encode_error(code: int, text: str) -> bytes:
    """Encode the payload of an Error packet; code 0 means that there is no code."""
    return code.to_bytes(8, "big") + text.encode()


def decode_error(data: bytes) -> tuple[int, str]:
    """Return the code and text of an Error packet, whatever it holds."""
    if len(data) < 8:
        return 0, data.decode(errors="replace") + " (the error had no code)"
    return int.from_bytes(data[:8], "big"), data[8:].decode(errors="replace")


def encode_metadata(metadata: Mapping[str, str]) -> bytes:
    """Encode the payload of an InvokeMetadata packet, a protobuf ``map<string, string>``."""
    return b"".join(
        _encode_field(1, _encode_field(1, key.encode()) + _encode_field(2, value.encode()))
        for key, value in metadata.items()
    )


def _encode_field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + encode_varint(len(data)) + data


def decode_metadata(data: bytes) -> dict[str, str]:
    """Decode the payload of an InvokeMetadata packet.  Raises RemoteProtocolError."""
    metadata = {}
    for number, entry in _decode_fields(data):
        if number != 1:
            continue
        pair = dict(_decode_fields(entry))
        try:
            metadata[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        except UnicodeDecodeError as ex:
            raise RemoteProtocolError(f"DRPC metadata is not UTF-8: {ex}") from ex
    return metadata


def _decode_fields(data: bytes) -> list[tuple[int, bytes]]:
    fields = []
    at = 0
    while at < len(data):
        tag = data[at]
        try:
            length, start = decode_varint(data, at + 1)
        except IndexError:
            length, start = len(data), at + 1
        if tag & 7 != 2 or start + length > len(data):
            raise RemoteProtocolError("DRPC metadata is not a map of strings")
        fields.append((tag >> 3, data[start : start + length]))
        at = start + length
    return fields
