"""What is known of one user's servers, and the set of tools that follows from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import pykka
from attrs import Factory, define, field

from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp.definitions import ToolDefinition
from aigateway.actors.mcp.filters import ToolFilter
from aigateway.actors.mcp.messages import CallTool, GetTools, ServerProblem, Tool, ToolSet
from aigateway.actors.mcp.names import tool_ids
from aigateway.actors.mcp.session_messages import TokenRefused
from aigateway.actors.mcp.shelf import UserKey

__all__ = ["KnownServer", "Shared", "UserTools", "Users", "Waiting", "assemble"]

T = TypeVar("T", bound=Hashable)


class Shared:
    """Keeps what is equal for many users once: definitions are large, and users are many."""

    def __init__(self) -> None:
        self._kept: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def once(self, value: T) -> T:
        """Return the equal value that was given before, if it is still in use."""
        kept: T = self._kept.setdefault(hash(value), value)
        return kept if kept == value else value


@define(eq=False)
class KnownServer:
    """A server of a user's configuration, and its session."""

    config: McpServer = field(repr=False)
    filter: ToolFilter = field(repr=False)
    session: pykka.ActorRef[Any] | None = None
    tools: tuple[ToolDefinition, ...] = ()
    problems: tuple[str, ...] = ()
    pending: bool = False
    """The load that is going on waits for it."""
    failed: bool = False
    """It is to be tried again soon."""


@define(eq=False)
class Waiting:
    """A message that can be answered when the tools are there."""

    message: GetTools | CallTool
    since: float


@define(eq=False)
class UserTools:
    """One user's tools, as one session token sees them.  Times are monotonic seconds."""

    key: UserKey
    servers: dict[str, KnownServer] = Factory(dict)
    config_problems: tuple[ServerProblem, ...] = ()
    """Why servers of the configuration are not among ``servers``, or why there is none."""
    tool_set: ToolSet = Factory(ToolSet)
    places: dict[str, tuple[KnownServer, ToolDefinition]] = Factory(dict)
    """Where each tool of the set is."""
    load: int | None = None
    """The number of the load that is going on."""
    configured: bool = False
    """That load has got its configuration."""
    waiting: list[Waiting] = Factory(list)
    refused: list[TokenRefused] = Factory(list)
    """Calls that wait for another token."""
    fresh_until: float = float("-inf")
    """Until then the set is good without asking."""
    good_until: float = float("-inf")
    """Until then it is good while it is loaded anew."""
    used_at: float = 0.0

    def update(self, shared: Shared) -> None:
        """Make the set anew from what the servers told; an equal one stays the same object."""
        tool_set, self.places = assemble(self.servers.values(), self.config_problems)
        if tool_set != self.tool_set:
            self.tool_set = shared.once(tool_set)


class Users:
    """The users whose tools are kept, the one used last at the end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[UserKey, UserTools] = OrderedDict()
        self._latest: dict[str, UserKey] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[UserTools]:
        """Those who may be forgotten meanwhile, too."""
        return iter(list(self._kept.values()))

    @property
    def to_give_way(self) -> UserTools | None:
        """Who has to be forgotten before somebody can be added."""
        return next(iter(self._kept.values())) if len(self._kept) >= self._limit else None

    def find(self, key: UserKey) -> UserTools | None:
        return self._kept.get(key)

    def latest(self, user_id: str) -> UserTools | None:
        """The tools of the user with the token that was used last."""
        key = self._latest.get(user_id)
        return None if key is None else self._kept[key]

    def add(self, key: UserKey) -> UserTools:
        user = self._kept[key] = UserTools(key)
        return user

    def used(self, user: UserTools, now: float) -> None:
        """Take note that the user is there."""
        user.used_at = now
        self._kept.move_to_end(user.key)
        self._latest[user.key[0]] = user.key

    def remove(self, user: UserTools) -> None:
        del self._kept[user.key]
        if self._latest.get(user.key[0]) == user.key:
            del self._latest[user.key[0]]


def assemble(
    servers: Iterable[KnownServer], problems: Iterable[ServerProblem] = ()
) -> tuple[ToolSet, dict[str, tuple[KnownServer, ToolDefinition]]]:
    """Make the set of tools of these servers, and say where each tool is."""
    servers = list(servers)
    usable = {
        (server.config.id, tool.name): (server, tool)
        for server in servers
        for tool in server.tools
        if server.filter.lets_through(tool.name)
    }
    places = {tool_id: usable[pair] for pair, tool_id in tool_ids(usable).items()}
    tools = tuple(
        Tool(
            tool_id,
            definition.name,
            server.config.id,
            server.config.url,
            definition.description,
            definition.input_schema,
        )
        for tool_id, (server, definition) in sorted(places.items(), key=lambda item: item[0])
    )
    found = [ServerProblem(server.config.id, text) for server in servers
             for text in server.problems]  # fmt: skip
    return ToolSet(tools, (*problems, *found)), places
