"""How the imitation provider writes JSON and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["DONE", "compact", "data_event", "groups", "named_event"]

DONE = b"data: [DONE]\n\n"


def compact(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def data_event(value: object) -> bytes:
    """An event without a name, as Chat Completions has them."""
    return b"data: " + compact(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """An event named after its ``type``."""
    return f"event: {value['type']}\n".encode() + data_event(value)


def groups(parts: Sequence[str], size: int) -> Iterator[str]:
    """The parts joined by ``size``."""
    for at in range(0, len(parts), size):
        yield "".join(parts[at : at + size])
