"""Edit JSON at byte offsets: what is not edited keeps its bytes.

Re-serialised JSON breaks prompt caches and signatures, so an edit finds where a member of an
object stands in the text and replaces just that.  Names that are written twice count as
parsers read them: the last one wins.

Nothing here checks a document, callers know that it is valid JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec
from attrs import frozen

from aigateway.actors.codec.reading import items, members, text

__all__ = [
    "Member",
    "add_elements",
    "add_member",
    "delete_member",
    "edit_elements",
    "find_member",
    "object_members",
    "set_each",
    "set_member",
    "spliced",
]

# PERF: possessive quantifiers keep the scan linear and free of a backtracking stack.
_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ATOM = re.compile(rb"[^,\]} \t\r\n]++")
_OPENING = re.compile(rb"[ \t\r\n]*+\{[ \t\r\n]*+")
_NAME = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_SEPARATOR = re.compile(rb"[ \t\r\n]*+[,}][ \t\r\n]*+")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)


@frozen
class Member:
    """Where a member of an object stands in the text."""

    name: str
    start: int
    """Of its name's opening quote."""
    value_start: int
    value_end: int


def object_members(document: bytes, at: int = 0) -> list[Member]:
    """Find the members of the object at ``at`` (or after blanks there) in their order.

    Anything but an object has none.
    """
    if at == 0:
        found = _members_by_length(document)
        if found is not None:
            return found
    return _members_by_scan(document, at)


def _members_by_length(document: bytes) -> list[Member] | None:
    """The members of an object that is the whole document, many times as fast as a scan.

    The decoder tells what each value is, so only names have to be read.  None where that is
    not enough: broken text, names that are written twice.
    """
    try:
        values = _OBJECT.decode(document)
    except (ValueError, RecursionError):
        return None
    found = []
    opening = _OPENING.match(document)
    at = 0 if opening is None else opening.end()
    while (match := _NAME.match(document, at)) is not None:
        name = text(match[1]) or ""
        start = match.end()
        value = bytes(values.get(name, b""))
        end = start + len(value)
        separator = _SEPARATOR.match(document, end)
        # Of a name that is written twice the decoder has the last value.
        if separator is None or not document.startswith(value, start):
            return None
        found.append(Member(name, match.start(), start, end))
        at = separator.end()
    return found if len(found) == len(values) else None


def _members_by_scan(document: bytes, at: int) -> list[Member]:
    position = _after_space(document, at)
    if document[position : position + 1] != b"{":
        return []
    found = []
    position = _after_space(document, position + 1)
    while document[position : position + 1] == b'"':
        start = position
        position = _after_value(document, start)
        name = text(document[start:position]) or ""
        value_start = _after_space(document, _after_space(document, position) + 1)
        position = _after_value(document, value_start)
        found.append(Member(name, start, value_start, position))
        position = _after_space(document, _after_space(document, position) + 1)
    return found


def find_member(document: bytes, *path: str) -> Member | None:
    """Find a member by its path of names from the top."""
    member, part, at = None, document, 0
    for name in path:
        named = [each for each in object_members(part) if each.name == name]
        if not named:
            return None
        inner = named[-1]
        part = part[inner.value_start : inner.value_end]
        member = Member(name, at + inner.start, at + inner.value_start, at + inner.value_end)
        at = member.value_start
    return member


def spliced(document: bytes, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Put each edit's bytes in place of what stands from its first offset to its second.

    Edits must not overlap; of those at one place the first given comes first.
    """
    parts, at = [], 0
    for start, end, put in sorted(edits, key=lambda edit: edit[0]):
        parts += [document[at:start], put]
        at = end
    return b"".join([*parts, document[at:]])


def set_member(document: bytes, value: bytes, *path: str) -> bytes:
    """Give the member at ``path`` the value ``value`` (JSON).

    A member that is not there yet becomes the first of its object.  Raises
    :class:`ValueError` when that object is none or missing.
    """
    parent = members(document)
    for name in path[:-1]:
        parent = members(parent.get(name))
    if path[-1] in parent:
        member = find_member(document, *path)
        assert member is not None
        return document[: member.value_start] + value + document[member.value_end :]
    if len(path) == 1:
        return add_member(document, value, path[0])
    owner = find_member(document, *path[:-1])
    at = len(document) if owner is None else owner.value_start
    return _with_first(document, at, value, path)


def add_member(document: bytes, value: bytes, name: str) -> bytes:
    """Give an object that has no member ``name`` one, as its first, with the value ``value``
    (JSON).  Raises :class:`ValueError` when the document is not an object."""
    return _with_first(document, 0, value, (name,))


def _with_first(document: bytes, at: int, value: bytes, path: Sequence[str]) -> bytes:
    at = _after_space(document, at)
    if document[at : at + 1] != b"{":
        raise ValueError(f"no object to set {'.'.join(path)} in")
    at += 1
    after = _after_space(document, at)
    empty = document[after : after + 1] == b"}"
    inserted = msgspec.json.encode(path[-1]) + b":" + value + (b"" if empty else b",")
    return document[:at] + inserted + document[at:]


def set_each(document: bytes, value: bytes, name: str) -> bytes:
    """Give every member ``name`` of the top the value ``value`` (JSON), however often it is
    written there; a document without one stays as it is."""
    edits = [
        (each.value_start, each.value_end, value)
        for each in object_members(document)
        if each.name == name and document[each.value_start : each.value_end] != value
    ]
    return spliced(document, edits) if edits else document


def edit_elements(array: bytes, edit: Callable[[bytes], bytes | None]) -> bytes:
    """Replace each element of an array (the whole document) by what ``edit`` makes of it.

    None takes an element out.  Anything but an array stays as it is.
    """
    edits: list[tuple[int, int, bytes]] = []
    spans: list[tuple[int, int]] = []
    gone: list[int] = []
    at = 0
    for place, item in enumerate(items(array)):
        element = bytes(item)
        # Only blanks and one comma come before it, so this finds no earlier text.
        start = array.find(element, at if place else array.find(b"[") + 1)
        at = start + len(element)
        spans.append((start, at))
        edited = edit(element)
        if edited is None:
            gone.append(place)
        elif edited != element:
            edits.append((start, at, edited))
    kept = [place for place in range(len(spans)) if place not in set(gone)]
    for place in gone:
        # With the comma behind it, or behind the last that is kept the one before it.
        if kept and place > kept[-1]:
            edits.append((spans[place - 1][1], spans[place][1], b""))
        else:
            end = spans[place + 1][0] if place + 1 < len(spans) else spans[place][1]
            edits.append((spans[place][0], end, b""))
    return spliced(array, edits) if edits else array


def add_elements(document: bytes, elements: bytes, name: str) -> bytes:
    """Add ``elements`` (JSON values with commas between) to the array member ``name``.

    They become its last elements.  A member that is missing or null is made.  Raises
    :class:`ValueError` when it is something else.
    """
    member = find_member(document, name)
    if member is None or document[member.value_start : member.value_end] == b"null":
        return set_member(document, b"[" + elements + b"]", name)
    if document[member.value_start : member.value_start + 1] != b"[":
        raise ValueError(f"{name} is no array")
    start, end = member.value_start + 1, member.value_end - 1
    empty = _after_space(document, start) >= end
    while document[end - 1 : end] in (b" ", b"\t", b"\r", b"\n"):
        end -= 1
    return document[:end] + (b"" if empty else b",") + elements + document[end:]


def delete_member(document: bytes, *path: str) -> bytes:
    """Remove the member at ``path``, however often its name is written there."""
    while (member := find_member(document, *path)) is not None:
        parent = find_member(document, *path[:-1])
        siblings = object_members(document, 0 if parent is None else parent.value_start)
        place = siblings.index(member)
        if place + 1 < len(siblings):
            start, end = member.start, siblings[place + 1].start
        elif place > 0:
            start, end = siblings[place - 1].value_end, member.value_end
        else:
            start, end = member.start, member.value_end
        document = document[:start] + document[end:]
    return document


def _after_space(document: bytes, position: int) -> int:
    match = _SPACE.match(document, position)
    return position if match is None else match.end()


def _after_value(document: bytes, position: int) -> int:
    """Where the value that begins at ``position`` ends."""
    first = document[position : position + 1]
    if first in (b"{", b"["):
        return _after_container(document, position)
    match = (_STRING if first == b'"' else _ATOM).match(document, position)
    return len(document) if match is None else match.end()


def _after_container(document: bytes, position: int) -> int:
    depth = 0
    while position < len(document):
        depth += 1 if document[position] in b"{[" else -1
        position += 1
        if depth == 0:
            return position
        match = _TO_BRACKET.match(document, position)
        position = len(document) if match is None else match.end()
    return position
