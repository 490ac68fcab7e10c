"""What was asked and answered, as messages of OpenTelemetry's conventions for generative AI.

They are made of the records, so they hold what the content level lets be recorded: prompts, calls
of tools and thoughts; with ``full`` the answer's texts too.  The conversation before the prompt is
not among them: a session would send it again with each turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from aigateway.actors.values.records import (
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    ToolUsage,
    UsageRecord,
)
from aigateway.http.tracing import conventions as names

__all__ = ["CONTENT_LIMIT", "messages_of"]

CONTENT_LIMIT: Final = 65_536
"""Characters of all texts of an event together; collectors take messages of some MB."""

_REASONS: Final = {
    "max_tokens": "length",
    "length": "length",
    "max_output_tokens": "length",
    "MAX_TOKENS": "length",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "SAFETY": "content_filter",
}
"""The conventions' words for reasons to stop; others stand for themselves."""

Message = dict[str, Any]


def messages_of(records: Iterable[UsageRecord], end: InterceptionEnded) -> dict[str, list[Message]]:
    """The messages of a request and its answer, by the attributes that hold them.

    ``records`` are those that are kept of it.
    """
    room = _Room()
    asked: list[Message] = []
    answered: dict[int, list[Message]] = {}
    calls = False
    for record in records:
        match record:
            case PromptUsage():
                asked.append(_message("user", [_text(room.take(record.prompt))]))
            case ModelThought():
                part = {"type": "reasoning", "content": room.take(record.content)}
                answered.setdefault(0, []).append(part)
            case ModelAnswer():
                choice = record.metadata.get("choice")
                parts = answered.setdefault(choice if isinstance(choice, int) else 0, [])
                parts.append(_text(room.take(record.content)))
            case ToolUsage() if record.metadata.get("content") != "none":
                calls = True
                answered.setdefault(0, []).append(_call(record, room))
    reason = _reason(end, calls)
    messages = {
        names.INPUT_MESSAGES: asked,
        names.OUTPUT_MESSAGES: [
            {**_message("assistant", parts), "finish_reason": reason}
            for _choice, parts in sorted(answered.items())
        ],
    }
    return {name: told for name, told in messages.items() if told}


def _reason(end: InterceptionEnded, calls: bool) -> str:
    if end.error_type is not None:
        return "error"
    stopped = end.metadata.get("stop_reason")
    if isinstance(stopped, str):
        return _REASONS.get(stopped, stopped)
    return "tool_call" if calls else "stop"


def _message(role: str, parts: list[Message]) -> Message:
    return {"role": role, "parts": parts}


def _text(content: str) -> Message:
    return {"type": "text", "content": content}


def _call(record: ToolUsage, room: _Room) -> Message:
    given = room.take(record.input)
    try:
        arguments = msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError):
        # Cut, or never whole.
        arguments = given
    part: Message = {"type": "tool_call", "name": record.tool, "arguments": arguments}
    return {**part, "id": record.tool_call_id} if record.tool_call_id else part


class _Room:
    """What is left for texts."""

    def __init__(self) -> None:
        self._left = CONTENT_LIMIT

    def take(self, text: str) -> str:
        kept = text[: self._left]
        self._left -= len(kept)
        return kept
