"""OpenAI's Responses API (``/v1/responses``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from aigateway.actors.providers.interception._recording import INCOMPLETE, NOTHING, Request
from aigateway.actors.providers.interception._states import End
from aigateway.actors.providers.interception.affinity import opening_of
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.outcomes import error_outcome
from aigateway.actors.providers.interception.reading import (
    Buffer,
    Object,
    boolean,
    count,
    is_json,
    is_null,
    items,
    json_text,
    members,
    source,
    text,
)
from aigateway.actors.providers.interception.relay import Relay
from aigateway.actors.providers.interception.routes import RESPONSES, Api
from aigateway.actors.providers.interception.sse import parse_event
from aigateway.actors.recorder.records import UsageRecord

__all__ = ["ResponsesInterception", "read_responses_request"]


_BACKGROUND = (
    501,
    b'{"code":"501","message":"background requests are currently not supported by AI Bridge"}',
)

_HOSTED_CALLS = frozenset(
    {
        "apply_patch_call",
        "code_interpreter_call",
        "computer_call",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_call",
        "shell_call",
        "web_search_call",
    }
)


def read_responses_request(id: str, readable: bytes, body: bytes, headers: Headers = ()) -> Request:
    """Read a request; ``readable`` is ``body`` without its content coding."""
    fields = members(readable)
    given = fields.get("input")
    entries = items(given)
    last = members(entries[-1]) if entries else {}
    model = fields.get("model")
    return Request(
        id=id,
        body=body,
        model=text(model) or _number(model),
        streaming=boolean(fields.get("stream"), loose=True),
        prompt=text(given) if not entries else _prompt(last),
        correlating_tool_call_id=_answered_call(last),
        refusal=_BACKGROUND if boolean(fields.get("background"), loose=True) else None,
        opening=opening_of(RESPONSES, entries, readable),
    )


def _number(value: Buffer | None) -> str:
    spelled = source(value)
    return spelled if spelled[:1] in set("-0123456789") else ""


def _prompt(entry: Object) -> str | None:
    """What the last entry of the input says, if it is the user's."""
    if text(entry.get("role")) != "user":
        return None
    content = entry.get("content")
    whole = text(content)
    if whole is not None:
        return whole
    parts = [members(item) for item in items(content)]
    said = [text(part.get("text")) for part in parts if text(part.get("type")) == "input_text"]
    texts = [each for each in said if each is not None]
    return "\n".join(texts) if texts else None


def _answered_call(entry: Object) -> str | None:
    if text(entry.get("type")) != "function_call_output":
        return None
    return text(entry.get("call_id")) or None


class ResponsesInterception(Relay):
    """One request to the Responses API and its answer."""

    api: ClassVar[Api] = RESPONSES

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._msg_id = ""
        # What finished items say, in case no final response repeats them.
        self._done: list[UsageRecord] = []

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        # PERF: most events are deltas; what they add up to comes again in a later event.
        if piece.startswith(b"event: ") and piece.endswith(b".delta", 0, piece.find(b"\n")):
            return
        name, data = parse_event(piece)
        handler = _HANDLERS.get(name)
        if handler is None and name and self._msg_id:
            return
        event = members(data)
        if data and not event and self._read_odd_event(piece, data, now):
            return
        kind = name or (text(event.get("type")) or "").encode()
        if not self._msg_id and "response" in event:
            self._begin(members(event["response"]), now)
        if not is_null(event.get("error")):
            kind = b"error"
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event, now)

    def _on_item(self, event: Object, now: float) -> None:
        before = len(self._records)
        self._read_item(members(event.get("item")), now)
        self._done += self._records[before:]
        del self._records[before:]

    def _on_final(self, event: Object, now: float) -> None:
        self._complete = True
        self._read_response(members(event.get("response")), now)

    def _on_error(self, event: Object, now: float) -> None:
        # Documented with its fields in the event itself, seen with them in `error`.
        nested = event.get("error")
        outcome = error_outcome(event if is_null(nested) else nested)
        self._fail(outcome.error_type or "unknown", outcome.error_message or "")

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = members(data)
        if is_null(answer.get("error")) or "output" in answer:
            self._begin(answer, now)
            self._read_response(answer, now)
        else:
            self._on_error(answer, now)

    # -- both

    def _begin(self, response: Object, now: float) -> None:
        self._msg_id = text(response.get("id")) or ""
        if self._msg_id:
            self._record_prompt(self._msg_id, now)

    def _read_response(self, response: Object, now: float) -> None:
        failed = text(response.get("status")) == "failed"
        if failed:
            self._on_error(response, now)
        usage = members(response.get("usage"))
        if usage or not failed:
            self._record_usage(usage, now, NOTHING)
        output = items(response.get("output"))
        for item in output:
            self._read_item(members(item), now)
        if not output:
            # Some send no output again in the final response.
            self._records += self._done
        self._done.clear()

    def _read_item(self, item: Object, now: float) -> None:
        kind = text(item.get("type")) or ""
        if kind == "reasoning":
            for part in items(item.get("summary")):
                content = text(members(part).get("text"))
                self._record_thought(content, "reasoning_summary", now)
        elif kind == "message":
            self._read_message(item, now)
        elif kind == "function_call":
            self._record_call(item, _arguments(text(item.get("arguments"))), now)
        elif kind == "custom_tool_call":
            self._record_call(item, json_text(text(item.get("input")) or ""), now)
        elif kind in _HOSTED_CALLS:
            self._record_tool(
                self._msg_id,
                now,
                tool=text(item.get("name")) or kind,
                tool_call_id=text(item.get("call_id")) or "",
                item_id=text(item.get("id")) or "",
                input="null",
            )

    def _read_message(self, message: Object, now: float) -> None:
        if text(message.get("role")) != "assistant" or text(message.get("phase")) != "commentary":
            return
        for item in items(message.get("content")):
            part = members(item)
            if text(part.get("type")) == "output_text":
                self._record_thought(text(part.get("text")), "commentary", now)

    def _record_call(self, item: Object, arguments: str, now: float) -> None:
        self._record_tool(
            self._msg_id,
            now,
            tool=text(item.get("name")) or "",
            tool_call_id=text(item.get("call_id")) or "",
            input=arguments,
        )

    def _record_usage(self, usage: Object, now: float, metadata: Mapping[str, object]) -> None:
        given = members(usage.get("input_tokens_details"))
        made = members(usage.get("output_tokens_details"))
        cached = count(given.get("cached_tokens"))
        written = count(given.get("cache_write_tokens"))
        self._record_tokens(
            self._msg_id,
            now,
            input_tokens=max(count(usage.get("input_tokens")) - cached - written, 0),
            output_tokens=count(usage.get("output_tokens")),
            cache_read_input_tokens=cached,
            cache_write_input_tokens=written,
            extra_token_types={
                "output_reasoning": count(made.get("reasoning_tokens")),
                "total_tokens": count(usage.get("total_tokens")),
            },
            metadata=metadata,
        )

    def _finish(self, end: End, now: float) -> None:
        self._records += self._done
        self._done.clear()
        if end is End.CUT and self._answered:
            self._record_usage({}, now, INCOMPLETE)

    def _error_event(self, error_type: str, message: str) -> bytes:
        code = _EVENT_CODES.get(error_type, "server_error")
        _name, data = parse_event(self._last_piece)
        event = {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": count(members(data).get("sequence_number")) + 1,
            # SDKs raise an error for this member, not for the event's type.
            "error": {"type": code, "code": code, "message": message, "param": None},
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _arguments(arguments: str | None) -> str:
    """Give a function call's arguments as JSON, or as a string when they are none."""
    stripped = (arguments or "").strip()
    return stripped if is_json(stripped.encode()) else json_text(stripped)


_EVENT_CODES = {
    "overloaded": "service_unavailable",
    "rate_limited": "rate_limit_exceeded",
    "timeout": "timeout",
}

_HANDLERS: Mapping[bytes, Callable[[ResponsesInterception, Object, float], None]] = {
    b"response.output_item.done": ResponsesInterception._on_item,
    b"response.completed": ResponsesInterception._on_final,
    b"response.incomplete": ResponsesInterception._on_final,
    b"response.failed": ResponsesInterception._on_final,
    b"error": ResponsesInterception._on_error,
}
