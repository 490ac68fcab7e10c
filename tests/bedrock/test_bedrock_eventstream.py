"""Frames: read whole, byte by byte, damaged; and what each becomes for the client."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from aws_imitation import chunk_frame, error_frame, exception_frame, frame
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.providers.bedrock.eventstream import (
    FRAME_LIMIT,
    Frame,
    FrameReader,
    sse_event,
)

TWO = chunk_frame({"type": "ping"}) + chunk_frame({"type": "message_stop"})


def read(data: bytes, *splits: int) -> tuple[list[Frame], FrameReader]:
    reader = FrameReader()
    frames = []
    for start, end in zip((0, *splits), (*splits, len(data)), strict=True):
        frames += reader.feed(data[start:end])
    return frames, reader


def test_frames_are_read_however_they_arrive() -> None:
    whole, reader = read(TWO)
    assert [json.loads(f.payload)["bytes"] for f in whole] == [
        base64.b64encode(event).decode()
        for event in (b'{"type":"ping"}', b'{"type":"message_stop"}')
    ]
    assert (reader.pending, reader.damage) == (0, "")
    assert read(TWO, *range(1, len(TWO)))[0] == whole
    for split in range(len(TWO)):
        assert read(TWO, split)[0] == whole


def test_a_frame_that_is_not_whole_is_waited_for() -> None:
    frames, reader = read(TWO[:-1])
    assert len(frames) == 1
    assert reader.pending == len(TWO) - len(chunk_frame({"type": "ping"})) - 1
    assert reader.feed(TWO[-1:]) != []
    assert reader.pending == 0


HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=20),
    st.text(max_size=20) | st.binary(max_size=20) | st.booleans() | st.integers(-9, 9),
    max_size=5,
)


@given(st.lists(st.tuples(st.binary(max_size=300), HEADERS), max_size=5), st.data())
def test_frames_are_read_as_botocore_reads_them(
    messages: list[tuple[bytes, dict[str, Any]]], data: st.DataObject
) -> None:
    raw = b"".join(frame(payload, headers) for payload, headers in messages)
    theirs = EventStreamBuffer()
    theirs.add_data(raw)
    splits = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    ours, reader = read(raw, *splits)
    assert not reader.damage
    assert [(f.payload, dict(f.headers)) for f in ours] == [
        (
            message.payload,
            {name: value for name, value in message.headers.items() if isinstance(value, str)},
        )
        for message in theirs
    ]


# -- damage


@pytest.mark.parametrize("place", range(len(chunk_frame({"type": "ping"}))))
def test_a_flipped_bit_anywhere_is_noticed(place: int) -> None:
    good = chunk_frame({"type": "ping"})
    bad = bytearray(good)
    bad[place] ^= 0x10
    frames, reader = read(good + bytes(bad) + good)
    assert len(frames) == 1
    assert reader.damage
    assert reader.feed(good) == []
    assert reader.pending == 0


def _with_lengths(total: int, headers: int) -> bytes:
    start = struct.pack("!II", total, headers)
    return start + struct.pack("!I", zlib.crc32(start))


@pytest.mark.parametrize(
    "lengths", [(FRAME_LIMIT + 1, 0), (15, 0), (0, 0), (16, 1), (100, 2**32 - 1), (2**32 - 1, 9)]
)
def test_impossible_lengths_are_refused_before_anything_is_kept(lengths: tuple[int, int]) -> None:
    _, reader = read(_with_lengths(*lengths))
    assert "impossible lengths" in reader.damage


@pytest.mark.parametrize(
    "block",
    [
        b"\x05name",  # ends inside the name
        b"\x01n",  # no type
        b"\x01n\x0a",  # no such type
        b"\x01n\x07\x00",  # ends inside the length
        b"\x01n\x07\x00\x05abc",  # ends inside the text
        b"\x01n\x04\x00",  # ends inside an integer
        b"\x01n\x07\x00\x01\xff",  # no UTF-8
        b"\x01\xff\x00",
    ],
)
def test_broken_headers_are_damage(block: bytes) -> None:
    start = struct.pack("!II", 16 + len(block), len(block))
    data = start + struct.pack("!I", zlib.crc32(start)) + block
    _, reader = read(data + struct.pack("!I", zlib.crc32(data)))
    assert reader.damage == "the headers of a frame cannot be read"


@given(st.binary(max_size=200))
def test_rubbish_never_raises(data: bytes) -> None:
    reader = FrameReader()
    reader.feed(TWO + data)
    reader.feed(data)


# -- what the client gets


def as_sse(data: bytes) -> bytes:
    (only,) = FrameReader().feed(data)
    return sse_event(only)


def test_an_event_keeps_its_bytes_and_gets_its_name() -> None:
    event = b'{"type":"content_block_delta", "delta":{"text":"\xc3\xa9\\u00e9"},"p":1.0}'
    assert as_sse(chunk_frame(event)) == b"event: content_block_delta\ndata: " + event + b"\n\n"


def test_line_breaks_in_an_event_do_not_end_it() -> None:
    assert as_sse(chunk_frame(b'{\r\n"type":\n"ping"}')) == (
        b'event: ping\ndata: {  "type": "ping"}\n\n'
    )


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        ("throttlingException", "rate_limit_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("modelTimeoutException", "timeout_error"),
        ("validationException", "invalid_request_error"),
        ("modelStreamErrorException", "api_error"),
        ("somethingNew", "api_error"),
    ],
)
def test_an_exception_becomes_an_error_event(kind: str, error_type: str) -> None:
    found = as_sse(exception_frame(kind, "too\nmuch"))
    name, data, *rest = found.split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {"type": error_type, "message": f"received exception {kind}: too\nmuch"},
    }


def test_an_exception_without_a_message_shows_its_payload() -> None:
    found = as_sse(frame(b"oh", {":message-type": "exception"}))
    assert b"received exception unknown: oh" in found


def test_an_error_frame_becomes_an_error_event() -> None:
    found = as_sse(error_frame("InternalFailure", "An internal error occurred"))
    assert found.startswith(b"event: error\n")
    assert b"received error InternalFailure: An internal error occurred" in found
    assert b"received error unknown: " in as_sse(frame(b"", {":message-type": "error"}))


@pytest.mark.parametrize(
    "data",
    [
        frame(b"{}", {":message-type": "event", ":event-type": "initial-response"}),
        frame(b"no json", {":message-type": "event"}),
        frame(b"{}", {":message-type": "from the future"}),
    ],
)
def test_frames_without_an_event_of_anthropics_mean_nothing(data: bytes) -> None:
    assert as_sse(data) == b""


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"bytes":"%%%"}', b"no base64"),
        (b'{"bytes":"e30="}', b"without a type"),
        (json.dumps({"bytes": base64.b64encode(b'{"type":"a\\nb"}').decode()}).encode(), b"type"),
    ],
)
def test_events_that_cannot_be_read_are_errors(payload: bytes, text: bytes) -> None:
    found = as_sse(frame(payload, {":message-type": "event"}))
    assert found.startswith(b"event: error\n")
    assert text in found
    assert found.count(b"\n") == 3
