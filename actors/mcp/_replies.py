"""Replies that do something when they come, where an actor must not wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aigateway.actors.actor.base import Reply, complete
from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp.results import ToolResult

__all__ = ["ResultReply", "TellingReply"]


class TellingReply(Reply[Any]):
    """Calls ``told`` with the answer, or with the exception that came instead."""

    def __init__(self, told: Callable[[Any], None]) -> None:
        super().__init__()
        self._told = told

    def set(self, value: Any = None) -> None:
        super().set(value)
        self._told(value)

    def set_error(self, error: BaseException) -> None:
        super().set_error(error)
        self._told(error)


class ResultReply(Reply[ToolResult]):
    """Hands a session's answer on, and makes a result of the session's death."""

    def __init__(self, reply: Reply[ToolResult], server: McpServer, tool: str) -> None:
        super().__init__()
        self._reply, self._server, self._tool = reply, server, tool

    def set(self, value: Any = None) -> None:
        super().set(value)
        complete(self._reply, value)

    def set_error(self, error: BaseException) -> None:
        super().set_error(error)
        result = ToolResult(
            tool=self._tool,
            server_id=self._server.id,
            server_url=self._server.url,
            is_error=True,
            transport_error="the session with the server ended",
        )
        complete(self._reply, result)
