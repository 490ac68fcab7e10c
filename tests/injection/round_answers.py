"""What a provider says in the rounds of a request, in the shapes of each API."""

from __future__ import annotations

import itertools
import json
from typing import Any

__all__ = [
    "Call",
    "completion",
    "completion_chunks",
    "completion_parts",
    "message",
    "message_parts",
    "message_stream",
    "response",
    "response_events",
    "response_parts",
]

Call = tuple[str, str, dict[str, Any]]
"""Id, tool and arguments of a call."""


def _parts(text: str, calls: list[Call] | None) -> list[str | Call]:
    return [*([text] if text else []), *(calls or [])]


def _event(name: str, /, **data: Any) -> bytes:
    payload = json.dumps({"type": name, **data}, separators=(",", ":"))
    return f"event: {name}\ndata: {payload}\n\n".encode()


def message_stream(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> list[bytes]:
    """Anthropic: a streamed message of a text and calls; 10 tokens in, 5 out."""
    return list(
        itertools.chain.from_iterable(message_parts(_parts(text, calls), number=number, stop=stop))
    )


def message_parts(
    parts: list[str | Call], *, number: int = 1, stop: str | None = None
) -> list[list[bytes]]:
    """The events of a streamed message: its opening, those of each part, its end."""
    called = any(not isinstance(part, str) for part in parts)
    reason = stop or ("tool_use" if called else "end_turn")
    start = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 0},
    }
    found = [[_event("message_start", message=start)]]
    for index, part in enumerate(parts):
        if isinstance(part, str):
            block: dict[str, Any] = {"type": "text", "text": ""}
            kind, member, written = "text_delta", "text", part
        else:
            block = {"type": "tool_use", "id": part[0], "name": part[1], "input": {}}
            kind, member, written = "input_json_delta", "partial_json", json.dumps(part[2])
        found.append([_event("content_block_start", index=index, content_block=block)])
        for some in (written[:3], written[3:]):
            delta = {"type": kind, member: some}
            found[-1].append(_event("content_block_delta", index=index, delta=delta))
        found[-1].append(_event("content_block_stop", index=index))
    delta = {"stop_reason": reason, "stop_sequence": None}
    end = _event("message_delta", delta=delta, usage={"output_tokens": 5})
    return [*found, [end, _event("message_stop")]]


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
    return list(
        itertools.chain.from_iterable(
            completion_parts(_parts(text, calls), number=number, stop=stop, usage=usage)
        )
    )


def completion_parts(
    parts: list[str | Call], *, number: int = 1, stop: str | None = None, usage: bool = True
) -> list[list[bytes]]:
    """The chunks of a streamed completion: its opening, those of each part, its end."""

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

    found = [[delta(role="assistant", content="")]]
    calls = 0
    for part in parts:
        if isinstance(part, str):
            found.append([delta(content=some) for some in (part[:3], part[3:]) if some])
            continue
        id, name, arguments = part
        function = {"name": name, "arguments": ""}
        first = {"index": calls, "id": id, "type": "function", "function": function}
        found.append([delta(tool_calls=[first])])
        written = json.dumps(arguments)
        for some in (written[:4], written[4:]):
            rest = {"index": calls, "function": {"arguments": some}}
            found[-1].append(delta(tool_calls=[rest]))
        calls += 1
    end = [delta(stop or ("tool_calls" if calls else "stop"))]
    if usage:
        counts = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        end.append(chunk([], usage=counts))
    return [*found, [*end, b"data: [DONE]\n\n"]]


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


def _items(parts: list[str | Call], number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for place, part in enumerate(parts):
        item: dict[str, Any] = {"id": f"item_{number}_{place}", "status": "completed"}
        if isinstance(part, str):
            content = [{"type": "output_text", "text": part, "annotations": []}]
            item |= {"type": "message", "role": "assistant", "content": content}
        else:
            id, name, arguments = part
            item |= {"type": "function_call", "call_id": id, "name": name}
            item["arguments"] = json.dumps(arguments)
        found.append(item)
    return found


def response(
    text: str = "", calls: list[Call] | None = None, *, number: int = 1, stop: str | None = None
) -> dict[str, Any]:
    """OpenAI's Responses API: a blocking answer; 10 tokens in, 5 out."""
    return _response(_parts(text, calls), number, stop)


def _response(parts: list[str | Call], number: int, stop: str | None) -> dict[str, Any]:
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
        "output": _items(parts, number),
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
    return list(
        itertools.chain.from_iterable(response_parts(_parts(text, calls), number=number, stop=stop))
    )


def response_parts(
    parts: list[str | Call], *, number: int = 1, stop: str | None = None
) -> list[list[bytes]]:
    """The events of a streamed response: its opening, those of each part, its end."""
    whole = _response(parts, number, stop)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    sequence = itertools.count()

    def event(name: str, /, **data: Any) -> bytes:
        return _event(name, sequence_number=next(sequence), **data)

    found = [
        [
            event("response.created", response=begun),
            event("response.in_progress", response=begun),
        ]
    ]
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
        added = {**item, **empty, "status": "in_progress"}
        events = [event("response.output_item.added", output_index=index, item=added)]
        if item["type"] == "message":
            (part,) = item["content"]
            text, place = part["text"], {**place, "content_index": 0}
            events.append(event("response.content_part.added", **place, part={**part, "text": ""}))
            for some in (text[:3], text[3:]):
                events.append(event("response.output_text.delta", **place, delta=some, logprobs=[]))
            events.append(event("response.output_text.done", **place, text=text, logprobs=[]))
            events.append(event("response.content_part.done", **place, part=part))
        else:
            written = item["arguments"]
            for some in (written[:4], written[4:]):
                events.append(event("response.function_call_arguments.delta", **place, delta=some))
            done = {"arguments": written, "name": item["name"]}
            events.append(event("response.function_call_arguments.done", **place, **done))
        events.append(event("response.output_item.done", output_index=index, item=item))
        found.append(events)
    return [*found, [event(f"response.{whole['status']}", response=whole)]]
