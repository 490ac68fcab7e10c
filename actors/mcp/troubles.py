"""Tools of MCP servers that are not offered as their servers define them, and why.

Requests find out what a provider takes, the actor what a server says; what either knows lies
here for both.  A tool that a provider has refused stays out until its definition changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeAlias

from aigateway.actors.interception.tools import Tool
from aigateway.actors.mcp.messages import LeftOut

__all__ = ["ToolTroubles"]

KEPT = 2000
"""Troubles that are remembered; the oldest give way."""

_Place: TypeAlias = tuple[str, str, str]
"""A provider, and the address and the name of a server's tool."""


class ToolTroubles:
    """What this process knows.  Single operations on dictionaries are all that it needs, so it
    may be used from many threads."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._left_out: OrderedDict[tuple[str, ...], LeftOut] = OrderedDict()
        self._refused: OrderedDict[_Place, Tool] = OrderedDict()

    def is_new(self, *trouble: str) -> bool:
        """Whether nobody has told of this trouble yet; from now on somebody has."""
        if trouble in self._told:
            return False
        self._told[trouble] = None
        _shorten(self._told)
        return True

    def leave_out(self, tool: LeftOut) -> None:
        """Take note for :attr:`left_out`."""
        about = tool.tool or tool.reason
        self._left_out[tool.server_id, about, tool.where] = tool
        _shorten(self._left_out)

    def offer(self, server_id: str, tool: str, where: str) -> None:
        """The tool is offered again."""
        self._left_out.pop((server_id, tool, where), None)

    def listed(self, server_id: str, tools: Iterable[str]) -> None:
        """A server has listed its tools anew: what was known of others of it is over."""
        present = set(tools)
        for key, known in list(self._left_out.items()):
            if known.server_id == server_id and known.tool not in present:
                self._left_out.pop(key, None)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The tools that are not offered, by server."""
        return tuple(sorted(self._left_out.values(), key=lambda each: (each.server_id, each.tool)))

    # -- what providers have refused

    def refuse(self, provider: str, tool: Tool) -> None:
        """``provider`` takes no request with this tool, as it is defined now."""
        self._refused[provider, tool.server_url, tool.name] = tool
        _shorten(self._refused)

    def refused(self, provider: str, tools: Iterable[Tool]) -> frozenset[str]:
        """The ids of those tools that ``provider`` has refused."""
        # PERF: mostly there are none, and tools are many.
        if not self._refused:
            return frozenset()
        found = set()
        for tool in tools:
            known = self._refused.get((provider, tool.server_url, tool.name))
            if known is None:
                continue
            if _definition(known) == _definition(tool):
                found.add(tool.id)
            else:
                self._left_out.pop((tool.server_id, tool.name, provider), None)
        return frozenset(found)


def _definition(tool: Tool) -> tuple[str, bytes]:
    return tool.description, tool.input_schema


def _shorten(kept: OrderedDict[Any, Any]) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)
