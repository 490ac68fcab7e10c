"""What McpTools tells itself: what others found out, and that it is time."""

from __future__ import annotations

from attrs import frozen

from aigateway.actors.control.messages import McpConfiguration, Unavailable
from aigateway.actors.mcp.shelf import UserKey

__all__ = ["Configured", "LoadIsDue", "SessionEnded", "Sweep"]


@frozen
class Configured:
    key: UserKey
    load: int
    answer: McpConfiguration | Unavailable | BaseException


@frozen
class LoadIsDue:
    key: UserKey
    load: int


@frozen
class SessionEnded:
    urn: str
    error: BaseException | None


@frozen
class Sweep:
    pass
