"""What makes one answer of several: numbers that go on, usage that adds up, edited events."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from aigateway.actors.codec.reading import Buffer, Object, members, number
from aigateway.actors.codec.splice import edit_elements, find_member, set_member

__all__ = ["Numbering", "Totals", "edited", "edited_elements", "replaced", "with_number"]

Counts: TypeAlias = dict[tuple[str, ...], int | float]
"""The numbers of a usage object, by the names that lead to each."""


class Totals:
    """What all answers have used."""

    def __init__(self) -> None:
        self._before: Counts = {}
        self._now: Counts = {}

    def begin_answer(self) -> None:
        """What is taken from now on is another answer's."""
        self._before, self._now = self.sums(), {}

    def take(self, usage: Buffer | None) -> None:
        """Take a usage object: each number in it is what this answer has used so far."""
        self._now |= _counts(members(usage))

    def sums(self) -> Counts:
        """What has been used so far."""
        paths = [*self._before, *(path for path in self._now if path not in self._before)]
        return {path: self._before.get(path, 0) + self._now.get(path, 0) for path in paths}

    def added_to(self, document: bytes, *place: str) -> bytes:
        """The document with what the answers before have used added to its usage at ``place``."""
        if not self._before:
            return document
        usage = members(document)
        for name in place:
            usage = members(usage.get(name))
        for path, value in _counts(usage).items():
            if before := self._before.get(path):
                document = replaced(document, msgspec.json.encode(before + value), *place, *path)
        return document


def _counts(usage: Object) -> Counts:
    found: Counts = {}
    for name, raw in usage.items():
        value = number(raw)
        if value is not None:
            found[(name,)] = value
            continue
        found |= {(name, *path): n for path, n in _counts(members(raw)).items()}
    return found


class Numbering:
    """The numbers that the client sees for parts of the answers, which number their own from 0."""

    def __init__(self) -> None:
        self._next = 0
        self._numbers: dict[int, int | None] = {}
        self.hides = False
        """A part of this answer is not for the client."""

    def begin_answer(self) -> None:
        """What is numbered from now on are another answer's parts."""
        self._numbers = {}
        self.hides = False

    def show(self, index: int) -> None:
        """The part that now has this index is the client's next one."""
        self._numbers[index] = self._next
        self._next += 1

    def hide(self, index: int) -> None:
        """The part that now has this index is not for the client."""
        self._numbers[index] = None
        self.hides = True

    def __contains__(self, index: int) -> bool:
        """Whether the part has been told of."""
        return index in self._numbers

    def of(self, index: int) -> int | None:
        """The number that the client sees; None when it does not see the part."""
        return self._numbers.get(index, index)


def edited(piece: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The event with its JSON object edited; untouched when it cannot be.

    The object is handed over with the line ends behind it, which splices keep.
    """
    start = piece.find(b"{", piece.find(b"data:"))
    if start < 0:
        return piece
    try:
        return piece[:start] + edit(piece[start:])
    except ValueError:
        return piece


def with_number(piece: bytes, number: int, name: str) -> bytes:
    """The event with this number, if it has one by this name."""
    return edited(piece, lambda event: replaced(event, b"%d" % number, name))


def replaced(document: bytes, value: bytes, *path: str) -> bytes:
    """Like ``set_member``, for a member that is there; else the document stays as it is."""
    if find_member(document, *path) is None:
        return document
    return set_member(document, value, *path)


def edited_elements(document: bytes, edit: Callable[[bytes], bytes | None], *path: str) -> bytes:
    """The document with each element of an array in it edited; None takes one out."""
    array = find_member(document, *path)
    if array is None:
        return document
    before = document[array.value_start : array.value_end]
    return document[: array.value_start] + edit_elements(before, edit) + document[array.value_end :]
