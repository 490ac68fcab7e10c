"""What interceptions need to know of tools, and not who finds and runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

__all__ = ["Tool", "ToolResult", "ToolSet", "ToolTexts", "Tools"]


class Tool(Protocol):
    """A tool that may be offered to a model."""

    @property
    def id(self) -> str:
        """The name for the model."""

    @property
    def name(self) -> str:
        """The name that its server gave it."""

    @property
    def server_id(self) -> str:
        """What the deployment calls its server."""

    @property
    def server_url(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def input_schema(self) -> bytes:
        """JSON, as its server wrote it."""


class ToolSet(Protocol):
    """The tools of one user.  Unchanged as long as it is the same object."""

    @property
    def tools(self) -> Sequence[Tool]: ...


Tools: TypeAlias = Mapping[str, Tool]
"""Tools by the names that the model knows."""


class ToolTexts(Protocol):
    """A result as texts."""

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def is_error(self) -> bool: ...


class ToolResult(Protocol):
    """What became of a call."""

    @property
    def tool(self) -> str:
        """The tool's own name; as the model called it when it is not known."""

    @property
    def server_url(self) -> str: ...

    @property
    def is_error(self) -> bool: ...

    @property
    def transport_error(self) -> str | None:
        """Why there is no result of the tool."""

    def as_json(self) -> bytes:
        """The result as the server gave it, or an object with the error."""

    def as_texts(self) -> ToolTexts:
        """The result as texts, for an API that takes those."""
