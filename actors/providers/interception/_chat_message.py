"""The message that a stream of completion chunks makes, as a next request repeats it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aigateway.actors.providers.interception.reading import Object, count, items, members, text
from aigateway.actors.providers.interception.sse import parse_event

__all__ = ["message_of"]


def message_of(pieces: Sequence[bytes]) -> bytes:
    """Put the parts together; of several choices the first of each chunk counts."""
    message: dict[str, object] = {"role": "assistant", "content": None}
    calls: list[dict[str, object]] = []
    places: dict[int, dict[str, object]] = {}
    for piece in pieces:
        _name, data = parse_event(piece)
        for choice in items(members(data).get("choices"))[:1]:
            delta = members(members(choice).get("delta"))
            for name, value in delta.items():
                if name not in ("role", "tool_calls"):
                    _go_on(message, name, value)
            for call in items(delta.get("tool_calls")):
                _add_part(members(call), calls, places)
    return msgspec.json.encode({**message, "tool_calls": calls})


def _go_on(message: dict[str, object], name: str, value: msgspec.Raw) -> None:
    """Add a delta's member to the message: the text, and what providers want back beside it.

    Reasoning, for example, goes by several names, as text and as lists.
    """
    written, before = text(value), message.get(name)
    if written and (before is None or isinstance(before, str)):
        message[name] = (before or "") + written
    elif written is None and (listed := items(value)):
        message[name] = [*before, *listed] if isinstance(before, list) else listed


def _add_part(
    part: Object, calls: list[dict[str, object]], places: dict[int, dict[str, object]]
) -> None:
    index = count(part.get("index"))
    kind = "custom" if "custom" in part else "function"
    given = members(part.get(kind))
    name = text(given.get("name"))
    call = places.get(index)
    function = None if call is None else call.get(kind)
    named = isinstance(function, dict) and "name" in function
    if call is None or (name and named and text(part.get("id")) not in (None, "", call["id"])):
        # Some number all their calls 0.
        call = places[index] = {"id": "", "type": kind, kind: {}}
        calls.append(call)
    call["id"] = call["id"] or text(part.get("id")) or ""
    function = call.setdefault(kind, {})
    assert isinstance(function, dict)
    for member, value in given.items():
        written = text(value)
        if written is not None and member != "name":
            function[member] = function.get(member, "") + written
        elif written:
            function.setdefault("name", written)
    for member, value in part.items():
        # What providers add to a call and want back, signatures for example.
        if member not in ("index", "id", "type", kind):
            call[member] = value
