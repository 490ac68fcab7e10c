"""The results of tools in a message that was sent to a model, whichever API it is of."""

from __future__ import annotations

from collections.abc import Iterator

from aigateway.actors.codec.reading import Buffer, boolean, items, members, text
from aigateway.actors.values.frozen import frozen

__all__ = ["ToldResult", "results_in"]


@frozen
class ToldResult:
    """What a client said that a tool has given."""

    tool_call_id: str
    """Empty where the API tells calls by their names (Gemini before 3)."""
    tool: str
    """Its name, where that is all that is told."""
    size: int
    """Bytes, as JSON."""
    failed: bool = False


def results_in(message: bytes) -> list[ToldResult]:
    """Those of a message, or item, as it was sent.  One that was cut has none."""
    fields = members(message)
    kind = text(fields.get("type")) or ""
    if kind.endswith("_output"):
        call = text(fields.get("call_id")) or text(fields.get("id")) or ""
        return [ToldResult(call, "", _size(fields.get("output")))]
    if text(fields.get("role")) in ("tool", "function"):
        call = text(fields.get("tool_call_id")) or ""
        return [ToldResult(call, text(fields.get("name")) or "", _size(fields.get("content")))]
    return [*_in_blocks(fields.get("content")), *_in_parts(fields.get("parts"))]


def _in_blocks(content: Buffer | None) -> Iterator[ToldResult]:
    for block in map(members, items(content)):
        if text(block.get("type")) == "tool_result":
            yield ToldResult(
                text(block.get("tool_use_id")) or "",
                "",
                _size(block.get("content")),
                boolean(block.get("is_error")) is True,
            )
        elif result := members(block.get("toolResult")):
            # Converse.
            yield ToldResult(
                text(result.get("toolUseId")) or "",
                "",
                _size(result.get("content")),
                text(result.get("status")) == "error",
            )


def _in_parts(parts: Buffer | None) -> Iterator[ToldResult]:
    for part in map(members, items(parts)):
        result = members(part.get("functionResponse")) or members(part.get("function_response"))
        if result:
            yield ToldResult(
                text(result.get("id")) or "",
                text(result.get("name")) or "",
                _size(result.get("response")),
            )


def _size(value: Buffer | None) -> int:
    return 0 if value is None else memoryview(value).nbytes
