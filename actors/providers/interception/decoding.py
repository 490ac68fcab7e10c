"""Content codings: read encoded bodies as they arrive, encode an edited one again.

The bytes that are relayed stay encoded as they came; this is for reading beside them.
Codings: gzip, deflate (with zlib's header or without), br, zstd, and several of them one
after the other, as ``Content-Encoding`` lists them.
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
    "Decoder",
    "DecodingError",
    "TooLarge",
    "decode",
    "decoder_for",
    "encode",
]

DECODED_LIMIT = 64 * 1024 * 1024
"""Bytes that one read may unpack to: a few bytes can hold very many."""

_STEP = 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class DecodingError(Exception):
    """The bytes are not what their coding says, or it is unknown."""


class TooLarge(DecodingError):
    """The bytes unpack to more than the limit."""


class Decoder(Protocol):
    """Undoes content codings, read by read."""

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` unpacks to.  Raises :class:`DecodingError`."""


def decoder_for(content_encoding: str, limit: int = DECODED_LIMIT) -> Decoder | None:
    """Make a decoder for the value of a Content-Encoding header.

    ``None`` when nothing is encoded.  Raises :class:`DecodingError` for unknown codings.
    ``limit`` is for the bytes that come of one read.
    """
    decoders = [_decoder(coding, limit) for coding in reversed(_codings(content_encoding))]
    if not decoders:
        return None
    return decoders[0] if len(decoders) == 1 else _Chain(decoders)


def decode(data: bytes, content_encoding: str, limit: int = DECODED_LIMIT) -> bytes:
    """Decode a whole body.

    Raises :class:`DecodingError`, and its kind :class:`TooLarge` over ``limit`` bytes.
    """
    decoder = decoder_for(content_encoding, limit)
    return data if decoder is None else decoder.feed(data)


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
    """Memory that refuses to grow over a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: ReadableBuffer) -> int:
        written = super().write(data)
        if self.tell() > self._limit:
            raise TooLarge(f"it unpacks to more than {self._limit} bytes")
        return written

    def take(self) -> bytes:
        content = self.getvalue()
        self.seek(0)
        self.truncate()
        return content


class _Zlib:
    def __init__(self, wbits: int, limit: int) -> None:
        self._wbits = wbits
        self._limit = limit
        self._inflate = zlib.decompressobj(wbits)
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        if data and not self._begun:
            self._begun = True
            # "deflate" means zlib's format, but some send the bare stream, whose first byte
            # cannot be that of a zlib header (RFC 1950: compression method 8).
            if self._wbits == zlib.MAX_WBITS and data[0] & 0x0F != 8:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        unpacked = _Unpacked(self._limit)
        try:
            while data:
                if self._inflate.eof:
                    if self._wbits != _GZIP:
                        break
                    # Members may follow each other (RFC 1952, 2.2).
                    self._inflate = zlib.decompressobj(_GZIP)
                unpacked.write(self._inflate.decompress(data, _STEP))
                data = self._inflate.unconsumed_tail or self._inflate.unused_data
        except zlib.error as ex:
            raise DecodingError(str(ex)) from ex
        return unpacked.take()


class _Brotli:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decompressor = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        unpacked = _Unpacked(self._limit)
        try:
            part = self._decompressor.process(data, output_buffer_limit=_STEP)
            # A full buffer may be followed by more, even if all input has been consumed.
            while unpacked.write(part) >= _STEP or not self._decompressor.can_accept_more_data():
                part = self._decompressor.process(b"", output_buffer_limit=_STEP)
        except brotli.error as ex:
            raise DecodingError(str(ex)) from ex
        return unpacked.take()


class _Zstandard:
    def __init__(self, limit: int) -> None:
        self._unpacked = _Unpacked(limit)
        self._writer = zstandard.ZstdDecompressor().stream_writer(self._unpacked)

    def feed(self, data: bytes) -> bytes:
        try:
            self._writer.write(data)
        except zstandard.ZstdError as ex:
            raise DecodingError(str(ex)) from ex
        return self._unpacked.take()


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data)
        return data
