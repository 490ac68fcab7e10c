"""Requests of which one thing becomes more and nothing else: the load of the growth scenario."""

from __future__ import annotations

import json
from typing import Any

from bench.payloads import MODELS, VOCABULARY

__all__ = ["grown_body"]

_MODEL = MODELS["messages"]
_TEXT = " ".join(VOCABULARY[n * 7 % len(VOCABULARY)] for n in range(12_000))
_EACH = len(json.dumps(_TEXT, ensure_ascii=False).encode()) / len(_TEXT)
"""Bytes of a character of it as JSON."""
_ROLES = ("user", "assistant")


def grown_body(*, size: int, messages: int = 1, tools: int = 0, stream: bool = False) -> bytes:
    """A request of the Messages API of about ``size`` bytes, without its tools, in this many
    messages; the last one is the user's.  Each tool takes 500 bytes."""
    each = max(round(size / messages) - 40, 1)
    value: dict[str, Any] = {"model": _MODEL, "max_tokens": 4096}
    if stream:
        value["stream"] = True
    if tools:
        value["tools"] = [_tool(number) for number in range(tools)]
    value["messages"] = [
        {"role": _ROLES[(messages - number) % 2], "content": _text(each)}
        for number in range(1, messages + 1)
    ]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _text(size: int) -> str:
    length = max(round(size / _EACH), 1)
    return (_TEXT * (length // len(_TEXT) + 1))[:length]


def _tool(number: int) -> dict[str, Any]:
    properties = {
        "path": {"type": "string", "description": _text(100)},
        "limit": {"type": "number", "minimum": 0},
    }
    return {
        "name": f"Tool{number}",
        "description": _text(220),
        "input_schema": {"type": "object", "properties": properties, "required": ["path"]},
    }
