from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.reading import (
    boolean,
    count,
    is_json,
    is_null,
    items,
    json_text,
    members,
    source,
    text,
    values,
)

_documents: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(_documents)
def test_values_are_split_as_a_parser_would(document: Any) -> None:
    encoded = json.dumps(document).encode()
    assert is_json(encoded)
    assert text(encoded) == (document if isinstance(document, str) else None)
    values = items(encoded)
    if isinstance(document, list):
        assert [json.loads(bytes(value)) for value in values] == document
    else:
        assert values == []
    fields = members(encoded)
    if isinstance(document, dict):
        assert {name: json.loads(bytes(value)) for name, value in fields.items()} == document
    else:
        assert fields == {}


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read(data: bytes) -> None:
    members(data)
    items(data)
    text(data)
    count(data)
    boolean(data)
    boolean(data, loose=True)
    is_null(data)
    source(data)
    assert not is_json(data + b"\x00")


def test_of_equal_names_the_last_counts() -> None:
    assert text(members(rb'{"a":1,"\u0061":"b"}')["a"]) == "b"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"\ud83d"', "\ufffd"),
        (rb'"a\uD83Db"', "a\ufffdb"),
        (rb'"\ude00\ud83d\ude00"', "\ufffd\N{GRINNING FACE}"),
        (rb'"\ud83d\\ude00"', "\ufffd\\ude00"),
        (rb'"\\ud83d\ud83d"', "\\ud83d\ufffd"),
        (rb'"\\ud83d\ude00"', "\\ud83d\ufffd"),
        (rb'"\\\ud83d"', "\\\ufffd"),
        (rb'"\ude00\ude00"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\N{GRINNING FACE}"),
        (b'"\xff"', "\ufffd"),
        (rb'"\u0000"', "\0"),
    ],
)
def test_characters_that_are_none_are_replaced(written: bytes, read: str) -> None:
    assert text(written) == read
    assert is_json(written)
    assert text(members(b'{"a":' + written + b"}")["a"]) == read
    assert text(items(b"[" + written + b"]")[0]) == read


def test_repairs_take_linear_time() -> None:
    runs = b"\\" * 2_000_000
    assert text(b'"\\ud800' + runs + b'"') == "\ufffd" + "\\" * 1_000_000
    escapes = b"\\n\\u00e9" * 200_000
    assert text(b'"\\ud800' + escapes + b'"') == "\ufffd" + "\n\xe9" * 200_000


@given(st.lists(st.sampled_from(["\\\\", "\\n", "\\ud83d", "\\ude00", "\\u0041", "a", "u", "d8"])))
def test_repaired_strings_read_as_a_lenient_parser_reads_them(parts: list[str]) -> None:
    written = '"' + "".join(parts) + '"'
    expected = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(written))
    assert text(written.encode()) == expected


@pytest.mark.parametrize(
    "number", [b"1e400", b"-0", b"123456789012345678901234567890", b"1.0E+2", b"9" * 5000]
)
def test_odd_numbers_are_json(number: bytes) -> None:
    assert is_json(number)
    assert source(members(b'{"n": ' + number + b" }")["n"]) == number.decode()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"01",
        b"+1",
        b"NaN",
        b"[1,]",
        b'{"a":1}x',
        b'"\x01"',
        b"'a'",
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_is_no_json_reads_as_nothing(broken: bytes) -> None:
    assert not is_json(broken)
    assert members(broken) == {}
    assert items(broken) == []
    assert text(broken) is None
    assert count(broken) == 0
    assert boolean(broken) is False


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"0", 0),
        (b"17", 17),
        (b"-3", 0),
        (b"12.9", 12),
        (b"1e3", 1000),
        (b"1e400", 0),
        (b"9223372036854775808", 2**63 - 1),
        (b"1" + b"0" * 30, 2**63 - 1),
        (b"true", 0),
        (b"null", 0),
        (b'"12"', 0),
        (b"[1]", 0),
        (None, 0),
    ],
)
def test_counts_are_what_a_record_can_hold(written: bytes | None, read: int) -> None:
    assert count(written) == read


@pytest.mark.parametrize(
    ("written", "strict", "loose"),
    [
        (b"true", True, True),
        (b"false", False, False),
        (b"null", False, False),
        (b'"true"', False, True),
        (b'"T"', False, True),
        (b'"1"', False, True),
        (b'"yes"', False, False),
        (b'""', False, False),
        (b"1", False, True),
        (b"-0.5", False, True),
        (b"0", False, False),
        (b"[true]", False, False),
        (None, False, False),
    ],
)
def test_booleans_are_read_strictly_or_loosely(
    written: bytes | None, strict: bool, loose: bool
) -> None:
    assert boolean(written) is strict
    assert boolean(written, loose=True) is loose


def test_null_and_missing_are_the_same() -> None:
    assert is_null(None)
    assert is_null(members(b'{"a" : null }')["a"])
    assert not is_null(b"none")
    assert not is_null(b'""')


def test_text_becomes_json() -> None:
    assert json_text('say "hi"\n') == '"say \\"hi\\"\\n"'


def test_values_around_one_that_cannot_be_read_are_read() -> None:
    huge = b"9" * 5000
    told = rb'{"a":1,"b":%s,"c":{"d":2,"e":[%s,3]},"f":"\ud83d","g":1e400,"h":null}' % (huge, huge)
    assert values(told) == {
        "a": 1,
        "b": None,
        "c": {"d": 2, "e": [None, 3]},
        "f": "\ufffd",
        "g": None,
        "h": None,
    }


def test_what_nests_too_deep_hides_nothing_beside_it() -> None:
    deep = b"[" * 400 + b"9" * 5000 + b"]" * 400
    assert values(b'{"a":1,"b":%s}' % deep) == {"a": 1, "b": [[[None]]]}


@pytest.mark.parametrize("data", [None, b"", b"[]", b"null", b"{", b"1"])
def test_what_is_no_object_has_no_values(data: bytes | None) -> None:
    assert values(data) == {}
