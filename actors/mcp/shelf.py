"""What requests may look up without asking the actor that knows it.

Requests come by the thousand, and the actor has other things to do.  Sets of tools that need
nothing looked up lie here for all to read; the actor alone writes them.  So do the tools that are
not offered as their servers define them, with the reason: requests find out what a provider
takes, the actor what a server says.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from attrs import frozen

from aigateway.actors.mcp.messages import LeftOut
from aigateway.actors.values.tools import Tool, ToolSet

__all__ = ["ToolShelf", "ToolTroubles", "UserKey", "user_key"]

UserKey: TypeAlias = tuple[str, bytes]
"""A user, and a digest of the session token: it may be the token for one of the servers."""


def user_key(user_id: str, session_token: str) -> UserKey:
    """By what users are kept apart."""
    return user_id, hashlib.sha256(session_token.encode()).digest()


@frozen
class _Shelved:
    tool_set: ToolSet
    fresh_until: float


class ToolShelf:
    """The sets that are fresh, by user.  Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._sets: dict[UserKey, _Shelved] = {}
        self._nobody: _Shelved | None = None

    def find(self, key: UserKey, now: float) -> ToolSet | None:
        """The user's set; None when the actor has to be asked."""
        shelved = self._sets.get(key)
        if shelved is not None and now < shelved.fresh_until:
            return shelved.tool_set
        shelved = self._nobody
        return shelved.tool_set if shelved is not None and now < shelved.fresh_until else None

    # -- for the actor

    def put(self, key: UserKey, tool_set: ToolSet, fresh_until: float) -> None:
        self._sets[key] = _Shelved(tool_set, fresh_until)

    def nobody_has_any(self, tool_set: ToolSet, fresh_until: float) -> None:
        """Who has no set of their own has this empty one."""
        self._nobody = _Shelved(tool_set, fresh_until)

    def somebody_may_have(self) -> None:
        """Who has no set of their own asks."""
        self._nobody = None

    def drop(self, key: UserKey) -> None:
        self._sets.pop(key, None)

    def clear(self) -> None:
        self._sets.clear()
        self._nobody = None


KEPT = 2000
"""Troubles that are remembered; the oldest give way."""

Why: TypeAlias = Literal["definition", "api", "refused"]
"""A server's definition cannot be used at all, not in one API, or a provider refuses it."""

_Place: TypeAlias = tuple[str, str, str]
"""A provider, and the address and the name of a server's tool."""


class ToolTroubles:
    """What this process knows.  Single operations on dictionaries are all that it needs, so it
    may be used from many threads."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._left_out: OrderedDict[tuple[str, ...], LeftOut] = OrderedDict()
        self._refused: OrderedDict[_Place, Tool] = OrderedDict()
        self._counts: dict[tuple[str, str], int] = {}

    def is_new(self, *trouble: str) -> bool:
        """Whether nobody has told of this trouble yet; from now on somebody has."""
        if trouble in self._told:
            return False
        self._told[trouble] = None
        _shorten(self._told)
        return True

    def leave_out(self, tool: LeftOut, why: Why) -> None:
        """Take note for :attr:`left_out`, and count it if it was offered until now."""
        about = tool.tool or tool.reason
        place = (tool.server_id, about, tool.where)
        if place not in self._left_out:
            counted = (tool.server_id, why)
            self._counts[counted] = self._counts.get(counted, 0) + 1
        self._left_out[place] = tool
        _shorten(self._left_out)

    def counts(self) -> dict[tuple[str, str], int]:
        """How often a tool was left out, by its server's id and why."""
        return dict(self._counts)

    def offer(self, server_id: str, tool: str, where: str) -> None:
        """The tool is offered again."""
        self._left_out.pop((server_id, tool, where), None)

    def listed(self, server_id: str, tools: Iterable[str]) -> None:
        """A server has listed its tools again: what was known of others of it is over."""
        for why in get_args(Why):
            self._counts.setdefault((server_id, why), 0)
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
