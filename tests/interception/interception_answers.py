"""Answers of an imaginary provider, one of each kind for each API."""

from __future__ import annotations

import json
from typing import Any

from interception_driver import chunk, event

MESSAGES_REQUEST = {
    "model": "claude-imaginary-1",
    "max_tokens": 100,
    "stream": True,
    "messages": [{"role": "user", "content": "What is the weather in Ghent?"}],
}

CHAT_REQUEST = {
    "model": "gpt-imaginary",
    "stream": True,
    "messages": [{"role": "user", "content": "What is the weather in Ghent?"}],
}

RESPONSES_REQUEST = {
    "model": "gpt-imaginary",
    "stream": True,
    "input": "What is the weather in Ghent?",
}

GEMINI_REQUEST = {
    "model": "gemini-imaginary",
    "stream": True,
    "contents": [{"role": "user", "parts": [{"text": "What is the weather in Ghent?"}]}],
}

REQUESTS: dict[str, dict[str, Any]] = {
    "gemini": GEMINI_REQUEST,
    "messages": MESSAGES_REQUEST,
    "chat-completions": CHAT_REQUEST,
    "responses": RESPONSES_REQUEST,
}


def message_start(**usage: Any) -> bytes:
    usage = usage or {"input_tokens": 21, "output_tokens": 3}
    return event("message_start", message={"id": "msg_imag1", "content": [], "usage": usage})


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any], stop: bool = True) -> bytes:
    return (
        event("content_block_start", index=index, content_block=start)
        + b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
        + (event("content_block_stop", index=index) if stop else b"")
    )


def text_block(index: int, *parts: str) -> bytes:
    deltas = [{"type": "text_delta", "text": part} for part in parts]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thinking_block(index: int, *parts: str, stop: bool = True) -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": part} for part in parts]
    signature = {"type": "signature_delta", "signature": "c2ln"}
    return block(index, {"type": "thinking", "thinking": ""}, *deltas, signature, stop=stop)


def tool_block(index: int, call: str, name: str, *parts: str, stop: bool = True) -> bytes:
    deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    start = {"type": "tool_use", "id": call, "name": name, "input": {}}
    return block(index, start, *deltas, stop=stop)


def message_delta(output_tokens: int = 40, reason: str | None = "end_turn", **usage: Any) -> bytes:
    usage = {"output_tokens": output_tokens, **usage}
    return event("message_delta", delta={"stop_reason": reason}, usage=usage)


MESSAGE_STOP = event("message_stop")
PING = event("ping")

MESSAGES_STREAM = (
    message_start()
    + PING
    + thinking_block(0, "They ask ", "about Ghent.")
    + text_block(1, "I will", " look.")
    + tool_block(2, "toolu_1", "weather", "", '{"city": ', '"Ghent"}')
    + message_delta(reason="tool_use")
    + MESSAGE_STOP
)

MESSAGES_BODY = {
    "id": "msg_imag1",
    "type": "message",
    "content": [
        {"type": "thinking", "thinking": "They ask about Ghent.", "signature": "c2ln"},
        {"type": "text", "text": "I will look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ghent"}},
    ],
    "usage": {"input_tokens": 21, "output_tokens": 43},
}


def chat_chunk(
    delta: dict[str, Any] | None = None,
    finish: str | None = None,
    index: int = 0,
    **members: Any,
) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return chunk(id="chatcmpl-imag1", choices=[choice], **members)


def call_delta(index: int, call: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    part: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if call is not None:
        part["id"] = call
        part["type"] = "function"
    if name is not None:
        part["function"]["name"] = name
    return {"tool_calls": [part]}


CHAT_USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 1},
    "completion_tokens_details": {
        "reasoning_tokens": 2,
        "audio_tokens": 3,
        "accepted_prediction_tokens": 4,
        "rejected_prediction_tokens": 5,
    },
}
USAGE_CHUNK = chunk(id="chatcmpl-imag1", choices=[], usage=CHAT_USAGE)
DONE = b"data: [DONE]\n\n"

CHAT_TEXT = (
    chat_chunk({"role": "assistant", "content": ""})
    + chat_chunk({"content": "I will"}, usage=None)
    + chat_chunk({"content": " look."})
    + chat_chunk(call_delta(0, "call_1", "weather", ""))
    + chat_chunk(call_delta(0, None, None, '{"city":'))
    + chat_chunk(call_delta(0, None, None, '"Ghent"}'))
    + chat_chunk(finish="tool_calls")
)
CHAT_STREAM = CHAT_TEXT + USAGE_CHUNK + DONE

CHAT_BODY = {
    "id": "chatcmpl-imag1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Ghent"}'},
                    }
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": CHAT_USAGE,
}

RESPONSE_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 4},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 70,
}

REASONING_ITEM = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "They ask about Ghent."}],
}
CALL_ITEM = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city":"Ghent"}',
}


def response(**members: Any) -> dict[str, Any]:
    return {"id": "resp_imag1", "status": "completed", "error": None, "output": [], **members}


RESPONSE_CREATED = event("response.created", response=response(status="in_progress"))


def item_done(index: int, item: dict[str, Any]) -> bytes:
    return event("response.output_item.done", output_index=index, item=item)


RESPONSE_BODY = response(output=[REASONING_ITEM, CALL_ITEM], usage=RESPONSE_USAGE)
RESPONSES_TEXT = (
    RESPONSE_CREATED
    + event("response.in_progress", response=response(status="in_progress"))
    + event("response.reasoning_summary_text.delta", delta="They ask about Ghent.")
    + item_done(0, REASONING_ITEM)
    + event("response.function_call_arguments.delta", delta='{"city":"Ghent"}')
    + item_done(1, CALL_ITEM)
)
RESPONSES_STREAM = RESPONSES_TEXT + event(
    "response.completed", response=RESPONSE_BODY, sequence_number=9
)


GEMINI_USAGE = {
    "promptTokenCount": 40,
    "cachedContentTokenCount": 16,
    "candidatesTokenCount": 9,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 54,
}
GEMINI_CALL = {"functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Ghent"}}}
GEMINI_THOUGHT = {"text": "They ask about Ghent.", "thought": True}


def gemini_answer(
    *parts: dict[str, Any],
    finish: str | None = None,
    index: int = 0,
    usage: dict[str, Any] | None = None,
    **members: Any,
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, **members}
    if finish is not None:
        candidate["finishReason"] = finish
    candidate["index"] = index
    answer: dict[str, Any] = {"candidates": [candidate]}
    if usage is not None:
        answer["usageMetadata"] = usage
    return {**answer, "modelVersion": "gemini-imaginary", "responseId": "gem_imag1"}


GEMINI_CHUNKS = (
    gemini_answer(GEMINI_THOUGHT, usage={"promptTokenCount": 40, "totalTokenCount": 45}),
    gemini_answer({"text": "I will"}, usage={"promptTokenCount": 40, "totalTokenCount": 47}),
    gemini_answer({"text": ' "look": \\ [at] {it}.'}),
    gemini_answer(GEMINI_CALL, finish="STOP", usage=GEMINI_USAGE),
)
GEMINI_STREAM = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in GEMINI_CHUNKS)
GEMINI_ARRAY = (
    b"[" + b"\n,\n".join(json.dumps(each, indent=1).encode() for each in GEMINI_CHUNKS) + b"\n]\n"
)
"""The same as one array, as Google writes it."""
GEMINI_BODY = gemini_answer(
    GEMINI_THOUGHT, {"text": "I will look."}, GEMINI_CALL, finish="STOP", usage=GEMINI_USAGE
)

STREAMS = {
    "gemini": GEMINI_STREAM,
    "messages": MESSAGES_STREAM,
    "chat-completions": CHAT_STREAM,
    "responses": RESPONSES_STREAM,
}
BODIES = {
    "gemini": json.dumps(GEMINI_BODY).encode(),
    "messages": json.dumps(MESSAGES_BODY).encode(),
    "chat-completions": json.dumps(CHAT_BODY).encode(),
    "responses": json.dumps(RESPONSE_BODY).encode(),
}
