from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import in_pieces

from aigateway.actors.codec.json_array import ArrayReader, element_of

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['"', "\\", "[{", "]}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_elements = st.lists(st.dictionaries(st.text(), _values, max_size=4), max_size=5)
_sizes = st.lists(st.integers(1, 40), max_size=100)


def written(elements: list[Any], indent: int | None, ascii: bool) -> bytes:
    """As Google writes an array: each element by itself, with a comma on a line between two."""
    parts = [json.dumps(each, indent=indent, ensure_ascii=ascii).encode() for each in elements]
    return b"[" + b"\n,\r\n".join(parts) + b"\n]\n"


def read(reads: list[bytes], reader: ArrayReader) -> list[bytes]:
    pieces = []
    came = 0
    for data in reads:
        came += len(data)
        pieces += reader.feed(data)
        assert reader.tail == came - sum(map(len, pieces))
    return pieces


@given(_elements, st.sampled_from([None, 2]), st.booleans(), _sizes)
def test_every_element_is_found_however_it_arrives(
    elements: list[Any], indent: int | None, ascii: bool, sizes: list[int]
) -> None:
    data = written(elements, indent, ascii)
    for reads in ([data], in_pieces(data, sizes), [data[i : i + 1] for i in range(len(data))]):
        reader = ArrayReader()
        pieces = read(reads, reader)
        assert [json.loads(element_of(piece)) for piece in pieces] == elements
        assert reader.closed
        assert b"".join(pieces) + reader.flush() == data
        assert reader.tail == 0


@given(_elements, _sizes, st.integers(0, 400))
def test_half_an_array_is_not_closed(elements: list[Any], sizes: list[int], at: int) -> None:
    data = written(elements, None, True).rstrip()
    reader = ArrayReader()
    pieces = read(in_pieces(data[:-1][:at], sizes), reader)
    assert not reader.closed
    assert [json.loads(element_of(piece)) for piece in pieces] == elements[: len(pieces)]


@given(st.binary(), _sizes)
def test_whatever_comes_is_kept_to_the_last_byte(data: bytes, sizes: list[int]) -> None:
    reader = ArrayReader()
    pieces = read(in_pieces(data, sizes), reader)
    assert b"".join(pieces) + reader.flush() == data


@pytest.mark.parametrize("data", [b"[}", b"]", b'{"a":1}', b"[[]}", b""])
def test_what_is_no_array_is_never_closed(data: bytes) -> None:
    reader = ArrayReader()
    reader.feed(data)
    assert not reader.closed


def test_the_bracket_that_closes_the_array_is_never_part_of_a_piece() -> None:
    reader = ArrayReader()
    assert reader.feed(b'[{"a":[]}]') == [b'[{"a":[]}']
    assert reader.closed
    assert reader.feed(b'{"b":1}') == []
    assert reader.flush() == b']{"b":1}'


def test_an_element_over_the_limit_passes_unread_and_the_next_is_found() -> None:
    reader = ArrayReader(limit=100)
    long = b'[{"a":"' + b'x\\"]}' * 100
    for at in range(0, len(long), 30):
        assert reader.feed(long[at : at + 30]) == []
    assert reader.tail == len(long)
    assert reader.feed(b'"},{"b":1}') == [b',{"b":1}']
    assert reader.tail == 0
    reader.feed(b',{"c":"' + b"x" * 200)
    assert reader.flush() == b""
    assert reader.tail == 0
