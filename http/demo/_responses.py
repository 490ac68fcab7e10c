"""Answers in the shape of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from aigateway.http.demo._question import ReadRequest, words
from aigateway.http.demo._reply import CREATED, AskedCall, Script
from aigateway.http.demo._sse import groups, named_event

__all__ = ["blocking", "events", "failure_event"]

Object = dict[str, Any]


def failure_event(reply: Script, sequence_number: int) -> bytes:
    """The event of a stream that fails midway."""
    return named_event(
        {
            "type": "error",
            "code": "server_error",
            "message": f"the imitation fails midway in resp_{reply.id}, as asked",
            "param": None,
            "sequence_number": sequence_number,
        }
    )


def blocking(question: ReadRequest, reply: Script) -> Object:
    """The whole answer."""
    status = "incomplete" if reply.truncated else "completed"
    return {
        **_response(question, reply, status),
        "incomplete_details": {"reason": "max_output_tokens"} if reply.truncated else None,
        "output": list(_items(reply)),
        "usage": {
            "input_tokens": question.input_tokens,
            "input_tokens_details": {
                "cached_tokens": question.cached_tokens,
                "cache_write_tokens": question.cache_written_tokens,
            },
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": reply.thought_tokens},
            "total_tokens": question.input_tokens + reply.output_tokens,
        },
    }


def events(question: ReadRequest, reply: Script) -> Iterator[bytes]:
    """The answer as a stream."""
    numbers = count()
    for event in _events(question, reply):
        yield named_event({**event, "sequence_number": next(numbers)})


def _events(question: ReadRequest, reply: Script) -> Iterator[Object]:
    begun = _response(question, reply, "in_progress")
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for place, item in enumerate(_items(reply)):
        yield from _item_events(place, item)
    ended = blocking(question, reply)
    yield {"type": f"response.{ended['status']}", "response": ended}


def _response(question: ReadRequest, reply: Script, status: str) -> Object:
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": question.limit,
        "metadata": {},
        "model": question.model,
        "output": [],
        "parallel_tool_calls": question.parallel_tools,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": "auto" if question.thinks else None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _items(reply: Script) -> Iterator[Object]:
    if reply.thought:
        summary = [{"type": "summary_text", "text": reply.thought}]
        yield {"id": f"rs_{reply.id}", "type": "reasoning", "summary": summary}
    if reply.search:
        yield {
            "id": f"ws_{reply.id}",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": reply.search},
        }
    if reply.text or not reply.calls:
        yield {
            "id": f"msg_{reply.id}",
            "type": "message",
            "role": "assistant",
            "status": "incomplete" if reply.truncated else "completed",
            "content": [_text_part(reply.text)],
        }
    yield from map(_call_item, reply.calls)


def _call_item(call: AskedCall) -> Object:
    return {
        "id": f"{'ctc' if call.custom else 'fc'}_{call.id}",
        "type": "custom_tool_call" if call.custom else "function_call",
        "status": "completed",
        "call_id": f"call_{call.id}",
        "name": call.name,
        "input" if call.custom else "arguments": call.arguments,
    }


def _text_part(text: str) -> Object:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item_events(place: int, item: Object) -> Iterator[Object]:
    fields = {"item_id": item["id"], "output_index": place}
    if item["type"] == "reasoning":
        begun: Object = {"summary": []}
        middle = _summary_events(item["summary"][0], {**fields, "summary_index": 0})
    elif item["type"] == "message":
        begun = {"status": "in_progress", "content": []}
        middle = _text_events(item["content"][0], {**fields, "content_index": 0})
    elif item["type"] == "web_search_call":
        begun = {"status": "in_progress"}
        middle = _search_events(fields)
    else:
        begun = {"status": "in_progress", _argument_field(item): ""}
        middle = _call_events(item, fields)
    started = {**item, **begun}
    yield {"type": "response.output_item.added", "output_index": place, "item": started}
    yield from middle
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _summary_events(part: Object, fields: Object) -> Iterator[Object]:
    prefix = "response.reasoning_summary"
    empty = {**part, "text": ""}
    yield {"type": f"{prefix}_part.added", **fields, "part": empty}
    for text in words(part["text"]):
        yield {"type": f"{prefix}_text.delta", **fields, "delta": text}
    yield {"type": f"{prefix}_text.done", **fields, "text": part["text"]}
    yield {"type": f"{prefix}_part.done", **fields, "part": part}


def _search_events(fields: Object) -> Iterator[Object]:
    for state in ("in_progress", "searching", "completed"):
        yield {"type": f"response.web_search_call.{state}", **fields}


def _text_events(part: Object, fields: Object) -> Iterator[Object]:
    yield {"type": "response.content_part.added", **fields, "part": _text_part("")}
    for text in words(part["text"]):
        yield {"type": "response.output_text.delta", **fields, "delta": text, "logprobs": []}
    done = {"text": part["text"], "logprobs": []}
    yield {"type": "response.output_text.done", **fields, **done}
    yield {"type": "response.content_part.done", **fields, "part": part}


def _argument_field(item: Object) -> str:
    return "input" if item["type"] == "custom_tool_call" else "arguments"


def _call_events(item: Object, fields: Object) -> Iterator[Object]:
    field = _argument_field(item)
    prefix = (
        "response.custom_tool_call_input"
        if field == "input"
        else ("response.function_call_arguments")
    )
    for text in groups(item[field], 6):
        yield {"type": f"{prefix}.delta", **fields, "delta": text}
    name = {} if field == "input" else {"name": item["name"]}
    yield {"type": f"{prefix}.done", **fields, **name, field: item[field]}
