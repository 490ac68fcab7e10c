"""A prompt as checksums of its parts, in the order in which a provider caches it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from aigateway.actors.values.frozen import frozen

__all__ = ["CHECKSUM_SIZE", "PromptParts", "decoded", "encoded"]

CHECKSUM_SIZE: Final = 6
"""Bytes of a checksum.  It is looked at within a session only, of at most some thousand parts."""
_VERSION: Final = 1
_FIRST_MESSAGE: Final = 2


@frozen
class PromptParts:
    """The parts of one request's prompt.  Equal checksums are equal texts, marks aside."""

    joined: bytes
    """The checksums of tools, of the system prompt or instructions, and of each message."""
    marks: tuple[int, ...] = ()
    """Where the client marked what is to be cached: places among all parts, rising."""
    explicit: bool = False
    """Only what is marked is cached."""
    ttl: int = 0
    """Seconds for which it asks what it marks or sends to be kept; 0: for as long as is usual."""
    aside: bool = False
    """The client asks for an end of its own (a title, a summary): no turn goes on from it."""

    @classmethod
    def of(
        cls,
        tools: bytes,
        system: bytes,
        messages: Iterable[bytes],
        marks: tuple[int, ...] = (),
        explicit: bool = False,
        ttl: int = 0,
        aside: bool = False,
    ) -> PromptParts:
        return cls(b"".join((tools, system, *messages)), marks, explicit, ttl, aside)

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self.joined) // CHECKSUM_SIZE

    @property
    def head(self) -> bytes:
        """Tools and system prompt."""
        return self.joined[: _FIRST_MESSAGE * CHECKSUM_SIZE]

    @property
    def first_message(self) -> bytes:
        """Empty where there is none."""
        at = _FIRST_MESSAGE * CHECKSUM_SIZE
        return self.joined[at : at + CHECKSUM_SIZE]

    def shared(self, other: PromptParts) -> int:
        """How many parts both begin with."""
        one, two = self.joined, other.joined
        low, high = 0, min(len(one), len(two))
        if one[:high] == two[:high]:
            return high // CHECKSUM_SIZE
        # Bytes are compared so fast that halving is quicker than looking at each part.
        while high - low > 1:
            middle = (low + high) // 2
            if one[low:middle] == two[low:middle]:
                low = middle
            else:
                high = middle
        return low // CHECKSUM_SIZE


def encoded(parts: PromptParts) -> bytes:
    """For a record."""
    flags = parts.explicit | parts.aside << 1
    return msgspec.msgpack.encode((_VERSION, flags, parts.ttl, parts.marks, parts.joined))


def decoded(data: bytes) -> PromptParts | None:
    """What :func:`encoded` made; None for anything else."""
    try:
        version, flags, ttl, marks, joined = _decode(data)
    except msgspec.MsgspecError:
        return None
    if version != _VERSION or len(joined) % CHECKSUM_SIZE or len(joined) < 2 * CHECKSUM_SIZE:
        return None
    return PromptParts(joined, marks, bool(flags & 1), ttl, bool(flags & 2))


_decode = msgspec.msgpack.Decoder(tuple[int, int, int, tuple[int, ...], bytes]).decode
