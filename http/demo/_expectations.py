"""What the gateway must have recorded of a request to the imitation provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from aigateway.actors.interception.gemini_paths import model_path
from aigateway.http.demo._question import (
    ReadRequest,
    read_chat,
    read_gemini,
    read_messages,
    read_responses,
)
from aigateway.http.demo._reply import AskedCall, Script, reply_to
from aigateway.http.demo.records import Recorded, Usage

__all__ = ["Expectation", "differences", "expect"]

_READERS = {
    "/v1/messages": read_messages,
    "/v1/chat/completions": read_chat,
    "/v1/responses": read_responses,
}
_IDS = {
    "messages": ("msg_", "toolu_"),
    "chat": ("chatcmpl-", "call_"),
    "responses": ("resp_", "call_"),
    "gemini": ("", "call_"),
}


@frozen(kw_only=True)
class Expectation:
    """The records of one request that went well."""

    model: str
    prompt: str | None
    """None when a tool has the last word: nobody typed anything."""
    message_id: str
    usage: Usage
    tools: tuple[tuple[str, Any, str], ...]
    """Name, arguments and id of each call."""
    thoughts: tuple[str, ...]


def expect(path: str, body: bytes) -> Expectation:
    """Work out the records of a request from what the imitation answers to it."""
    named = model_path(path)
    question = (
        _READERS[path](body) if named is None else read_gemini(body, named.model, stream=True)
    )
    reply = reply_to(question)
    message, call = _IDS[question.api]
    return Expectation(
        model=question.model,
        prompt=None if question.tool_result is not None else question.prompt,
        message_id=message + reply.id,
        usage=_usage(question, reply),
        tools=(
            *_searches(question, reply),
            *((c.name, _asked(c), call + c.id) for c in reply.calls),
        ),
        # Chat Completions count thoughts and do not show them.
        thoughts=(reply.thought,) if reply.thought and question.api != "chat" else (),
    )


def _asked(call: AskedCall) -> Any:
    return call.arguments if call.custom else json.loads(call.arguments)


def _searches(question: ReadRequest, reply: Script) -> Iterator[tuple[str, Any, str]]:
    """What the provider's own tool is recorded as."""
    if not reply.search:
        return
    if question.api == "messages":
        yield "web_search", {"query": reply.search}, f"srvtoolu_{reply.id}"
    elif question.api == "gemini":
        yield "google_search", {"queries": [reply.search]}, ""
    else:
        yield "web_search_call", {"type": "search", "query": reply.search}, ""


def _usage(question: ReadRequest, reply: Script) -> Usage:
    cached, written = question.cached_tokens, question.cache_written_tokens
    return Usage(
        input=question.input_tokens - cached - written,
        output=reply.output_tokens,
        cache_read=cached,
        cache_write=written,
    )


def differences(expected: Expectation, recorded: Recorded) -> list[str]:
    """What is wrong with the records, a sentence each."""
    tools = [(call.tool, _json(call.input), call.call_id) for call in recorded.tools]
    pairs: dict[str, tuple[object, object]] = {
        "model": (expected.model, recorded.model),
        "prompts": (
            [] if expected.prompt is None else [expected.prompt],
            list(recorded.prompts),
        ),
        "tokens": (expected.usage, recorded.usage),
        "tool calls": (list(expected.tools), tools),
        "thoughts": (list(expected.thoughts), list(recorded.thoughts)),
        "message ids": ({expected.message_id}, set(recorded.message_ids)),
        "error": (None, recorded.error),
    }
    return [
        f"{name}: recorded {is_!r}, should be {should!r}"
        for name, (should, is_) in pairs.items()
        if is_ != should
    ]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
