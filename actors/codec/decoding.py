"""Content codings: read encoded bodies as they arrive, encode an edited one again.

The bytes that are relayed stay encoded as they came; this is for reading beside them.
Codings: gzip, deflate (with zlib's header or without), br, zstd, and two of them one after
the other, as ``Content-Encoding`` lists them.

Who sends encoded bytes decides how much work they are, so all of it is bounded: how many
codings lie on each other, how many members a gzip body has, how much a read unpacks to and
how much more that is than what was read.  The work grows with the number of bytes, whatever
these are.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "DECODED_LIMIT",
    "LAYERS",
    "Decoder",
    "DecodingError",
    "TooLarge",
    "TooManyLayers",
    "decode",
    "decoder_for",
    "encode",
]

DECODED_LIMIT = 64 * 1024 * 1024
"""Bytes that one read may unpack to: a few bytes can hold very many."""

LAYERS = 2
"""Codings on each other that are undone; nobody has a use for more."""
RATIO = 250
"""How many times its size a body may unpack to.  Requests as clients send them shrink to a
third or a tenth; the formats allow a thousand and more."""
RATIO_FREE = 4 * 1024 * 1024
"""Unpacked bytes from which on that is looked at."""
MEMBERS = 1024
"""Members of a gzip body, beside one for each ``MEMBER_SIZE`` bytes that they hold."""
MEMBER_SIZE = 64

_STEP = 1024 * 1024
_INPUT = 16 * 1024
"""Bytes that zlib gets at once.  What it leaves over is copied each time, so this bounds it."""
_WINDOW = 8 * 1024 * 1024
"""Memory that a zstd frame may ask for (RFC 9659)."""
_GZIP = 16 + zlib.MAX_WBITS


class DecodingError(Exception):
    """The bytes are not what their coding says, or it is unknown."""


class TooLarge(DecodingError):
    """The bytes unpack to more than the limit, or to far more than they are."""


class TooManyLayers(DecodingError):
    """More codings lie on each other than are undone here."""

    def __init__(self) -> None:
        super().__init__(f"more than {LAYERS} content codings on each other")


class Decoder(Protocol):
    """Undoes content codings, read by read."""

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` unpacks to.  Raises :class:`DecodingError`."""

    @property
    def whole(self) -> bool:
        """Whether the bytes so far end where their coding may end.  Of zstd this is not known:
        then it is true."""


def decoder_for(content_encoding: str, limit: int = DECODED_LIMIT) -> Decoder | None:
    """Make a decoder for the value of a Content-Encoding header.

    ``None`` when nothing is encoded.  Raises :class:`DecodingError` for unknown codings, and
    its kind :class:`TooManyLayers`.  ``limit`` is for the bytes that come of one read.
    """
    if not content_encoding:
        return None
    codings = _codings(content_encoding)
    if len(codings) > LAYERS:
        raise TooManyLayers
    decoders = [_decoder(coding, limit) for coding in reversed(codings)]
    if not decoders:
        return None
    return decoders[0] if len(decoders) == 1 else _Chain(decoders)


def decode(data: bytes, content_encoding: str, limit: int = DECODED_LIMIT) -> bytes:
    """Decode a whole body.

    Raises :class:`DecodingError`, and its kinds :class:`TooLarge` over ``limit`` bytes and
    :class:`TooManyLayers`.
    """
    decoder = decoder_for(content_encoding, limit)
    if decoder is None:
        return data
    decoded = decoder.feed(data)
    if not decoder.whole:
        raise DecodingError("it ends too early")
    return decoded


def encode(data: bytes, content_encoding: str) -> bytes:
    """Encode a whole body as the Content-Encoding header says.

    Raises :class:`DecodingError` for unknown codings.
    """
    for coding in _codings(content_encoding):
        match coding:
            case "gzip":
                data = zlib.compress(data, wbits=_GZIP)
            case "deflate":
                data = zlib.compress(data)
            case "br":
                # The library's default quality, 11, takes seconds for a megabyte.
                data = brotli.compress(data, quality=5)
            case "zstd":
                data = zstandard.ZstdCompressor().compress(data)
            case _:
                raise DecodingError(f"unknown content coding {coding!r}")
    return data


def _codings(content_encoding: str) -> list[str]:
    names = (name.strip().lower() for name in content_encoding.split(","))
    # RFC 9110, 8.4.1.3: x-gzip is gzip.
    return [name.removeprefix("x-") for name in names if name not in {"", "identity"}]


def _decoder(coding: str, limit: int) -> Decoder:
    match coding:
        case "gzip":
            return _Zlib(_GZIP, limit)
        case "deflate":
            return _Zlib(zlib.MAX_WBITS, limit)
        case "br":
            return _Brotli(limit)
        case "zstd":
            return _Zstandard(limit)
    raise DecodingError(f"unknown content coding {coding!r}")


class _Unpacked(io.BytesIO):
    """Memory that refuses to grow over a limit, or over what so many bytes may unpack to."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._before = 0
        self.fed = 0
        """Bytes that were to be unpacked, of all reads."""

    @property
    def total(self) -> int:
        """Bytes that have been unpacked, of all reads."""
        return self._before + self.tell()

    def write(self, data: ReadableBuffer) -> int:
        written = super().write(data)
        if self.tell() > self._limit:
            raise TooLarge(f"it unpacks to more than {self._limit} bytes")
        if (total := self.total) > RATIO_FREE and total > RATIO * self.fed:
            raise TooLarge(f"it unpacks to more than {RATIO} times its size")
        return written

    def take(self) -> bytes:
        content = self.getvalue()
        self._before += len(content)
        self.seek(0)
        self.truncate()
        return content


class _Zlib:
    def __init__(self, wbits: int, limit: int) -> None:
        self._wbits = wbits
        self._unpacked = _Unpacked(limit)
        self._inflate = zlib.decompressobj(wbits)
        self._begun = False
        self._members = 1

    @property
    def whole(self) -> bool:
        return self._inflate.eof or not self._begun

    def feed(self, data: bytes) -> bytes:
        if data and not self._begun:
            self._begun = True
            # "deflate" means zlib's format, but some send the bare stream, whose first byte
            # cannot be that of a zlib header (RFC 1950: compression method 8).
            if self._wbits == zlib.MAX_WBITS and data[0] & 0x0F != 8:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._unpacked.fed += len(data)
        view = memoryview(data)
        try:
            for start in range(0, len(view), _INPUT):
                if self._inflate.eof and self._wbits != _GZIP:
                    break
                self._unpack(view[start : start + _INPUT])
        except zlib.error as ex:
            raise DecodingError(str(ex)) from ex
        return self._unpacked.take()

    def _unpack(self, data: ReadableBuffer) -> None:
        while data:
            if self._inflate.eof:
                if self._wbits != _GZIP:
                    break
                self._next_member()
            self._unpacked.write(self._inflate.decompress(data, _STEP))
            data = self._inflate.unconsumed_tail or self._inflate.unused_data

    def _next_member(self) -> None:
        """Members may follow each other (RFC 1952, 2.2)."""
        self._members += 1
        if self._members > MEMBERS + self._unpacked.total // MEMBER_SIZE:
            raise TooLarge(f"it has more than {MEMBERS} members that hold next to nothing")
        self._inflate = zlib.decompressobj(_GZIP)


class _Brotli:
    def __init__(self, limit: int) -> None:
        self._unpacked = _Unpacked(limit)
        self._decompressor = brotli.Decompressor()

    @property
    def whole(self) -> bool:
        return bool(self._decompressor.is_finished()) or not self._unpacked.fed

    def feed(self, data: bytes) -> bytes:
        unpacked = self._unpacked
        unpacked.fed += len(data)
        try:
            part = self._decompressor.process(data, output_buffer_limit=_STEP)
            # A full buffer may be followed by more, even if all input has been consumed.
            while unpacked.write(part) >= _STEP or not self._decompressor.can_accept_more_data():
                part = self._decompressor.process(b"", output_buffer_limit=_STEP)
        except brotli.error as ex:
            raise DecodingError(str(ex)) from ex
        return unpacked.take()


class _Zstandard:
    whole = True

    def __init__(self, limit: int) -> None:
        self._unpacked = _Unpacked(limit)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._writer = decompressor.stream_writer(self._unpacked)

    def feed(self, data: bytes) -> bytes:
        self._unpacked.fed += len(data)
        try:
            self._writer.write(data)
        except zstandard.ZstdError as ex:
            raise DecodingError(str(ex)) from ex
        return self._unpacked.take()


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    @property
    def whole(self) -> bool:
        return all(decoder.whole for decoder in self._decoders)

    def feed(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data)
        return data
