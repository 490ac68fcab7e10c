"""Offering a user's tools to the model: edits of a request, byte-exact but for the tools.

Sets of tools change seldom, and providers cache prompts by their bytes.  So the same set is
always written in the same way, in the order of the tools' ids, and is encoded once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import msgspec
from attrs import field, frozen

from aigateway.actors.codec.reading import (
    Object,
    count,
    is_null,
    items,
    members,
    text,
)
from aigateway.actors.codec.splice import object_members, set_member, spliced
from aigateway.actors.interception.routes import CHAT_COMPLETIONS, MESSAGES, RESPONSES
from aigateway.actors.interception.tool_keys import WayBack
from aigateway.actors.interception.tool_rules import ToolRules, rules_for
from aigateway.actors.interception.tool_schemas import (
    FittedTool,
    UnusableSchema,
    fit_tool,
)
from aigateway.actors.values.tools import Tool, Tools, ToolSet

__all__ = ["Encodings", "Injected", "inject", "takes_tools"]

KEPT = 512
"""Encoded sets that are kept."""

_SMALL_FAST = "haiku"
"""Part of the names of models that clients use for chores: no tools for them."""


_KNOWS_NO_PARALLEL = re.compile(r"(?:^|[/:])o\d(?:-|$)")
"""OpenAI's models of the o series refuse ``parallel_tool_calls``, whatever its value."""

_MOST: Mapping[str, int] = {CHAT_COMPLETIONS: 128, RESPONSES: 128}
"""Tools that OpenAI takes in a request; it refuses one with more."""


@frozen
class Injected:
    """A request that offers tools."""

    body: bytes
    tools: Tools
    ways_back: Mapping[str, WayBack] = field(factory=dict)
    """By the names of tools whose servers expect other arguments than models write."""
    without: Callable[[Collection[str]], Injected] | None = None
    """The same request with some of the tools left out, by their names."""


@frozen
class _Encoded:
    tool_set: ToolSet
    """Kept so that its identity is not given to another set."""
    each: tuple[tuple[Tool, bytes], ...]
    all: bytes
    names: Tools
    ways_back: Mapping[str, WayBack]


def _ignore(_tool: Tool, _rules: ToolRules, _problem: str, *, left_out: bool) -> None:
    pass


class Encodings:
    """What sets of tools look like in requests, made once for each set, API and rules."""

    def __init__(self, tell: Callable[..., None] = _ignore) -> None:
        """``tell(tool, rules, problem, left_out=…)`` is called for each tool that cannot be
        offered, for what had to be changed in a definition that its server should know of, and
        with an empty problem for each tool that is offered."""
        self._tell = tell
        self._kept: dict[tuple[str, str, int], _Encoded] = {}

    def of(self, api: str, rules: ToolRules, tool_set: ToolSet) -> _Encoded:
        """The encoded set; the same set (the same object) gives the same bytes object."""
        key = (api, rules.name, id(tool_set))
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            found = self._kept[key] = self._encode(api, rules, tool_set)
        return found

    def _encode(self, api: str, rules: ToolRules, tool_set: ToolSet) -> _Encoded:
        each: list[tuple[Tool, bytes]] = []
        ways_back = {}
        for tool in sorted(tool_set.tools, key=lambda tool: tool.id):
            try:
                fitted = fit_tool(tool.description, tool.input_schema, rules)
            except UnusableSchema as ex:
                self._tell(tool, rules, str(ex), left_out=True)
                continue
            for note in fitted.notes or ("",):
                self._tell(tool, rules, note, left_out=False)
            each.append((tool, _encode(api, tool.id, fitted)))
            if fitted.way_back is not None:
                ways_back[tool.id] = fitted.way_back
        joined = b",".join(encoded for _, encoded in each)
        names = {tool.id: tool for tool, _ in each}
        return _Encoded(tool_set, tuple(each), joined, names, ways_back)


def inject(
    api: str,
    body: bytes,
    tool_set: ToolSet,
    encodings: Encodings,
    without: Collection[str] = (),
) -> Injected | None:
    """Offer the tools in a request (valid JSON); None when it has no place for them.

    That is: no tools, a small fast model, tools that are no list, several choices at once, or
    functions, as tools were called before there were tools.  A tool whose name the client
    uses itself is left out, and so are those named in ``without``, and the last ones when there
    are too many.
    """
    if not tool_set.tools:
        return None
    request = _Request(body)
    given = request.value("tools")
    if not request.members or not (is_null(given) or given.startswith(b"[")):
        return None
    model = text(request.value("model")) or ""
    if not takes_tools(api, model):
        return None
    if api == CHAT_COMPLETIONS and not _has_place(request):
        return None
    encoded = encodings.of(api, rules_for(api, model), tool_set)
    tools, joined = encoded.names, encoded.all
    own = items(given)
    taken = {*without, *(_name_of(members(tool)) for tool in own)} & tools.keys()
    room = max(_MOST.get(api, len(own) + len(tools)) - len(own), 0)
    if taken or len(tools) > room:
        each = [(tool, data) for tool, data in encoded.each if tool.id not in taken][:room]
        tools = {tool.id: tool for tool, _ in each}
        joined = b",".join(data for _, data in each)
    if not tools:
        return None
    request.add_tools(joined, among=bool(own), first=api == MESSAGES)
    if api == MESSAGES:
        _one_at_a_time(request)
    elif not _KNOWS_NO_PARALLEL.search(model):
        request.put("parallel_tool_calls", b"false")

    def again(more: Collection[str]) -> Injected:
        left_out = {*without, *more}
        return inject(api, body, tool_set, encodings, left_out) or Injected(body, {})

    return Injected(request.edited(), tools, encoded.ways_back, again)


def takes_tools(api: str, model: str) -> bool:
    """Whether requests for this model are offered tools at all."""
    return api != MESSAGES or _SMALL_FAST not in model


class _Request:
    """A request body with members, and what is to be changed in it, all in one pass."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        # Of equal names the last one counts.
        self.members = {member.name: member for member in object_members(body)}
        self._edits: list[tuple[int, int, bytes]] = []

    def value(self, name: str) -> bytes:
        """The JSON of a member, null when there is none."""
        member = self.members.get(name)
        return b"null" if member is None else self._body[member.value_start : member.value_end]

    def put(self, name: str, value: bytes) -> None:
        """Give the member this value; a new one becomes the first."""
        member = self.members.get(name)
        if member is not None:
            self._edits.append((member.value_start, member.value_end, value))
            return
        start = self._body.index(b"{") + 1
        # In front of what was put before.
        self._edits.insert(0, (start, start, b'"%s":%s,' % (name.encode(), value)))

    def add_tools(self, tools: bytes, *, among: bool, first: bool) -> None:
        """Add encoded tools as the first or the last ones; ``among``: the client has some."""
        member = self.members.get("tools")
        if not among or member is None:
            self.put("tools", b"[" + tools + b"]")
        elif first:
            at = member.value_start + 1
            self._edits.append((at, at, tools + b","))
        else:
            at = member.value_start + len(self.value("tools")[:-1].rstrip(b" \t\r\n"))
            self._edits.append((at, at, b"," + tools))

    def edited(self) -> bytes:
        return spliced(self._body, self._edits)


def _has_place(request: _Request) -> bool:
    """Whether a request to Chat Completions can be answered in several rounds."""
    # Each choice would go on in a conversation of its own.
    if count(request.value("n")) > 1:
        return False
    # Either functions or tools, OpenAI says.
    return is_null(request.value("functions"))


def _one_at_a_time(request: _Request) -> None:
    """Ask for one call at a time; what cannot be understood is left to the provider."""
    choice = request.value("tool_choice")
    if is_null(choice):
        request.put("tool_choice", b'{"type":"auto","disable_parallel_tool_use":true}')
        return
    if not choice.startswith(b"{"):
        return
    given = members(choice).get("type")
    kind = "" if is_null(given) else text(given)
    if kind == "":
        choice = set_member(choice, b'"auto"', "type")
    elif kind not in ("auto", "any", "tool"):
        return
    request.put("tool_choice", set_member(choice, b"true", "disable_parallel_tool_use"))


def _name_of(tool: Object) -> str:
    return text(tool.get("name")) or text(members(tool.get("function")).get("name")) or ""


def _encode(api: str, name: str, tool: FittedTool) -> bytes:
    schema = msgspec.Raw(tool.schema)
    if api == MESSAGES:
        return msgspec.json.encode(
            {
                "input_schema": schema,
                "name": name,
                "description": tool.description,
                "type": "custom",
            }
        )
    if api == CHAT_COMPLETIONS:
        function = {
            "name": name,
            "strict": False,
            "description": tool.description,
            "parameters": schema,
        }
        return msgspec.json.encode({"type": "function", "function": function})
    if api == RESPONSES:
        return msgspec.json.encode(
            {
                "name": name,
                "parameters": schema,
                "strict": False,
                "type": "function",
                "description": tool.description,
            }
        )
    raise ValueError(f"unknown API {api!r}")
