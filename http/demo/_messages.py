"""Answers in the shape of Anthropic's Messages API."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from aigateway.http.demo._question import ReadRequest, words
from aigateway.http.demo._reply import Script
from aigateway.http.demo._sse import groups, named_event

__all__ = ["blocking", "error", "events", "failure_event"]

Object = dict[str, Any]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error(status: int, message: str, request_id: str, _param: str | None = None) -> Object:
    """The body of an error answer."""
    return {
        "type": "error",
        "error": {"type": _KINDS.get(status, "api_error"), "message": message},
        "request_id": f"req_{request_id}",
    }


def failure_event(reply: Script) -> bytes:
    """The event of a stream that fails midway."""
    return named_event(error(529, "the imitation fails midway, as asked", reply.id))


def blocking(question: ReadRequest, reply: Script) -> Object:
    """The whole answer."""
    return {
        **_opening(question, reply),
        "content": list(_blocks(reply)),
        "stop_reason": _stop_reason(reply),
        "usage": _usage(question, reply, reply.output_tokens),
    }


def events(question: ReadRequest, reply: Script) -> Iterator[bytes]:
    """The answer as a stream."""
    opening = {
        **_opening(question, reply),
        "content": [],
        "stop_reason": None,
        # The first token is made before the stream begins.
        "usage": _usage(question, reply, 1),
    }
    yield named_event({"type": "message_start", "message": opening})
    yield named_event({"type": "ping"})
    for index, block in enumerate(_blocks(reply)):
        yield from _block_events(index, block)
    usage = _usage(question, reply, reply.output_tokens)
    del usage["cache_creation"], usage["service_tier"]
    delta = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
    yield named_event({"type": "message_delta", "delta": delta, "usage": usage})
    yield named_event({"type": "message_stop"})


def _opening(question: ReadRequest, reply: Script) -> Object:
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": question.model,
        "content": None,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": None,
    }


def _usage(question: ReadRequest, reply: Script, output_tokens: int) -> Object:
    searches: Object = {"server_tool_use": {"web_search_requests": 1}} if reply.search else {}
    cached, written = question.cached_tokens, question.cache_written_tokens
    return {
        "input_tokens": question.input_tokens - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        **searches,
        "service_tier": "standard",
    }


def _stop_reason(reply: Script) -> str:
    if reply.truncated:
        return "max_tokens"
    return "tool_use" if reply.calls else "end_turn"


def _blocks(reply: Script) -> Iterator[Object]:
    if reply.thought:
        # Opaque to clients, who must send it back unchanged.
        seal = hashlib.sha512(reply.thought.encode()).digest()
        signature = base64.b64encode(seal).decode()
        yield {"type": "thinking", "thinking": reply.thought, "signature": signature}
    if reply.search:
        yield from _search(reply)
    if reply.text:
        yield {"type": "text", "text": reply.text}
    for call in reply.calls:
        value = json.loads(call.arguments)
        yield {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": value}


def _search(reply: Script) -> Iterator[Object]:
    call = f"srvtoolu_{reply.id}"
    asked = {"query": reply.search}
    yield {"type": "server_tool_use", "id": call, "name": "web_search", "input": asked}
    yield {"type": "web_search_tool_result", "tool_use_id": call, "content": []}


def _block_events(index: int, block: Object) -> Iterator[bytes]:
    empty: dict[str, Object] = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
    if "input" in block:
        empty[block["type"]] = {"input": {}}
    start = {**block, **empty.get(block["type"], {})}
    yield named_event({"type": "content_block_start", "index": index, "content_block": start})
    for delta in _deltas(block):
        yield named_event({"type": "content_block_delta", "index": index, "delta": delta})
    yield named_event({"type": "content_block_stop", "index": index})


def _deltas(block: Object) -> Iterator[Object]:
    if block["type"] == "text":
        for text in groups(words(block["text"]), 3):
            yield {"type": "text_delta", "text": text}
    elif block["type"] == "thinking":
        for text in groups(words(block["thinking"]), 3):
            yield {"type": "thinking_delta", "thinking": text}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif "input" in block:
        yield {"type": "input_json_delta", "partial_json": ""}
        for text in groups(json.dumps(block["input"], ensure_ascii=False), 9):
            yield {"type": "input_json_delta", "partial_json": text}
