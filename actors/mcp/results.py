"""What a model is told of a tool call, sans-IO.

The provider APIs differ: the OpenAI ones take any text, and get the result as the server
gave it; Anthropic's takes a list of text blocks.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import field, frozen

__all__ = ["ResultTexts", "ToolResult"]


@frozen
class ResultTexts:
    """A result as texts, for APIs that take text blocks.  There is always at least one."""

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
        """The result as texts; what is no text is described or reported as an error."""
        if self.transport_error is not None:
            return ResultTexts((f"Error: calling tool: {self.transport_error}",), True)
        texts: list[str] = []
        failed = self.is_error
        for block in msgspec.json.decode(self.content, type=list[dict[str, Any]]):
            text, wrong = _text_of(block)
            texts.append(text)
            failed = failed or wrong
        if not texts and self.structured_content is not None:
            texts.append(self.structured_content.decode())
        if not texts:
            return ResultTexts(("Error: no valid tool result content",), True)
        return ResultTexts(tuple(texts), failed)


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
