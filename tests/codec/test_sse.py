from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import in_pieces

from aigateway.actors.codec.sse import EventReader, parse_event

BOM = b"\xef\xbb\xbf"

_fields = st.sampled_from(
    [
        b"data: {}",
        b"data:two",
        b"data",
        b"event: ping",
        b"event:x",
        b"event",
        b"id: 7",
        b"retry: 10",
        b": a comment",
        b":",
        b"unknown: field",
        b"data: \xc3\xa9\xff",
        b"",
    ]
)
_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
_lines = st.lists(st.tuples(_fields, _ends).map(b"".join), max_size=30)
streams = st.builds(
    lambda bom, lines, rest: bom + b"".join(lines) + rest,
    st.sampled_from([b"", BOM]),
    _lines,
    st.sampled_from([b"", b"da", b"data: half", b"\r"]),
)
sizes = st.lists(st.integers(1, 40), max_size=60)


def read(reads: list[bytes]) -> tuple[list[bytes], bytes]:
    reader = EventReader()
    pieces = [piece for data in reads for piece in reader.feed(data)]
    assert reader.tail == len(b"".join(reads)) - len(b"".join(pieces))
    return pieces, reader.flush()


def events(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [parsed for piece in pieces if any(parsed := parse_event(piece))]


@given(streams, sizes)
def test_pieces_joined_are_the_stream_however_it_arrives(stream: bytes, cuts: list[int]) -> None:
    pieces, rest = read(in_pieces(stream, cuts))
    assert b"".join(pieces) + rest == stream


@given(streams, sizes)
def test_the_events_do_not_depend_on_the_reads(stream: bytes, cuts: list[int]) -> None:
    whole, _rest = read([stream])
    byte_by_byte, _rest = read([stream[i : i + 1] for i in range(len(stream))])
    in_reads, _rest = read(in_pieces(stream, cuts))
    assert events(whole) == events(byte_by_byte) == events(in_reads)


@given(_lines)
def test_all_ways_to_end_a_line_mean_the_same(lines: list[bytes]) -> None:
    normal = b"".join(line.rstrip(b"\r\n") + b"\n" for line in lines)
    expected, _rest = read([normal])
    for end in (b"\r\n", b"\r"):
        pieces, _rest = read([normal.replace(b"\n", end)])
        assert events(pieces) == events(expected)


@pytest.mark.parametrize(
    ("piece", "name", "data"),
    [
        (b"data: x\n\n", b"", b"x"),
        (b"data:x\n\n", b"", b"x"),
        (b"data:  x \n\n", b"", b" x "),
        (b"event: e\ndata: x\n\n", b"e", b"x"),
        (b"event:e\r\ndata:x\r\n\r\n", b"e", b"x"),
        (b"data: x\revent: e\r\r", b"e", b"x"),
        (b"event: a\nevent: b\ndata: x\n\n", b"b", b"x"),
        (b"event: a\nevent\ndata: x\n\n", b"", b"x"),
        (b"data: x\ndata: y\ndata\ndata: z\n\n", b"", b"x\ny\n\nz"),
        (b"data\n\n", b"", b""),
        (b"data\ndata: x\n\n", b"", b"\nx"),
        (b": comment\nid: 1\nretry: 5\nfoo: bar\ndata: x\n\n", b"", b"x"),
        (b"database: x\n\n", b"", b""),
        (b"\n\n", b"", b""),
        (BOM, b"", b""),
    ],
)
def test_fields_are_read_as_the_standard_says(piece: bytes, name: bytes, data: bytes) -> None:
    assert parse_event(piece) == (name, data)


def test_a_read_that_is_one_event_is_one_piece() -> None:
    reader = EventReader()
    assert reader.feed(b"data: 1\n\n") == [b"data: 1\n\n"]
    assert reader.feed(b"data: 2\n\n") == [b"data: 2\n\n"]
    assert reader.feed(b"data: 3\n\ndata: 4\n\n") == [b"data: 3\n\n", b"data: 4\n\n"]


def test_nothing_read_is_nothing_new() -> None:
    reader = EventReader()
    assert reader.feed(b"") == []
    assert reader.feed(b"data: 1") == []
    assert reader.feed(b"") == []
    assert reader.tail == 7


def test_the_byte_order_mark_is_no_part_of_the_first_line() -> None:
    reader = EventReader()
    assert reader.feed(BOM[:1]) == []
    assert reader.feed(BOM[1:2]) == []
    assert reader.feed(BOM[2:] + b"data: 1\n\n") == [BOM, b"data: 1\n\n"]


def test_bytes_that_only_begin_like_a_byte_order_mark_are_kept() -> None:
    reader = EventReader()
    assert reader.feed(BOM[:2]) == []
    assert reader.feed(b"\n\n") == [BOM[:2] + b"\n\n"]


def test_comments_between_events_do_not_wait_for_an_event() -> None:
    reader = EventReader()
    assert reader.feed(b": processing\n") == [b": processing\n"]
    assert reader.feed(b"\n") == [b"\n"]
    assert reader.feed(b": proc") == []
    assert reader.feed(b"essing\r") == [b": processing\r"]
    assert reader.feed(b"\n\r\n") == [b"\n", b"\r\n"]
    assert reader.feed(b": still\ndata: 1") == []
    assert reader.feed(b"\n\n") == [b": still\ndata: 1\n\n"]


def test_a_line_feed_after_a_cut_in_crlf_means_nothing() -> None:
    reader = EventReader()
    assert reader.feed(b"data: 1\r\n\r") == [b"data: 1\r\n\r"]
    assert reader.feed(b"\n") == [b"\n"]
    assert reader.feed(b"data: 2\r") == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"\r\n") == [b"data: 2\r\n\r\n"]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_over_the_limit_passes_unread(end: bytes, step: int) -> None:
    reader = EventReader(limit=50)
    stream = b"data: 1" + end + b"data: " + b"x" * 200 + end + b"data: 2" + end
    pieces = []
    for at in range(0, len(stream), step):
        pieces += reader.feed(stream[at : at + step])
        if reader.overflowed and step < 100:
            assert reader.tail <= 206 + len(end)
    assert [data for _name, data in events(pieces)] in (
        [b"1", b"2"],
        # Nothing has to be kept of what arrives at once.
        [b"1", b"x" * 200, b"2"],
    )
    # Another event came behind it.
    assert reader.overflowed == b""
    assert reader.tail == 0


def test_of_an_event_over_the_limit_the_beginning_is_known_until_another_comes() -> None:
    reader = EventReader(limit=50)
    for _ in range(30):
        reader.feed(b"event: x\nda"[:9] if not reader.tail else b"data: yy\n")
    assert reader.overflowed.startswith(b"event: x\ndata: yy\n")
    assert reader.feed(b"\n: comment\n") == [b": comment\n"]
    assert reader.overflowed
    assert reader.feed(b"data: 2\n\n") == [b"data: 2\n\n"]
    assert reader.overflowed == b""


def test_what_an_event_over_the_limit_leaves_behind_is_not_flushed() -> None:
    reader = EventReader(limit=50)
    reader.feed(b"data: " + b"x" * 100)
    assert reader.tail == 106
    assert reader.flush() == b""
    assert reader.tail == 0


def test_a_megabyte_in_single_bytes_is_read_in_linear_time() -> None:
    reader = EventReader()
    for _ in range(250_000):
        reader.feed(b"x")
    assert reader.feed(b"\n\n") == [b"x" * 250_000 + b"\n\n"]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("second", [b"data:\n", b'data: {"type":"more"}\n'])
def test_an_odd_event_takes_nothing_of_the_next(second: bytes, size: int) -> None:
    odd = b'data: {"type":"ping"}\n' + second + b"event: odd\n\n"
    usual = b'event: usual\ndata: {"type":"usual"}\n\n'
    reader = EventReader(lenient=True)
    pieces = [piece for read in in_pieces(odd + usual, [size] * 99) for piece in reader.feed(read)]
    assert (b"usual", b'{"type":"usual"}') in [parse_event(piece) for piece in pieces]
    assert not any(b"odd" in piece and b"usual" in piece for piece in pieces)
