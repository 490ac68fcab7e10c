"""Answers in the shape of OpenAI's Chat Completions API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

from aigateway.http.demo._question import ReadRequest, words
from aigateway.http.demo._reply import CREATED, AskedCall, Script
from aigateway.http.demo._sse import DONE, data_event, groups

__all__ = ["blocking", "error", "events", "failure_event"]

Object = dict[str, Any]

_KINDS = {429: "rate_limit_error", 401: "authentication_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}


def error(status: int, message: str, _request_id: str, param: str | None = None) -> Object:
    """The body of an error answer, of the Responses API too."""
    usual = "server_error" if status >= 500 else "invalid_request_error"
    kind = _KINDS.get(status, usual)
    code = _CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure_event(reply: Script) -> bytes:
    """The event of a stream that fails midway."""
    return data_event(error(500, "the imitation fails midway, as asked", reply.id))


def blocking(question: ReadRequest, replies: Sequence[Script]) -> Object:
    """The whole answer, with a choice per reply."""
    return {
        "id": f"chatcmpl-{replies[0].id}",
        "object": "chat.completion",
        "created": CREATED,
        "model": question.model,
        "choices": [_choice(index, reply) for index, reply in enumerate(replies)],
        "usage": _usage(question, replies),
        "service_tier": "default",
        "system_fingerprint": "fp_imitation",
    }


def events(question: ReadRequest, replies: Sequence[Script]) -> Iterator[bytes]:
    """The answer as a stream, with the choices interleaved."""
    opening = {
        "id": f"chatcmpl-{replies[0].id}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": question.model,
        "service_tier": "default",
        "system_fingerprint": "fp_imitation",
    }
    # Who asks for usage gets the field on every chunk.
    no_usage: Object = {"usage": None} if question.include_usage else {}
    deltas = [_deltas(index, reply) for index, reply in enumerate(replies)]
    for choice in filter(None, chain.from_iterable(zip_longest(*deltas))):
        yield data_event({**opening, "choices": [choice], **no_usage})
    if question.include_usage:
        yield data_event({**opening, "choices": [], "usage": _usage(question, replies)})
    yield DONE


def _usage(question: ReadRequest, replies: Sequence[Script]) -> Object:
    output = sum(reply.output_tokens for reply in replies)
    return {
        "prompt_tokens": question.input_tokens,
        "completion_tokens": output,
        "total_tokens": question.input_tokens + output,
        "prompt_tokens_details": {
            "cached_tokens": question.cached_tokens,
            "cache_write_tokens": question.cache_written_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(reply.thought_tokens for reply in replies),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish_reason(reply: Script) -> str:
    if reply.truncated:
        return "length"
    return "tool_calls" if reply.calls else "stop"


def _choice(index: int, reply: Script) -> Object:
    message: Object = {
        "role": "assistant",
        "content": reply.text or None,
        "refusal": None,
        "annotations": [],
    }
    if reply.calls:
        message["tool_calls"] = [_call(call, call.arguments) for call in reply.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(reply),
    }


def _call(call: AskedCall, arguments: str) -> Object:
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{call.id}", "type": "function", "function": function}


def _deltas(index: int, reply: Script) -> Iterator[Object]:
    def choice(delta: Object, reason: str | None = None) -> Object:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    yield choice({"role": "assistant", "content": "" if reply.text else None, "refusal": None})
    for text in words(reply.text):
        yield choice({"content": text})
    for place, call in enumerate(reply.calls):
        yield choice({"tool_calls": [{"index": place, **_call(call, "")}]})
        for text in groups(call.arguments, 6):
            yield choice({"tool_calls": [{"index": place, "function": {"arguments": text}}]})
    yield choice({}, _finish_reason(reply))
