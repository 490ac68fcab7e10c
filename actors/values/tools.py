"""Tools that may be offered to a model, and what became of calling them.

A result is written for a model as its provider's API wants it: the OpenAI ones take any text,
and get the result as the server gave it; Anthropic's takes a list of text blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from attrs import evolve, field, frozen

__all__ = ["ResultTexts", "ServerProblem", "Tool", "ToolResult", "ToolSet", "Tools"]


@frozen
class ResultTexts:
    """A result as texts, for APIs that take text blocks and none that is empty."""

    texts: tuple[str, ...]
    is_error: bool


@frozen(kw_only=True)
class ToolResult:
    """What became of a call, also when nothing came of it."""

    tool: str
    """The tool's name as its server calls it; as the model called it when it is not known."""
    server_id: str = ""
    server_url: str = ""
    """Empty when the tool is not known."""
    content: bytes = field(default=b"[]", repr=False)
    """The server's content blocks: a JSON array, as the server wrote it."""
    structured_content: bytes | None = field(default=None, repr=False)
    """Raw JSON, or None when the server gave none."""
    is_error: bool = False
    """The tool failed, by its own word or because it could not be reached."""
    transport_error: str | None = None
    """Why there is no result of the tool; fit for the model and for a record."""

    def as_json(self) -> bytes:
        """The result as MCP's CallToolResult, or an object with the error."""
        if self.transport_error is not None:
            return msgspec.json.encode({"error": True, "message": self.transport_error})
        result: dict[str, Any] = {"content": msgspec.Raw(self.content)}
        if self.structured_content is not None:
            result["structuredContent"] = msgspec.Raw(self.structured_content)
        if self.is_error:
            result["isError"] = True
        return msgspec.json.encode(result)

    def as_texts(self) -> ResultTexts:
        """The result as texts; what is not text is described or reported as an error."""
        if self.transport_error is not None:
            return ResultTexts((f"Error: calling tool: {self.transport_error}",), True)
        texts: list[str] = []
        failed = self.is_error
        for block in msgspec.json.decode(self.content, type=list[dict[str, Any]]):
            text, wrong = _text_of(block)
            if text.strip():
                texts.append(text)
            failed = failed or wrong
        if not texts and self.structured_content is not None:
            texts.append(self.structured_content.decode())
        if not texts and failed:
            texts.append("Error: the tool failed and did not say why")
        return ResultTexts(tuple(texts), failed)

    def within(self, limit: int) -> ToolResult:
        """The result with at most ``limit`` bytes of content, and a note where more was cut.

        Texts are cut between characters; what cannot be cut is left out when it is too much.
        """
        size = len(self.content) + len(self.structured_content or b"")
        if size <= limit:
            return self
        blocks = msgspec.json.decode(self.content, type=list[dict[str, Any]])
        if not blocks and self.structured_content is not None:
            blocks = [{"type": "text", "text": self.structured_content.decode()}]
        kept: list[dict[str, Any]] = []
        shown = 0
        for block in blocks:
            block = _shortened(block, limit - shown)
            if block:
                kept.append(block)
                shown += _size_of(block)
        if shown == sum(map(_size_of, blocks)) and self.structured_content is None:
            # It was long only as it was written.
            return self
        note = f"[The result is too long: {shown} bytes of about {size} are shown.]"
        kept.append({"type": "text", "text": note})
        return evolve(self, content=msgspec.json.encode(kept), structured_content=None)


def _shortened(block: dict[str, Any], room: int) -> dict[str, Any]:
    """A block that fits into ``room`` bytes; empty when nothing of it does."""
    if _size_of(block) <= room:
        return block
    inside = block.get("resource") if block.get("type") == "resource" else block
    if not isinstance(inside, dict) or not isinstance(inside.get("text"), str):
        return {}
    text = inside["text"].encode()[: max(room, 0)].decode("utf-8", "ignore")
    if not text:
        return {}
    shorter = {**inside, "text": text}
    return shorter if inside is block else {**block, "resource": shorter}


def _size_of(block: dict[str, Any]) -> int:
    """Bytes of a block: of its text, or of all of it."""
    inside = block.get("resource") if block.get("type") == "resource" else block
    if isinstance(inside, dict) and isinstance(inside.get("text"), str):
        return len(inside["text"].encode())
    return len(msgspec.json.encode(block))


def _text_of(block: dict[str, Any]) -> tuple[str, bool]:
    """The text for one content block, and whether it is only an error."""
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        return block["text"], False
    if kind != "resource":
        return "Error: unsupported tool result type", True
    resource = block.get("resource")
    if not isinstance(resource, dict):
        return "Error: embedded resource with no contents", True
    contents = resource.get("text", resource.get("blob"))
    if not isinstance(contents, str):
        return "Error: unknown embedded resource type", True
    kind, uri = resource.get("mimeType") or "", resource.get("uri") or ""
    return f"Binary resource (MIME: {kind}, URI: {uri}): {contents}", False


@frozen
class Tool:
    """A tool that may be offered to a model."""

    id: str
    """The name for the model: 1 to 64 letters, digits, ``_`` and ``-``, unique in the set."""
    name: str
    """The name that its server gave it."""
    server_id: str
    server_url: str
    description: str = field(repr=False)
    input_schema: bytes = field(repr=False)
    """JSON as its server wrote it: a schema of objects.  The same bytes as long as the server
    says the same."""


@frozen
class ServerProblem:
    """Why a server's tools, or one of them, are missing in a set."""

    server_id: str
    message: str


@frozen
class ToolSet:
    """The tools of one user, sorted by id.

    A refresh that changes nothing answers the same object again, so what was made of a set
    may be kept beside it.
    """

    tools: tuple[Tool, ...] = ()
    problems: tuple[ServerProblem, ...] = ()

    def find(self, tool_id: str) -> Tool | None:
        """The tool with this id."""
        return next((tool for tool in self.tools if tool.id == tool_id), None)


Tools: TypeAlias = Mapping[str, Tool]
"""Tools by the names that the model knows."""
