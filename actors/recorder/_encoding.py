"""Parcels as bytes: a MessagePack array with one entry per record, nil where one is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from aigateway.actors.control.marks import PARCEL_BITS
from aigateway.actors.control.messages import Spooled
from aigateway.actors.recorder.parcels import position
from aigateway.actors.values.records import (
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    SentContent,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = [
    "Kept",
    "Unreadable",
    "decode",
    "encode",
    "encode_left",
    "kind_of",
    "made_at",
    "owner_of",
    "size_of",
    "storable",
]

Kept: TypeAlias = UsageRecord | InterceptionEnded

_KINDS: Final[dict[type, str]] = {
    TokenUsage: "token",
    PromptUsage: "prompt",
    ToolUsage: "tool",
    ModelThought: "thought",
    ModelAnswer: "answer",
    SentContent: "content",
    InterceptionEnded: "ended",
}
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(cls) for cls, kind in _KINDS.items()
}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, msgspec.Raw] | None]).decode


class Unreadable(Exception):
    """These bytes are no parcel."""


def kind_of(record: Kept) -> str:
    """What an operator calls this type of record."""
    return _KINDS[type(record)]


def owner_of(record: Kept) -> str:
    """The id of the record's interception."""
    return record.id if isinstance(record, InterceptionEnded) else record.interception_id


def made_at(record: Kept) -> float:
    return record.ended_at if isinstance(record, InterceptionEnded) else record.created_at


def encode(records: Sequence[Kept | None]) -> bytes:
    """Raises TypeError or ValueError for what cannot be encoded (see :func:`storable`)."""
    return _encode(
        [(_KINDS[type(record)], record) if record is not None else None for record in records]
    )


def size_of(records: Sequence[Kept]) -> int | None:
    """About how many bytes these take on disk; None for what cannot be encoded."""
    try:
        return len(_encode(records))
    except (TypeError, ValueError, OverflowError):
        return None


def encode_left(records: Sequence[Spooled]) -> bytes:
    """The same, for what is left of a parcel: each record in its old position."""
    entries: list[Kept | None] = [None] * (position(records[-1].seq) + 1)
    for spooled in records:
        entries[position(spooled.seq)] = spooled.record
    return encode(entries)


def decode(number: int, payload: bytes) -> tuple[Spooled, ...]:
    """The records of a parcel, numbered.  Raises Unreadable."""
    try:
        return tuple(
            Spooled((number << PARCEL_BITS) + index, _DECODERS[entry[0]].decode(entry[1]))
            for index, entry in enumerate(_decode(payload))
            if entry is not None
        )
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError) as ex:
        raise Unreadable(f"unreadable: {ex}") from ex


def storable(record: Kept) -> Kept:
    """The same record, with what no encoding takes replaced: better than none.

    Half characters become question marks, objects of unknown types their repr.
    """
    cls = type(record)
    fields = {name: _plain(getattr(record, name)) for name in attrs.fields_dict(cls)}
    kept: Kept = msgspec.convert(fields, cls, strict=False)
    return kept


def _plain(value: object) -> Any:
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if -(1 << 63) <= value < 1 << 63 else str(value)
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {_plain(str(key)): _plain(item) for key, item in value.items()}
        case _:
            return _plain(repr(value))
