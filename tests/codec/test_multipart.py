from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from request_bodies import BOUNDARY as B
from request_bodies import FILE, form

from aigateway.actors.codec.multipart import (
    NotMultipart,
    boundary_of,
    parts_of,
    with_value,
)


def fields(body: bytes) -> list[tuple[str, bool, bytes]]:
    return [(p.name, p.is_file, body[p.start : p.end]) for p in parts_of(body, B)]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=xYz", b"xYz"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="x y"', b"x y"),
        ("application/json; boundary=xYz", b""),
        ("", b""),
    ],
)
def test_the_boundary_stands_in_the_content_type(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "parameters", ["", "; boundary=", "; boundary=a; boundary=b", '; boundary="a\r\nb"', "; x=y"]
)
def test_a_form_without_a_usable_boundary_is_refused(parameters: str) -> None:
    with pytest.raises(NotMultipart, match="boundary"):
        boundary_of(f"multipart/form-data{parameters}")


def test_fields_and_files_are_found_where_they_stand() -> None:
    sound = b"RIFF\x00\r\n--xY\r\n--xYzz\r\n\r\n"
    body = form(('name="model"', b"whisper-1"), (FILE, sound), ("name=empty", b""))
    expected = [("model", False, b"whisper-1"), ("file", True, sound), ("empty", False, b"")]
    assert fields(body) == expected
    assert fields(form(("NAME=a", b"1"), before=b"to be ignored\r\n")) == [("a", False, b"1")]
    assert fields(body.replace(b"--xYz\r\n", b"--xYz \t\r\n")) == expected
    quoted = form((r'name="a\"b"; x="; name=c"', b"1"))
    assert fields(quoted) == [('a"b', False, b"1")]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=40)), max_size=6))
def test_what_was_written_is_read(values: list[tuple[str, bytes]]) -> None:
    values = [(name, value) for name, value in values if B not in value]
    body = form(*[(f'name="{name}"', value) for name, value in values])
    assert fields(body) == [(name, False, value) for name, value in values]
    replaced = with_value(body, B, "b", b"new")
    assert fields(replaced) == [
        (name, False, b"new" if name == "b" else value) for name, value in values
    ]
    assert with_value(body, B, "z", b"new") == body


def test_a_file_by_the_name_of_a_field_is_not_replaced() -> None:
    body = form(('name="model"; filename="m"', b"1"), ('name="model"', b"2"))
    assert with_value(body, B, "model", b"3") == body.replace(b"2\r\n", b"3\r\n")


_GOOD = form(('name="model"', b"1"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        _GOOD.replace(b"\r\n", b"\n"),
        _GOOD[: -len(b"--xYz--\r\n")],
        form(('name="a"', b"1\n--xYz\r\n")),
        form(('name="a"; name="model"', b"1")),
        form(("name*=utf-8''model; name=a", b"1")),
        form(("x=y", b"1")),
        form((' name="a"\r\n ; name="model"', b"1")),
        form(*[('name="a"', b"1")] * 1001),
        b"--xYz\r\nContent-Disposition: form-data; name=a",
        b"--xYzz\r\n\r\n\r\n--xYzz--",
    ],
)
def test_what_servers_may_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(NotMultipart):
        parts_of(body, B)


@given(
    st.binary(max_size=200) | st.builds(lambda a, b: _GOOD[:a] + b, st.integers(0, 80), st.binary())
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parts = parts_of(body, B)
    except NotMultipart:
        return
    assert all(part.start <= part.end <= len(body) for part in parts)


def test_a_form_without_a_field_gets_one_where_that_is_wanted() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nsound\r\n--b--'
    more = with_value(body, b"b", "model", b"whisper-1", add=True)
    assert more.endswith(body)
    told = {part.name: more[part.start : part.end] for part in parts_of(more, b"b")}
    assert told == {"model": b"whisper-1", "file": b"sound"}
    assert with_value(more, b"b", "model", b"other", add=True) == more.replace(
        b"whisper-1", b"other"
    )
    assert with_value(body, b"b", "model", b"whisper-1") == body
