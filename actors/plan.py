"""What the supervisor is told to build: values only, made by the edge from its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
from attrs import field, frozen

from aigateway.actors.actor.base import Watcher
from aigateway.actors.mcp.shelf import ToolShelf, ToolTroubles
from aigateway.actors.providers.provider import ProviderLimits

__all__ = ["GatewayPlan", "StartControlPlane", "StartHousekeeper", "StartMcp", "StartReporter"]

StartControlPlane = Callable[[str, Watcher], pykka.ActorRef[Any]]
"""Starts the control plane actor for a role and a watcher."""

StartMcp = Callable[[str, Watcher], pykka.ActorRef[Any]]
"""Starts the actor that finds and runs injected tools, likewise."""

StartHousekeeper = Callable[[str, Watcher], pykka.ActorRef[Any]]
"""Starts the actor that keeps a local database in order, likewise."""

StartReporter = Callable[[str, Watcher], pykka.ActorRef[Any]]
"""Starts the actor that shows consoles how this process is, likewise."""


@frozen(kw_only=True)
class GatewayPlan:
    """One gateway worker's actors.  Sizes in bytes."""

    start_control_plane: StartControlPlane
    state_dir: Path
    """Where the spools are."""
    spool_max_size: int = 1 << 30
    limits: ProviderLimits = field(factory=ProviderLimits)
    start_mcp: StartMcp | None = None
    """None: nobody can have MCP servers."""
    start_housekeeper: StartHousekeeper | None = None
    """None: there is nothing to keep in order."""
    start_reporter: StartReporter | None = None
    """None: there is no database on which consoles look."""
    tool_shelf: ToolShelf = field(factory=ToolShelf)
    """Where that actor lays tools for all to read."""
    tool_troubles: ToolTroubles = field(factory=ToolTroubles)
    """Which of them are not offered, and why."""
