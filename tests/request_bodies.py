"""Bodies of requests, as several tests need them: JSON documents of any form, and forms."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_blanks = st.text(" \t\r\n", max_size=3).map(str.encode)
_numbers = st.sampled_from(
    [b"0", b"-0", b"1E400", b"1e-7", b"0.10", b"123456789012345678901234567890", b"-1.5E+03"]
)
_strings = st.one_of(
    st.text(max_size=8).map(lambda s: json.dumps(s).encode()),
    st.text(st.characters(exclude_characters='"\\', min_codepoint=32), max_size=8).map(
        lambda s: json.dumps(s, ensure_ascii=False).encode("utf-8", "replace")
    ),
    st.sampled_from([rb'"\ud83d"', rb'"\""', rb'"\\"', rb'"}{]["', rb'"\/\u0041"', b'"a"', b'"b"']),
)
_atoms = st.one_of(_numbers, _strings, st.sampled_from([b"true", b"false", b"null"]))


def _array(parts: list[tuple[bytes, bytes, bytes]]) -> bytes:
    return b"[" + b",".join(a + value + b for a, value, b in parts) + b"]"


def _object(parts: list[tuple[bytes, tuple[bytes, bytes], tuple[bytes, bytes]]]) -> bytes:
    written = [a + name + b + b":" + c + value for a, (name, b), (c, value) in parts]
    return b"{" + b",".join(written) + b"}"


def _objects(values: Any) -> Any:
    return st.lists(
        st.tuples(_blanks, st.tuples(_strings, _blanks), st.tuples(_blanks, values)), max_size=4
    ).map(_object)


json_values = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.lists(st.tuples(_blanks, inner, _blanks), max_size=4).map(_array), _objects(inner)
    ),
    max_leaves=15,
)
documents = st.builds(lambda a, o, b: a + o + b, _blanks, _objects(json_values), _blanks)
"""JSON objects as anybody may write them."""

BOUNDARY = b"xYz"


def form(*parts: tuple[str, bytes], end: bytes = b"--\r\n", before: bytes = b"") -> bytes:
    """A form of parts whose head begins behind "form-data; "."""
    mark = b"--" + BOUNDARY
    written = [
        mark + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value
        for head, value in parts
    ]
    return before + b"\r\n".join([*written, mark]) + end


FILE = 'name="file"; filename="a.wav"\r\nContent-Type: audio/wav'
