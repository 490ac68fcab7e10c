"""A prompt as checksums of its parts, in the order in which a provider caches it."""

from __future__ import annotations

from typing import Final

import msgspec

from aigateway.actors.values.frozen import frozen

__all__ = ["CHECKSUM_SIZE", "PromptParts", "decoded", "encoded"]

CHECKSUM_SIZE: Final = 6
"""Bytes of a checksum.  It is looked at within a session only, of at most some thousand parts."""
_VERSION: Final = 1


@frozen
class PromptParts:
    """The parts of one request's prompt.  Equal checksums are equal texts, marks aside."""

    tools: bytes
    system: bytes
    """System prompt or instructions."""
    messages: tuple[bytes, ...]
    marks: tuple[int, ...] = ()
    """Where the client marked what is to be cached: places as in :attr:`all`, rising."""
    explicit: bool = False
    """Only what is marked is cached."""
    ttl: int = 0
    """Seconds for which it asks what it marks or sends to be kept; 0: for as long as is usual."""
    aside: bool = False
    """The client asks for an end of its own (a title, a summary): no turn goes on from it."""

    @property
    def all(self) -> tuple[bytes, ...]:
        """Tools, system, and then the messages."""
        return (self.tools, self.system, *self.messages)


def encoded(parts: PromptParts) -> bytes:
    """For a record."""
    flags = parts.explicit | parts.aside << 1
    return msgspec.msgpack.encode((_VERSION, flags, parts.ttl, parts.marks, b"".join(parts.all)))


def decoded(data: bytes) -> PromptParts | None:
    """What :func:`encoded` made; None for anything else."""
    try:
        version, flags, ttl, marks, joined = _decode(data)
    except msgspec.MsgspecError:
        return None
    if version != _VERSION or len(joined) % CHECKSUM_SIZE or len(joined) < 2 * CHECKSUM_SIZE:
        return None
    tools, system, *messages = (
        joined[at : at + CHECKSUM_SIZE] for at in range(0, len(joined), CHECKSUM_SIZE)
    )
    return PromptParts(tools, system, tuple(messages), marks, bool(flags & 1), ttl, bool(flags & 2))


_decode = msgspec.msgpack.Decoder(tuple[int, int, int, tuple[int, ...], bytes]).decode
