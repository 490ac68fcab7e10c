"""The message that a stream of completion chunks makes, as a next request repeats it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from attrs import define, field

from aigateway.actors.codec.reading import (
    Object,
    is_null,
    items,
    members,
    text,
)
from aigateway.actors.codec.splice import set_member
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._chat_chunk import OpenCall, read_call_part

__all__ = ["message_of", "with_whole_calls"]


@define
class _Call:
    """A call that is put together; ``more`` and ``beside`` are what providers want back."""

    call: OpenCall = field(factory=OpenCall)
    more: dict[str, object] = field(factory=dict)
    beside: dict[str, object] = field(factory=dict)

    def made(self) -> dict[str, object]:
        kind = "custom" if self.call.custom else "function"
        written = self.call.arguments.value()
        whole = {"input": written} if self.call.custom else {"arguments": written or "{}"}
        given = {"name": self.call.name, **whole, **self.more}
        return {"id": self.call.id, "type": kind, kind: given, **self.beside}


def message_of(pieces: Sequence[bytes]) -> bytes:
    """Put the parts together; of several choices the first of each chunk counts."""
    message: dict[str, object] = {"role": "assistant", "content": None}
    calls: list[_Call] = []
    places: dict[int, _Call] = {}
    for piece in pieces:
        _name, data = parse_event(piece)
        for choice in items(members(data).get("choices"))[:1]:
            delta = members(members(choice).get("delta"))
            for name, value in delta.items():
                if name not in ("role", "tool_calls"):
                    _go_on(message, name, value)
            for call in items(delta.get("tool_calls")):
                _add_part(call, calls, places)
    return msgspec.json.encode({**message, "tool_calls": [call.made() for call in calls]})


def with_whole_calls(message: bytes, prefix: str) -> tuple[bytes, list[str]]:
    """The message with calls that a provider takes back, and their ids, in order.

    Some providers leave out ids, by which results are told apart, or arguments where there are
    none.  Ids of our own begin with ``prefix``.
    """
    given = items(members(message).get("tool_calls"))
    calls = [bytes(call) for call in given]
    ids = []
    for place, call in enumerate(calls):
        fields = members(call)
        ids.append(text(fields.get("id")) or f"{prefix}{place}")
        if not text(fields.get("id")):
            calls[place] = set_member(calls[place], msgspec.json.encode(ids[-1]), "id")
        function = members(fields.get("function"))
        if function and is_null(function.get("arguments")):
            calls[place] = set_member(calls[place], b'"{}"', "function", "arguments")
    if calls == list(map(bytes, given)):
        return message, ids
    return set_member(message, b"[" + b",".join(calls) + b"]", "tool_calls"), ids


def _go_on(message: dict[str, object], name: str, value: msgspec.Raw) -> None:
    """Add a delta's member to the message: the text, and what providers want back beside it.

    Reasoning, for example, goes by several names, as text and as lists.  Mistral's content is
    a list of parts while the model thinks, and text afterwards.
    """
    written, before = text(value), message.get(name)
    if written and isinstance(before, list):
        if before and isinstance(before[-1], dict):
            written = f"{before.pop()['text']}{written}"
        before.append({"type": "text", "text": written})
    elif written and (before is None or isinstance(before, str)):
        message[name] = (before or "") + written
    elif written is None and (listed := items(value)):
        if isinstance(before, str):
            before = [{"type": "text", "text": before}] if before else []
        message[name] = [*before, *listed] if isinstance(before, list) else listed


def _add_part(raw: msgspec.Raw, calls: list[_Call], places: dict[int, _Call]) -> None:
    part, fields = read_call_part(raw), members(raw)
    place = max(part.index or 0, 0)
    made = places.get(place)
    if made is None or made.call.ends_before(part):
        made = places[place] = _Call()
        calls.append(made)
    made.call.add(part)
    kind = "custom" if part.custom else "function"
    given: Object = members(fields.get(kind))
    for member, value in given.items():
        written = text(value)
        if member not in ("name", "arguments", "input") and written is not None:
            made.more[member] = f"{made.more.get(member, '')}{written}"
    for member, value in fields.items():
        # What providers add to a call and want back, signatures for example.
        if member not in ("index", "id", "type", kind):
            made.beside[member] = value
