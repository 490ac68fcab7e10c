"""What a provider says in the rounds of a request, in the shapes of each API."""

from __future__ import annotations

import json
from typing import Any

__all__ = [
    "Call",
    "completion",
    "completion_chunks",
    "message",
    "message_stream",
    "response",
    "response_events",
]

Call = tuple[str, str, dict[str, Any]]
"""Id, tool and arguments of a call."""


def _event(name: str, /, **data: Any) -> bytes:
    payload = json.dumps({"type": name, **data}, separators=(",", ":"))
    return f"event: {name}\ndata: {payload}\n\n".encode()


def message_stream(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> list[bytes]:
    """Anthropic: a streamed message of a text and calls; 10 tokens in, 5 out (1 at the start)."""
    calls = calls or []
    reason = stop or ("tool_use" if calls else "end_turn")
    start = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }
    events = [_event("message_start", message=start)]
    index = 0
    if text:
        block: dict[str, Any] = {"type": "text", "text": ""}
        events.append(_event("content_block_start", index=index, content_block=block))
        for part in (text[:3], text[3:]):
            delta = {"type": "text_delta", "text": part}
            events.append(_event("content_block_delta", index=index, delta=delta))
        events.append(_event("content_block_stop", index=index))
        index += 1
    for id, name, arguments in calls:
        block = {"type": "tool_use", "id": id, "name": name, "input": {}}
        events.append(_event("content_block_start", index=index, content_block=block))
        written = json.dumps(arguments)
        for part in (written[:4], written[4:]):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append(_event("content_block_delta", index=index, delta=delta))
        events.append(_event("content_block_stop", index=index))
        index += 1
    delta = {"stop_reason": reason, "stop_sequence": None}
    events.append(_event("message_delta", delta=delta, usage={"output_tokens": 4}))
    events.append(_event("message_stop"))
    return events


def message(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> dict[str, Any]:
    """Anthropic: the same as a blocking answer."""
    calls = calls or []
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "tool_use", "id": id, "name": name, "input": arguments}
        for id, name, arguments in calls
    ]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": content,
        "stop_reason": stop or ("tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def completion_chunks(
    text: str = "",
    calls: list[Call] | None = None,
    *,
    number: int = 1,
    stop: str | None = None,
    usage: bool = True,
) -> list[bytes]:
    """OpenAI: a streamed completion; 10 tokens in, 5 out."""
    calls = calls or []

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        document = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": 1000 + number,
            "model": "gpt-x",
            "choices": choices,
            **more,
        }
        return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"

    def delta(reason: str | None = None, **fields: Any) -> bytes:
        return chunk([{"index": 0, "delta": fields, "finish_reason": reason}])

    chunks = [delta(role="assistant", content="")]
    chunks += [delta(content=part) for part in (text[:3], text[3:]) if part]
    for index, (id, name, arguments) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        first = {"index": index, "id": id, "type": "function", "function": function}
        chunks.append(delta(tool_calls=[first]))
        written = json.dumps(arguments)
        for part in (written[:4], written[4:]):
            rest = {"index": index, "function": {"arguments": part}}
            chunks.append(delta(tool_calls=[rest]))
    chunks.append(delta(stop or ("tool_calls" if calls else "stop")))
    if usage:
        counts = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        chunks.append(chunk([], usage=counts))
    return [*chunks, b"data: [DONE]\n\n"]


def completion(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> dict[str, Any]:
    """OpenAI: the same as a blocking answer."""
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        said["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
            for id, n, a in calls
        ]
    reason = stop or ("tool_calls" if calls else "stop")
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1000 + number,
        "model": "gpt-x",
        "choices": [{"index": 0, "message": said, "finish_reason": reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def _items(text: str, calls: list[Call], number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if text:
        part = {"type": "output_text", "text": text, "annotations": []}
        found.append(
            {
                "id": f"item_{number}_0",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        )
    for id, name, arguments in calls:
        found.append(
            {
                "id": f"item_{number}_{len(found)}",
                "type": "function_call",
                "status": "completed",
                "call_id": id,
                "name": name,
                "arguments": json.dumps(arguments),
            }
        )
    return found


def response(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> dict[str, Any]:
    """OpenAI's Responses API: a blocking answer; 10 tokens in, 5 out."""
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1000 + number,
        "model": "gpt-x",
        "status": "incomplete" if stop else "completed",
        "incomplete_details": {"reason": stop} if stop else None,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "output": _items(text, calls or [], number),
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        },
    }


def response_events(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> list[bytes]:
    """OpenAI's Responses API: the same as a stream."""
    whole = response(text, calls, number=number, stop=stop)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    found: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
        added = {**item, **empty, "status": "in_progress"}
        found.append(("response.output_item.added", {"output_index": index, "item": added}))
        if item["type"] == "message":
            part = item["content"][0]
            place["content_index"] = 0
            start = {"part": {**part, "text": ""}}
            found.append(("response.content_part.added", {**place, **start}))
            for piece in (text[:3], text[3:]):
                delta = {"delta": piece, "logprobs": []}
                found.append(("response.output_text.delta", {**place, **delta}))
            done = {"text": text, "logprobs": []}
            found.append(("response.output_text.done", {**place, **done}))
            found.append(("response.content_part.done", {**place, "part": part}))
        else:
            written = item["arguments"]
            for piece in (written[:4], written[4:]):
                found.append(("response.function_call_arguments.delta", {**place, "delta": piece}))
            done = {"arguments": written, "name": item["name"]}
            found.append(("response.function_call_arguments.done", {**place, **done}))
        found.append(("response.output_item.done", {"output_index": index, "item": item}))
    found.append((f"response.{whole['status']}", {"response": whole}))
    return [
        _event(name, sequence_number=number, **data) for number, (name, data) in enumerate(found)
    ]
