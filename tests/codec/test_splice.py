from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from request_bodies import documents, json_values

from aigateway.actors.codec.splice import (
    delete_member,
    edit_elements,
    find_member,
    object_members,
    set_member,
    spliced,
)


def load(document: bytes) -> Any:
    return json.loads(document.decode("utf-8"), parse_int=str, parse_float=str)


class _Pairs(list[tuple[str, Any]]):
    """An object with its members as they are written, repeated names included."""


@given(documents)
def test_members_are_found_where_they_stand(document: bytes) -> None:
    found = object_members(document)
    pairs = json.loads(document, parse_int=str, parse_float=str, object_pairs_hook=_Pairs)
    values = [document[member.value_start : member.value_end] for member in found]
    assert [load(value) for value in values] == [_merged(value) for _name, value in pairs]
    names = [name.encode("utf-8", "replace").decode() for name, _value in pairs]
    assert [member.name.replace("\ufffd", "?") for member in found] == [
        name.replace("\ufffd", "?") for name in names
    ]
    assert all(document[member.start : member.start + 1] == b'"' for member in found)


@given(documents)
def test_a_scan_finds_the_same(document: bytes) -> None:
    # A blank before it makes no difference but the offsets, and the way of looking.
    found = object_members(b" " + document, 1)
    assert [(m.name, m.start - 1, m.value_start - 1, m.value_end - 1) for m in found] == [
        (m.name, m.start, m.value_start, m.value_end) for m in object_members(document)
    ]


@pytest.mark.parametrize(
    "document",
    [
        # The last value is as long as what stands from the first one to a bracket or comma.
        b'{"a":1,"a":"z}zzzz"}',
        b'{"a":1,"a":"z,zzzz"}',
        b'{"a":1,"b":2,"a":1}',
        b'{"a":"x","a":"x"}',
        rb'{"a":1,"\u0061":"z}zzzzzzzzz"}',
    ],
)
def test_names_that_are_written_twice_mislead_nobody(document: bytes) -> None:
    changed = json.loads(set_member(document, b"7", "a"))
    assert changed == {**json.loads(document), "a": 7}


def _merged(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {name: _merged(each) for name, each in value}
    return [_merged(each) for each in value] if isinstance(value, list) else value


@given(documents, st.sampled_from(["a", "b", "new"]))
def test_a_set_member_is_the_only_difference(document: bytes, name: str) -> None:
    before = load(document)
    changed = set_member(document, b'{"x": 1E2}', name)
    assert load(changed) == {**before, name: {"x": "1E2"}}
    member = find_member(changed, name)
    assert member is not None
    assert changed[member.value_start : member.value_end] == b'{"x": 1E2}'
    # What stands before and behind the edit is what stood there.
    start = _common_prefix(document, changed)
    end = _common_prefix(document[::-1], changed[::-1])
    assert start + end >= len(document) - _old_length(document, name)


def _old_length(document: bytes, name: str) -> int:
    member = find_member(document, name)
    return 0 if member is None else member.value_end - member.value_start


def _common_prefix(one: bytes, other: bytes) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


@given(documents, st.sampled_from(["a", "b", "gone"]))
def test_a_deleted_member_is_the_only_one_gone(document: bytes, name: str) -> None:
    before = load(document)
    after = load(delete_member(document, name))
    before.pop(name, None)
    assert after == before


@given(documents, json_values)
def test_nested_members_are_set_in_their_object(document: bytes, inner: bytes) -> None:
    outer = set_member(document, inner, "a")
    assume(isinstance(load(inner), dict))
    changed = set_member(outer, b"true", "a", "b")
    assert load(changed) == {**load(document), "a": {**load(inner), "b": True}}
    assert load(delete_member(changed, "a", "b"))["a"] == {
        name: value for name, value in load(inner).items() if name != "b"
    }


@pytest.mark.parametrize(
    ("document", "changed"),
    [
        (b"{}", b'{"s":1}'),
        (b" { } ", b' {"s":1 } '),
        (b'{"a":1}', b'{"s":1,"a":1}'),
        (b'{ "s" : null }', b'{ "s" : 1 }'),
        (b'{"s":0,"s":[{"s":5}],"a":"s"}', b'{"s":0,"s":1,"a":"s"}'),
        (rb'{"\u0073":"}\"","a":2}', rb'{"\u0073":1,"a":2}'),
    ],
)
def test_a_member_is_set_in_place_or_put_first(document: bytes, changed: bytes) -> None:
    assert set_member(document, b"1", "s") == changed


@pytest.mark.parametrize(
    ("document", "changed"),
    [
        (b'{"s":1}', b"{}"),
        (b'{"s":1, "a":2}', b'{"a":2}'),
        (b'{"a":1 , "s":2}', b'{"a":1}'),
        (b'{"a":1 , "s":2, "b":3}', b'{"a":1 , "b":3}'),
        (b'{"s":1,"a":2,"s":3}', b'{"a":2}'),
        (b'{"a":{"s":1}}', b'{"a":{"s":1}}'),
        (b"[1]", b"[1]"),
    ],
)
def test_a_member_is_deleted_with_its_comma(document: bytes, changed: bytes) -> None:
    assert delete_member(document, "s") == changed


@pytest.mark.parametrize("document", [b"[]", b"1", b"", b'"s"', b"null"])
def test_what_is_no_object_has_no_members_to_set(document: bytes) -> None:
    assert object_members(document) == []
    assert find_member(document, "a") is None
    with pytest.raises(ValueError, match="no object to set s in"):
        set_member(document, b"1", "s")


@pytest.mark.parametrize("document", [b"{}", b'{"a":1}', b'{"a":[{"b":1}]}'])
def test_a_member_needs_an_object_to_be_set_in(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"no object to set a\.b in"):
        set_member(document, b"1", "a", "b")


@pytest.mark.parametrize(
    "document",
    [b"{", b'{"a', b'{"a"', b'{"a":', b'{"a":[', b'{"a":[1,{', b'{"a":"x', b"{,}", b'{"a"}'],
)
def test_broken_documents_end_the_search(document: bytes) -> None:
    assert len(object_members(document)) <= 1


def test_several_edits_are_made_at_once() -> None:
    edits = [(4, 6, b"X"), (0, 0, b"<"), (8, 8, b">"), (8, 8, b"!"), (1, 1, b"")]
    assert spliced(b"01234567", edits) == b"<0123X67>!"
    assert spliced(b"01", []) == b"01"


def test_megabytes_are_searched_at_the_speed_of_a_scan() -> None:
    prompt = json.dumps('He said "no".\n' * 400_000).encode()
    document = b'{"messages":[{"content":' + prompt + b'}],"s":0}'
    start = time.perf_counter()
    changed = set_member(document, b"1", "s")
    assert time.perf_counter() - start < 2.0
    assert changed == document[:-2] + b"1}"


ELEMENTS = st.lists(st.sampled_from(["1", "[1, 2]", '{"a":"]"}', '","', "null", "11"]), max_size=6)


@given(ELEMENTS, st.sampled_from([",", " , ", ",\n"]), st.sets(st.integers(0, 5)))
def test_elements_are_edited_and_taken_out_of_an_array(
    elements: list[str], comma: str, chosen: set[int]
) -> None:
    array = f"[ {comma.join(elements)} ]".encode()
    seen: list[bytes] = []

    def edit(element: bytes) -> bytes | None:
        seen.append(element)
        if len(seen) - 1 in chosen:
            return None
        return b'"new"' if element == b"null" else element

    found = edit_elements(array, edit)
    assert [each.decode() for each in seen] == elements
    kept = [
        '"new"' if each == "null" else each for n, each in enumerate(elements) if n not in chosen
    ]
    assert json.loads(found) == [json.loads(each) for each in kept]
    if not chosen & set(range(len(elements))):
        assert found == f"[ {comma.join(kept)} ]".encode()


def test_what_is_no_array_has_no_elements_to_edit() -> None:
    for document in (b'{"a":[1]}', b'"[1]"', b"null", b""):
        assert edit_elements(document, lambda _element: None) == document
