"""Numbers as LEB128 varints, as DRPC's frames have them."""

from __future__ import annotations

from typing import Final

from ._protocol import RemoteProtocolError

__all__ = ["decode_varint", "encode_varint"]

_MAX_UINT64: Final = 0xFFFFFFFFFFFFFFFF
_SHORT: Final = tuple(bytes((number,)) for number in range(0x80))


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
