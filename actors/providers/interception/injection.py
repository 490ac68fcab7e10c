"""Offering a user's tools to the model: edits of a request, byte-exact but for the tools.

Sets of tools change seldom, and providers cache prompts by their bytes.  So the same set is
always written in the same way, in the order of the tools' ids, and is encoded once.
"""

from __future__ import annotations

import msgspec
from attrs import frozen

from aigateway.actors.providers.interception.reading import (
    Object,
    count,
    is_null,
    items,
    members,
    source,
    text,
)
from aigateway.actors.providers.interception.routes import CHAT_COMPLETIONS, MESSAGES, RESPONSES
from aigateway.actors.providers.interception.splice import add_elements, set_member
from aigateway.actors.providers.interception.tools import Tool, Tools, ToolSet

__all__ = ["Encodings", "Injected", "inject"]

KEPT = 512
"""Encoded sets that are kept."""

_SMALL_FAST = "haiku"
"""Part of the names of models that clients use for chores: no tools for them."""


@frozen
class Injected:
    """A request that offers tools."""

    body: bytes
    tools: Tools


@frozen
class _Encoded:
    tool_set: ToolSet
    """Kept so that its identity is not given to another set."""
    each: tuple[tuple[Tool, bytes], ...]
    all: bytes
    names: Tools


class Encodings:
    """What sets of tools look like in requests, made once for each set and API."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], _Encoded] = {}

    def of(self, api: str, tool_set: ToolSet) -> _Encoded:
        """The encoded set; the same set (the same object) gives the same bytes object."""
        key = (api, id(tool_set))
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            tools = sorted(tool_set.tools, key=lambda tool: tool.id)
            each = tuple((tool, _encode(api, tool)) for tool in tools)
            joined = b",".join(encoded for _, encoded in each)
            found = _Encoded(tool_set, each, joined, {tool.id: tool for tool in tools})
            self._kept[key] = found
        return found


def inject(api: str, body: bytes, tool_set: ToolSet, encodings: Encodings) -> Injected | None:
    """Offer the tools in a request (valid JSON); None when it has no place for them.

    That is: no tools, a small fast model, tools that are no list, several choices at once.
    A tool whose name the client uses itself is left out.
    """
    if not tool_set.tools:
        return None
    fields = members(body)
    given = fields.get("tools")
    if not fields or not (is_null(given) or source(given).startswith("[")):
        return None
    if api == MESSAGES and _SMALL_FAST in (text(fields.get("model")) or ""):
        return None
    if api == CHAT_COMPLETIONS and count(fields.get("n")) > 1:
        # Each choice would go on in a conversation of its own.
        return None
    encoded = encodings.of(api, tool_set)
    tools, joined = encoded.names, encoded.all
    taken = {_name_of(members(tool)) for tool in items(given)} & tools.keys()
    if taken:
        tools = {name: tool for name, tool in tools.items() if name not in taken}
        joined = b",".join(each for tool, each in encoded.each if tool.id not in taken)
    if not tools:
        return None
    body = add_elements(body, joined, "tools", first=api == MESSAGES)
    if api == MESSAGES:
        return Injected(_one_at_a_time(body, fields), tools)
    return Injected(set_member(body, b"false", "parallel_tool_calls"), tools)


def _one_at_a_time(body: bytes, fields: Object) -> bytes:
    """Ask for one call at a time; what cannot be understood is left to the provider."""
    choice = fields.get("tool_choice")
    if is_null(choice):
        auto = b'{"type":"auto","disable_parallel_tool_use":true}'
        return set_member(body, auto, "tool_choice")
    if not source(choice).startswith("{"):
        return body
    given = members(choice).get("type")
    kind = "" if is_null(given) else text(given)
    if kind == "":
        body = set_member(body, b'"auto"', "tool_choice", "type")
    elif kind not in ("auto", "any", "tool"):
        return body
    return set_member(body, b"true", "tool_choice", "disable_parallel_tool_use")


def _name_of(tool: Object) -> str:
    return text(tool.get("name")) or text(members(tool.get("function")).get("name")) or ""


def _encode(api: str, tool: Tool) -> bytes:
    schema = msgspec.Raw(tool.input_schema)
    if api == MESSAGES:
        return msgspec.json.encode(
            {
                "input_schema": schema,
                "name": tool.id,
                "description": tool.description,
                "type": "custom",
            }
        )
    if api == CHAT_COMPLETIONS:
        function = {
            "name": tool.id,
            "strict": False,
            "description": tool.description,
            "parameters": schema,
        }
        return msgspec.json.encode({"type": "function", "function": function})
    if api == RESPONSES:
        return msgspec.json.encode(
            {
                "name": tool.id,
                "parameters": schema,
                "strict": False,
                "type": "function",
                "description": tool.description,
            }
        )
    raise ValueError(f"unknown API {api!r}")
