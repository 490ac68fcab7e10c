from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pieces import in_pieces

from aigateway.actors.codec import decoding
from aigateway.actors.codec.decoding import (
    DecodingError,
    TooLarge,
    TooManyLayers,
    decode,
    decoder_for,
    encode,
)

CODINGS = ("gzip", "deflate", "br", "zstd")


@pytest.mark.parametrize("coding", [*CODINGS, "identity", "", "gzip, br", "zstd,deflate", "X-GZIP"])
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(1, 30), max_size=30))
def test_what_was_encoded_is_read_however_it_arrives(
    coding: str, data: bytes, cuts: list[int]
) -> None:
    encoded = encode(data, coding)
    assert decode(encoded, coding) == data
    decoder = decoder_for(coding)
    reads = in_pieces(encoded, cuts)
    if decoder is not None:
        reads = [decoder.feed(read) for read in reads]
    assert b"".join(reads) == data


def test_nothing_encoded_needs_no_decoder() -> None:
    assert decoder_for("") is None
    assert decoder_for(" identity ") is None


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        ("gzip", gzip.compress(b"one") + gzip.compress(b" two")),
        ("deflate", zlib.compress(b"one two")),
        ("deflate", zlib.compress(b"one two", wbits=-15)),
        ("deflate", zlib.compress(b"one two") + b"junk"),
        ("zstd", zstandard.compress(b"one") + zstandard.compress(b" two")),
        ("br", brotli.compress(b"one two")),
    ],
    ids=["two gzip members", "zlib", "bare deflate", "junk behind it", "two zstd frames", "br"],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_the_ways_to_write_a_coding(coding: str, encoded: bytes, step: int) -> None:
    decoder = decoder_for(coding)
    assert decoder is not None
    reads = [encoded[at : at + step] for at in range(0, len(encoded), step)]
    assert b"".join(decoder.feed(read) for read in reads) == b"one two"
    assert decoder.feed(b"") == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_each_flushed_event_can_be_read_when_it_arrives(coding: str) -> None:
    event = b"data: 1\n\n"
    match coding:
        case "gzip" | "deflate":
            deflate = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
            reads = [deflate.compress(event) + deflate.flush(zlib.Z_SYNC_FLUSH) for _ in range(3)]
        case "br":
            compressor = brotli.Compressor()
            reads = [compressor.process(event) + compressor.flush() for _ in range(3)]
        case _:
            zstd = zstandard.ZstdCompressor().compressobj()
            block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
            reads = [zstd.compress(event) + zstd.flush(block) for _ in range(3)]
    decoder = decoder_for(coding)
    assert decoder is not None
    assert [decoder.feed(read) for read in reads] == [event] * 3


@pytest.mark.parametrize("coding", CODINGS)
def test_junk_is_refused(coding: str) -> None:
    with pytest.raises(DecodingError):
        decode(b"\x08junk that is no such thing" * 3, coding)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_before_it_is_unpacked(coding: str) -> None:
    bomb = encode(b"\0" * 20_000_000, coding)
    assert len(bomb) < 100_000
    with pytest.raises(DecodingError, match="more than 1000000 bytes"):
        decode(bomb, coding, limit=1_000_000)
    with pytest.raises(TooLarge, match="more than 250 times its size"):
        decode(bomb, coding)
    # What a client may repeat is none.
    assert len(decode(encode(b"\0" * 4_000_000, coding), coding)) == 4_000_000
    words = "".join(f"line {number} of a log\n" for number in range(500_000)).encode()
    assert decode(encode(words, coding), coding) == words


class CountingInflate:
    """zlib's object, and how many bytes it was given and gave back unused."""

    work = 0

    def __init__(self, wbits: int) -> None:
        self._inner = _DECOMPRESSOBJ(wbits)
        CountingInflate.work += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decompress(self, data: Any, max_length: int) -> bytes:
        unpacked: bytes = self._inner.decompress(data, max_length)
        CountingInflate.work += len(data) + len(unpacked)
        return unpacked


_DECOMPRESSOBJ = zlib.decompressobj


def work_of(data: bytes, coding: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that go into zlib and come out of it until the body is decoded or refused."""
    monkeypatch.setattr(decoding.zlib, "decompressobj", CountingInflate)
    CountingInflate.work = 0
    with contextlib.suppress(DecodingError):
        decode(data, coding)
    return CountingInflate.work


MEMBER = gzip.compress(b"", mtime=0)
HOLDING = gzip.compress(random.Random(1).randbytes(80), mtime=0)


@pytest.mark.parametrize(
    "body",
    [
        lambda size: MEMBER * (size // len(MEMBER)),
        lambda size: HOLDING * (size // len(HOLDING)),
        lambda size: gzip.compress(b" " * (size * 1000)),
        lambda size: gzip.compress(random.Random(1).randbytes(size)),
    ],
    ids=["empty members", "small members", "blanks", "noise"],
)
def test_the_work_of_decoding_grows_with_the_size_and_no_faster(
    body: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (work_of(body(size), "gzip", monkeypatch) for size in (40_000, 640_000))
    assert large <= 16 * 1.2 * small


def test_empty_members_are_refused_and_members_that_hold_something_are_not() -> None:
    with pytest.raises(TooLarge, match="members"):
        decode(MEMBER * 100_000, "gzip")
    assert len(decode(HOLDING * 20_000, "gzip")) == 1_600_000


@pytest.mark.parametrize("codings", ["gzip, gzip, gzip", "gzip," * 100, "br, zstd, deflate"])
def test_more_than_two_codings_on_each_other_are_refused_unread(codings: str) -> None:
    with pytest.raises(TooManyLayers):
        decode(b"", codings)
    with pytest.raises(TooManyLayers):
        decoder_for(codings)
    assert decode(encode(b"{}", "gzip, br"), "gzip, identity, br") == b"{}"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, br"])
def test_a_body_that_ends_too_early_is_refused(coding: str) -> None:
    whole = encode(random.Random(2).randbytes(1000), coding)
    for length in (len(whole) - 1, len(whole) // 2, 3):
        with pytest.raises(DecodingError):
            decode(whole[:length], coding)
    assert decode(b"", coding) == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_large_bodies_are_read_whole(coding: str) -> None:
    data = random.Random(7).randbytes(3_000_000) + b"\0" * 3_000_000
    assert decode(encode(data, coding), coding) == data


def test_unknown_codings_are_named() -> None:
    with pytest.raises(DecodingError, match="unknown content coding 'lzma'"):
        decoder_for("gzip, lzma")
    with pytest.raises(DecodingError, match="unknown content coding 'lzma'"):
        encode(b"", "lzma")
