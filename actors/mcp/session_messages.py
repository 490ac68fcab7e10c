"""What a session actor is told, and what it tells its owner."""

from __future__ import annotations

from attrs import field, frozen

from aigateway.actors.actor.base import Reply
from aigateway.actors.mcp.definitions import ToolDefinition
from aigateway.actors.mcp.messages import CallTool
from aigateway.actors.mcp.results import ToolResult

__all__ = [
    "Call",
    "Close",
    "Connect",
    "Listen",
    "ListenerEnded",
    "SessionFailed",
    "SessionTools",
    "TokenRefused",
]


@frozen
class Connect:
    """List the tools, after opening the session if need be; the owner is told the outcome."""


@frozen
class Listen:
    """Keep a stream open on which the server tells of changes to its tools."""


@frozen
class Close:
    """Take no more calls, finish those that are there, end the session and stop."""


@frozen
class Call:
    """Run a tool.  Replies ToolResult at ``deadline`` (monotonic time) at the latest."""

    tool: ToolDefinition
    arguments: bytes = field(repr=False)
    deadline: float
    reply: Reply[ToolResult] = field(repr=False, eq=False)
    asked: CallTool | None = None
    """What it was made of."""
    repeated: bool = False
    """It was sent with another token before."""


@frozen
class SessionTools:
    """Told to the owner: these are the tools now."""

    urn: str
    tools: tuple[ToolDefinition, ...]
    problems: tuple[str, ...]
    announces_changes: bool


@frozen
class SessionFailed:
    """Told to the owner: the server cannot be used."""

    urn: str
    message: str


@frozen
class TokenRefused:
    """Told to the owner: the server did not take the token for a call, which has no reply yet
    and is the owner's now."""

    urn: str
    call: Call
    token: str = field(repr=False)
    failure: ToolResult
    """What is replied when there is no other token."""


@frozen
class ListenerEnded:
    """Told to the owner: no stream of changes is kept any more."""

    urn: str
