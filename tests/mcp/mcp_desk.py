"""McpTools with a control plane that says what a test wants, and someone who asks them."""

from __future__ import annotations

from typing import Any

import pykka

from aigateway.actors.actor.base import GatewayActor, Reply, complete, new_reply
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import (
    GetMcpConfiguration,
    McpConfiguration,
    McpServer,
    Unavailable,
)
from aigateway.actors.mcp import CallTool, GetTools, McpLimits
from aigateway.actors.mcp.shelf import ToolShelf, user_key
from aigateway.actors.mcp.tools import McpTools
from aigateway.actors.values.tools import ToolResult, ToolSet

__all__ = ["Desk"]

PATIENCE = 10
"""Seconds after which a test that waits for a reply has failed."""


class _ControlPlane(GatewayActor):
    def __init__(self, desk: Desk) -> None:
        super().__init__("control-plane")
        self._desk = desk

    def receive(self, message: Any) -> None:
        assert isinstance(message, GetMcpConfiguration)
        self._desk.asked.append(message)
        if isinstance(self._desk.configuration, Exception):
            raise self._desk.configuration
        if self._desk.configuration is not None:
            complete(message.reply, self._desk.configuration)


class Desk:
    """``configuration`` None: the control plane never answers; an exception: it dies of it."""

    def __init__(self, *servers: McpServer, ca_file: str = "", **limits: Any) -> None:
        self.configuration: McpConfiguration | Unavailable | Exception | None = McpConfiguration(
            servers
        )
        self.asked: list[GetMcpConfiguration] = []
        self.now = 1000.0
        self.tree = ActorTree()
        self.shelf = ToolShelf()
        self._limits = McpLimits(**limits)
        self._ca_file = ca_file
        self._control_plane = _ControlPlane.start(self)
        self.tree.put("control-plane", self._control_plane)
        self.start()

    def start(self) -> None:
        """Start McpTools, again after its end."""
        self.mcp: pykka.ActorRef[McpTools] = McpTools.start(
            "mcp",
            None,
            tree=self.tree,
            ca_file=self._ca_file,
            limits=self._limits,
            shelf=self.shelf,
            clock=lambda: self.now,
        )

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: Any) -> None:
        self.mcp.stop(timeout=5)
        self._control_plane.stop(timeout=5)

    def configure(self, *servers: McpServer) -> None:
        self.configuration = McpConfiguration(servers)

    def ask_tools(self, user: str = "ann", token: str = "coder-token") -> Reply[ToolSet]:
        reply: Reply[ToolSet] = new_reply()
        self.mcp.tell(GetTools(user, token, reply))
        return reply

    def tools(self, user: str = "ann", token: str = "coder-token") -> ToolSet:
        return self.ask_tools(user, token).get(timeout=PATIENCE)

    def ids(self, user: str = "ann", token: str = "coder-token") -> list[str]:
        return [tool.id for tool in self.tools(user, token).tools]

    def shelved(self, user: str = "ann", token: str = "coder-token") -> ToolSet | None:
        """What lies on the shelf, where no question is needed."""
        return self.shelf.find(user_key(user, token), self.now)

    def ask_call(
        self,
        tool_id: str,
        arguments: bytes = b"{}",
        seconds: float = 5.0,
        user: str = "ann",
        token: str = "coder-token",
    ) -> Reply[ToolResult]:
        reply: Reply[ToolResult] = new_reply()
        self.mcp.tell(CallTool(user, tool_id, arguments, seconds, reply, token))
        return reply

    def call(self, tool_id: str, arguments: bytes = b"{}", seconds: float = 5.0) -> ToolResult:
        return self.ask_call(tool_id, arguments, seconds).get(timeout=PATIENCE)
