"""What is known of users' servers: the sessions with them, and the sets of tools that follow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from importlib import metadata
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import pykka
import structlog
from attrs import Factory, define, field

from aigateway.actors.actor.base import Watcher, tell_quietly
from aigateway.actors.control.messages import McpConfiguration, McpServer
from aigateway.actors.mcp.calls import Close, Connect, Listen, TokenRefused
from aigateway.actors.mcp.definitions import ToolDefinition
from aigateway.actors.mcp.errors import McpError
from aigateway.actors.mcp.line import Line, checked_url
from aigateway.actors.mcp.messages import CallTool, GetTools
from aigateway.actors.mcp.offering import BadPattern, ToolFilter, tool_ids
from aigateway.actors.mcp.protocol import ClientInfo
from aigateway.actors.mcp.session import McpSession
from aigateway.actors.mcp.shelf import UserKey
from aigateway.actors.upstream.connect import Connectors
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import UpstreamError
from aigateway.actors.values.tools import ServerProblem, Tool, ToolSet

__all__ = ["KnownServer", "SessionPool", "Shared", "UserTools", "Users", "Waiting", "assemble"]

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
    """Until then it is good while it is loaded again."""
    used_at: float = 0.0

    def update(self, shared: Shared) -> None:
        """Make the set again from what the servers told; an equal one stays the same object."""
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


MAX_HUNG = 1000
"""Servers that are remembered as hung; more than a deployment has."""
HUNG_FOR = 300.0
"""Seconds for which nobody waits for a server that kept somebody waiting to the end."""

log = structlog.get_logger("ai-gateway.mcp")


class SessionPool:
    """Starts and ends session actors; part of the McpTools actor's state."""

    def __init__(
        self,
        role: str,
        owner: pykka.ActorRef[Any],
        watcher: Watcher,
        *,
        connect_timeout: float,
        listeners: int,
        ca_file: str,
        proxy_for: Callable[[str], str],
    ) -> None:
        self._role = role
        self._owner = owner
        self._watcher = watcher
        self._client = ClientInfo("aigateway", _version())
        self._max_listeners = listeners
        self._ca_file = ca_file
        self._proxy_for = proxy_for
        self._connectors = Connectors(timeout=connect_timeout)
        self._places: dict[str, tuple[UserTools, KnownServer]] = {}
        self._closing: dict[str, pykka.ActorRef[Any]] = {}
        self._listeners: set[str] = set()
        self._hung: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def closing(self) -> Iterable[pykka.ActorRef[Any]]:
        """Those that were closed and have not ended yet."""
        return self._closing.values()

    def find(self, urn: str) -> tuple[UserTools, KnownServer] | None:
        """Whose session this is; None when it is not used any more."""
        return self._places.get(urn)

    def get(self, user: UserTools, server: KnownServer) -> pykka.ActorRef[Any]:
        """The session with a server, started if there is none.  Raises McpError."""
        if server.session is not None and server.session.is_alive():
            return server.session
        # Its end may not have been told yet.
        self.drop(server)
        config = server.config
        proxy = self._proxy_for(config.url)
        try:
            # Made here, so that a file that cannot be read is told as a misconfiguration.
            self._connectors.get(Endpoint.of(config.url), proxy=proxy, verify=self._ca_file or True)
        except UpstreamError as ex:
            raise McpError(str(ex)) from ex
        line = Line(
            config.url,
            config.token,
            connectors=self._connectors,
            user_agent=f"{self._client.name}/{self._client.version}",
            ca_file=self._ca_file,
            proxy=proxy,
        )
        ref = McpSession.start(
            f"{self._role}/{user.key[0]}/{config.id}",
            self._watcher,
            owner=self._owner,
            server=config,
            line=line,
            client=self._client,
        )
        server.session = ref
        self._places[ref.actor_urn] = (user, server)
        return ref

    def let_listen(self, server: KnownServer) -> None:
        """Let the session hear of changes, unless too many do."""
        session = server.session
        if session is None or session.actor_urn in self._listeners:
            return
        if len(self._listeners) < self._max_listeners:
            self._listeners.add(session.actor_urn)
            tell_quietly(session, Listen())

    def listens_no_more(self, urn: str) -> None:
        self._listeners.discard(urn)

    def ended(self, urn: str) -> tuple[UserTools, KnownServer] | None:
        """A session has ended; says whose it was if it was still in use."""
        self._closing.pop(urn, None)
        place = self._places.get(urn)
        if place is not None:
            self.drop(place[1])
        self._listeners.discard(urn)
        return place

    def apply(self, user: UserTools, configuration: McpConfiguration) -> None:
        """Bring a user's sessions in line with the configuration, and have all tools listed."""
        problems: list[ServerProblem] = []
        wanted: dict[str, McpServer] = {}
        for config in configuration.servers:
            if config.id in wanted:
                problems.append(ServerProblem(config.id, "there are two servers with this id"))
            wanted.setdefault(config.id, config)
        for server_id in user.servers.keys() - wanted.keys():
            self.close(user.servers.pop(server_id))
        for config in wanted.values():
            try:
                self._apply_server(user, config)
            except (BadPattern, ValueError, McpError) as ex:
                if config.id in user.servers:
                    self.close(user.servers.pop(config.id))
                problems.append(ServerProblem(config.id, str(ex)))
                log.warning("mcp server is misconfigured", server=config.id, error=str(ex))
        user.config_problems = tuple(problems)

    def _apply_server(self, user: UserTools, config: McpServer) -> None:
        server = user.servers.get(config.id)
        if server is None or server.config != config:
            checked_url(config.url)
            tool_filter = ToolFilter(config.tool_allow_regex, config.tool_deny_regex)
            if server is None:
                server = user.servers[config.id] = KnownServer(config, tool_filter)
            else:
                self.close(server)
                server.config, server.filter = config, tool_filter
        server.pending = True
        tell_quietly(self.get(user, server), Connect())

    def hung(self, user: UserTools, now: float) -> None:
        """The time of a load is over: do not let others wait for the same servers."""
        if len(self._hung) >= MAX_HUNG:
            self._hung.clear()
        for server in user.servers.values():
            if server.pending:
                self._hung[server.config.url] = now + HUNG_FOR

    def hold_up(self, user: UserTools, now: float) -> bool:
        """Whether a load has to wait: for servers that have not told yet, and may soon."""
        return any(
            server.pending and now >= self._hung.get(server.config.url, now)
            for server in user.servers.values()
        )

    def answered(self, server: KnownServer) -> None:
        """The server told something, so it does not hang."""
        self._hung.pop(server.config.url, None)

    def drop(self, server: KnownServer) -> None:
        """Do not use the session any more."""
        session, server.session = server.session, None
        if session is not None:
            self._places.pop(session.actor_urn, None)
            self._listeners.discard(session.actor_urn)

    def close(self, server: KnownServer) -> None:
        """Let the session end when its calls have ended."""
        session = server.session
        if session is not None:
            self.drop(server)
            self._closing[session.actor_urn] = session
            tell_quietly(session, Close())


def _version() -> str:
    try:
        return metadata.version("aigateway")
    except metadata.PackageNotFoundError:
        return "0"
