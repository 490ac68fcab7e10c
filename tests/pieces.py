"""Data as it may arrive."""

from __future__ import annotations

from collections.abc import Iterable


def in_pieces(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Cut ``data`` into reads of these sizes; the last one is what is left."""
    pieces = []
    for size in sizes:
        if not data:
            break
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data] if data else pieces
