"""Replies that do something when they come, where an actor must not wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pykka

from aigateway.actors.actor import Reply, complete
from aigateway.actors.coderd.messages import McpServer
from aigateway.actors.mcp.results import ToolResult

__all__ = ["ResultReply", "TellingReply"]


class TellingReply(pykka.ThreadingFuture[Any]):
    """Calls ``told`` with the answer, or with the exception that came instead."""

    def __init__(self, told: Callable[[Any], None]) -> None:
        super().__init__()
        self._told = told

    def set(self, value: Any = None) -> None:
        super().set(value)
        self._told(value)

    def set_exception(self, exc_info: Any = None) -> None:
        super().set_exception(exc_info)
        self._told(exc_info[1] if exc_info else None)


class ResultReply(pykka.ThreadingFuture[ToolResult]):
    """Hands a session's answer on, and makes a result of the session's death."""

    def __init__(self, reply: Reply[ToolResult], server: McpServer, tool: str) -> None:
        super().__init__()
        self._reply, self._server, self._tool = reply, server, tool

    def set(self, value: Any = None) -> None:
        super().set(value)
        complete(self._reply, value)

    def set_exception(self, exc_info: Any = None) -> None:
        super().set_exception(exc_info)
        result = ToolResult(
            tool=self._tool,
            server_id=self._server.id,
            server_url=self._server.url,
            is_error=True,
            transport_error="the session with the server ended",
        )
        complete(self._reply, result)
