"""Editing the JSON of one event of a stream, leaving the rest of its bytes alone."""

from __future__ import annotations

from collections.abc import Callable

from aigateway.actors.codec.splice import find_member, set_member

__all__ = ["edited", "replaced"]


def edited(piece: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The piece with its JSON object edited; untouched when it cannot be.

    The object is handed over with the line ends behind it, which splices keep.
    """
    start = piece.find(b"{", piece.find(b"data:"))
    if start < 0:
        return piece
    try:
        return piece[:start] + edit(piece[start:])
    except ValueError:
        return piece


def replaced(document: bytes, value: bytes, *path: str) -> bytes:
    """Like ``set_member``, for a member that is there; else the document stays as it is."""
    if find_member(document, *path) is None:
        return document
    return set_member(document, value, *path)
