"""What the McpTools actor is told, and what it answers."""

from __future__ import annotations

from attrs import field, frozen

from aigateway.actors.actor.base import Inquiry, Reply
from aigateway.actors.values.tools import ToolResult, ToolSet

__all__ = [
    "CallTool",
    "GetMcpState",
    "GetTools",
    "LeftOut",
    "McpLimits",
    "McpState",
]


@frozen
class GetTools:
    """Which tools may be injected for this user?  Replies ToolSet.

    Answered at once from the cache; when there is nothing in it, after
    ``McpLimits.tools_wait`` seconds at most, with the tools of the servers that were quick
    enough.  ``session_token`` is the Coder token of the request: users are kept apart by it,
    because it may also be the token for one of the servers.
    """

    user_id: str
    session_token: str = field(repr=False)
    reply: Reply[ToolSet] = field(repr=False, eq=False)


@frozen
class CallTool:
    """Run a tool.  Replies ToolResult, whatever happens, once ``deadline_seconds`` are over
    at the latest.

    ``arguments_json`` is the model's: a JSON object, or empty for none.  With the
    ``session_token`` of the request the tool is taken from that set, and found even when the
    actor was restarted since; without it, from the set that the user got last.
    """

    user_id: str
    tool_id: str
    arguments_json: bytes = field(repr=False)
    deadline_seconds: float
    reply: Reply[ToolResult] = field(repr=False, eq=False)
    session_token: str = field(default="", repr=False)


@frozen
class LeftOut:
    """A tool that is not offered."""

    server_id: str
    tool: str
    """Its name; empty where it is not known."""
    where: str
    """To which provider or API; empty: to none."""
    reason: str


@frozen
class McpState:
    """For ``aigateway actors`` and metrics: how much is kept, and what is not offered."""

    users: int
    sessions: int
    listeners: int
    left_out: tuple[LeftOut, ...] = ()


@frozen
class GetMcpState(Inquiry[McpState]):
    """Asked: answers :class:`McpState`."""


@frozen(kw_only=True)
class McpLimits:
    """Times in seconds."""

    users: int = 5000
    """Sets of tools that are kept; the one not used for longest gives way."""
    keep: float = 900.0
    """How long a set is given out, and how long one that nobody uses is kept.  The
    reference's 15 minutes, which keep the tokens of the servers fresh."""
    refresh_after: float = 720.0
    """From this age on a set that is used is loaded again in the background."""
    retry_after: float = 30.0
    """The same for a set in which servers are missing because they failed."""
    tools_wait: float = 10.0
    """How long a request may wait for its tools."""
    connect_timeout: float = 10.0
    listeners: int = 100
    """Streams that are kept open to hear of changes; for the others the list is only read
    again when its time is over."""
    goodbye: float = 2.0
    """How long the stop of the actor waits for sessions to end."""
