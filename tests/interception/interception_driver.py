"""Drive an interception through one exchange, in reads of any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from aigateway.actors.interception import Interception, Outcome, open_interception
from aigateway.actors.values.records import (
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
NOW = 1_700_000_000.25
APIS = ("messages", "chat-completions", "responses", "gemini")


def open_one(api: str, request: Any, **options: Any) -> Interception:
    """Open an interception; ``request`` is a document to encode, or the bytes themselves.

    What Gemini's API has in its path is taken from the document's ``model`` and ``stream``.
    """
    if api == "gemini":
        said = request if isinstance(request, dict) else {}
        options.setdefault("model", said.get("model", "gemini-imaginary"))
        options.setdefault("streaming", said.get("stream", True))
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return open_interception(api, id="int-1", body=body, **options)


def begin(
    interception: Interception,
    content_type: str | None = EVENT_STREAM,
    status: int = 200,
    encoding: str = "",
) -> Interception:
    headers = [("X-Request-Id", "1")]
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    if encoding:
        headers.append(("Content-Encoding", encoding))
    interception.begin_answer(status, headers)
    return interception


@frozen
class Exchange:
    """What came of one exchange."""

    interception: Interception
    client: bytes
    records: Sequence[UsageRecord]

    @property
    def outcome(self) -> Outcome:
        return self.interception.outcome()

    @property
    def tokens(self) -> list[TokenUsage]:
        return [each for each in self.records if isinstance(each, TokenUsage)]

    @property
    def prompts(self) -> list[PromptUsage]:
        return [each for each in self.records if isinstance(each, PromptUsage)]

    @property
    def tools(self) -> list[ToolUsage]:
        return [each for each in self.records if isinstance(each, ToolUsage)]

    @property
    def thoughts(self) -> list[ModelThought]:
        return [each for each in self.records if isinstance(each, ModelThought)]


def exchange(
    api: str,
    request: Any,
    answer: bytes | Sequence[bytes],
    *,
    content_type: str | None = EVENT_STREAM,
    status: int = 200,
    encoding: str = "",
    end: str = "framed",
) -> Exchange:
    """Run one exchange.

    ``end``: ``framed``, ``unframed``, ``cut`` (by the upstream) or ``left`` (by the client).
    """
    interception = begin(open_one(api, request), content_type, status, encoding)
    reads = [answer] if isinstance(answer, bytes) else answer
    return finish(interception, b"".join(interception.receive_data(r, NOW) for r in reads), end)


def finish(interception: Interception, client: bytes = b"", end: str = "framed") -> Exchange:
    if end == "cut":
        client += interception.receive_cut("connection reset by peer", NOW)
    elif end == "left":
        interception.receive_lost_client(NOW)
    else:
        client += interception.receive_end(NOW, framed=end == "framed")
    assert interception.faults == 0  # type: ignore[attr-defined]
    return Exchange(interception, client, interception.take_records())


def event(name: str, /, **data: Any) -> bytes:
    """An event as Anthropic and the Responses API write them."""
    payload = json.dumps({"type": name, **data}, separators=(",", ":"))
    return f"event: {name}\ndata: {payload}\n\n".encode()


def chunk(**data: Any) -> bytes:
    """A chunk as Chat Completions writes them."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
