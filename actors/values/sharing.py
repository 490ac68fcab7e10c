"""Who of a group of providers answers a session.

By weighted rendezvous hashing: each provider draws a number for the session, the same in every
process, and they are asked from the best draw down.  A weight of 3 wins three times as often
as one of 1; when a provider joins or leaves, only sessions that it wins or had won move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["BadGroup", "ranked", "read_group"]

MAX_WEIGHT = 1000
_SCALE = 2.0**64


class BadGroup(ValueError):
    """What is wrong with the text of a group."""


def ranked(group: Iterable[tuple[str, int]], session: str) -> tuple[str, ...]:
    """The names of a group's providers, in the order in which ``session`` asks them."""
    drawn = sorted(group, key=lambda each: _draw(each[0], each[1], session))
    return tuple(name for name, _ in drawn)


def _draw(name: str, weight: int, session: str) -> float:
    digest = blake2b(f"{name}\0{session}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest) + 1) / (_SCALE + 1)
    # Exponentially distributed with the weight as its rate: the smallest of several wins in
    # proportion to its weight.
    return -math.log(share) / weight


def read_group(text: str) -> tuple[tuple[str, int], ...]:
    """Read ``name:weight, …``; a weight that is left out is 1.  Raises BadGroup."""
    if not text.strip():
        return ()
    group: dict[str, int] = {}
    for part in text.split(","):
        name, colon, weight = (each.strip() for each in part.partition(":"))
        if not name:
            raise BadGroup("an entry is empty: write names with one comma between them")
        if name in group:
            raise BadGroup(f'"{name}" is there twice')
        if not colon:
            weight = "1"
        if not (weight.isascii() and weight.isdigit() and 1 <= int(weight) <= MAX_WEIGHT):
            raise BadGroup(f'"{part.strip()}": a weight is a whole number from 1 to {MAX_WEIGHT}')
        group[name] = int(weight)
    return tuple(group.items())
