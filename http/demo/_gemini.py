"""Answers in the shape of Google's Gemini API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aigateway.http.demo._question import ReadRequest, words
from aigateway.http.demo._reply import AskedCall, Script
from aigateway.http.demo._sse import compact, groups

__all__ = ["blocking", "cached", "error", "events", "failure_event", "model"]

Object = dict[str, Any]

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error(status: int, message: str) -> Object:
    """The body of an error answer."""
    usual = "INVALID_ARGUMENT" if status < 500 else "INTERNAL"
    found: Object = {
        "code": status,
        "message": message,
        "status": _STATUSES.get(status, usual),
    }
    if status == 429:
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
        found["details"] = [info]
    return {"error": found}


def model(name: str) -> Object:
    """A model as it is listed."""
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name.replace("-", " ").title(),
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


def cached(name: str, asked: Mapping[str, Any]) -> Object:
    """Something that was put into the cache."""
    return {
        "name": f"cachedContents/{name}",
        "model": asked.get("model", ""),
        "createTime": "2026-01-01T00:00:00Z",
        "updateTime": "2026-01-01T00:00:00Z",
        "expireTime": "2026-01-01T01:00:00Z",
    }


def blocking(question: ReadRequest, reply: Script) -> Object:
    """The whole answer."""
    thought = [_thought(reply.thought)] if reply.thought else []
    text = [{"text": reply.text}] if reply.text else []
    return _chunk(question, reply, [*thought, *text, *map(_call, reply.calls)], last=True)


def events(question: ReadRequest, reply: Script, *, array: bool) -> Iterator[bytes]:
    """The answer as a stream: of events, or in one array."""
    chunks = list(_chunks(question, reply))
    for place, chunk in enumerate(chunks):
        if not array:
            yield b"data: " + compact(chunk) + b"\r\n\r\n"
            continue
        # Readable, as Google writes whatever is not an event.
        written = json.dumps(chunk, indent=2, ensure_ascii=False).encode()
        end = b"\n]\n" if place == len(chunks) - 1 else b""
        yield (b",\r\n" if place else b"[") + written + end


def failure_event(*, array: bool) -> bytes:
    """The end of a stream that fails midway."""
    failure = compact(error(500, "the imitation fails midway, as asked"))
    return b",\r\n" + failure + b"]\n" if array else b"data: " + failure + b"\r\n\r\n"


def _chunks(question: ReadRequest, reply: Script) -> Iterator[Object]:
    for text in groups(words(reply.thought), 8):
        yield _chunk(question, reply, [_thought(text)])
    for text in groups(words(reply.text), 3):
        yield _chunk(question, reply, [{"text": text}])
    for call in reply.calls:
        yield _chunk(question, reply, [_call(call)])
    yield _chunk(question, reply, [{"text": ""}], last=True)


def _chunk(
    question: ReadRequest, reply: Script, parts: list[Object], *, last: bool = False
) -> Object:
    candidate: Object = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "MAX_TOKENS" if reply.truncated else "STOP"
        if reply.search:
            candidate["groundingMetadata"] = {"webSearchQueries": [reply.search]}
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(question, reply, last=last),
        "modelVersion": question.model,
        "responseId": reply.id,
    }


def _usage(question: ReadRequest, reply: Script, *, last: bool) -> Object:
    usage = {"promptTokenCount": question.input_tokens}
    if question.cached_tokens:
        usage["cachedContentTokenCount"] = question.cached_tokens
    answer = 0
    if last:
        answer = reply.output_tokens
        usage["candidatesTokenCount"] = answer - reply.thought_tokens
        if reply.thought_tokens:
            usage["thoughtsTokenCount"] = reply.thought_tokens
    return {**usage, "totalTokenCount": question.input_tokens + answer}


def _thought(text: str) -> Object:
    return {"text": text, "thought": True}


def _call(call: AskedCall) -> Object:
    function = {"id": f"call_{call.id}", "name": call.name, "args": json.loads(call.arguments)}
    return {"functionCall": function, "thoughtSignature": "aW1pdGF0aW9u"}
