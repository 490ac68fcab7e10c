"""What the gateway must have recorded of a request to the imitation provider."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from aigateway.http.demo._question import Question, read_chat, read_messages, read_responses
from aigateway.http.demo._reply import Reply, reply_to
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
}


@frozen(kw_only=True)
class Expectation:
    """The records of one request that went well."""

    model: str
    prompt: str
    message_id: str
    usage: Usage
    tools: tuple[tuple[str, Any, str], ...]
    """Name, arguments and id of each call."""
    thoughts: tuple[str, ...]


def expect(path: str, body: bytes) -> Expectation:
    """Work out the records of a request from what the imitation answers to it."""
    question = _READERS[path](body)
    reply = reply_to(question)
    message, call = _IDS[question.api]
    return Expectation(
        model=question.model,
        prompt=question.prompt,
        message_id=message + reply.id,
        usage=_usage(question, reply),
        tools=tuple((c.name, json.loads(c.arguments), call + c.id) for c in reply.calls),
        # Chat Completions count thoughts and do not show them.
        thoughts=(reply.thought,) if reply.thought and question.api != "chat" else (),
    )


def _usage(question: Question, reply: Reply) -> Usage:
    # A stream of Anthropic's tells its output tokens twice, at the start (one token) and at the
    # end (all of them), and the records add up what is told.
    told_at_start = 1 if question.api == "messages" and question.stream else 0
    cached, written = question.cached_tokens, question.cache_written_tokens
    return Usage(
        input=question.input_tokens - cached - written,
        output=told_at_start + reply.output_tokens,
        cache_read=cached,
        cache_write=written,
    )


def differences(expected: Expectation, recorded: Recorded) -> list[str]:
    """What is wrong with the records, a sentence each."""
    tools = [(call.tool, _json(call.input), call.call_id) for call in recorded.tools]
    pairs: dict[str, tuple[object, object]] = {
        "model": (expected.model, recorded.model),
        "prompts": ([expected.prompt], list(recorded.prompts)),
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
