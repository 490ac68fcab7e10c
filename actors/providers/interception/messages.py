"""Anthropic's Messages API (``/v1/messages``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec
from attrs import define, field

from aigateway.actors.providers.interception._recording import (
    INCOMPLETE,
    NOTHING,
    TRUNCATED,
    Request,
)
from aigateway.actors.providers.interception._states import End, Mode
from aigateway.actors.providers.interception._text import Text
from aigateway.actors.providers.interception.affinity import opening_of
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.outcomes import error_outcome
from aigateway.actors.providers.interception.prompts import Said, kind_of, last_said
from aigateway.actors.providers.interception.reading import (
    Buffer,
    Object,
    boolean,
    count,
    is_json,
    items,
    json_text,
    members,
    source,
    text,
)
from aigateway.actors.providers.interception.relay import Relay
from aigateway.actors.providers.interception.routes import MESSAGES, Api
from aigateway.actors.providers.interception.sse import parse_event

__all__ = ["MessagesInterception", "read_messages_request"]


def read_messages_request(id: str, readable: bytes, body: bytes, headers: Headers = ()) -> Request:
    """Read a request; ``readable`` is ``body`` without its content coding."""
    fields = members(readable)
    messages = items(fields.get("messages"))
    last, texts = last_said(messages, _said)
    prompt = texts[-1] if texts else None
    kind = None
    if prompt is not None:
        kind = kind_of(headers, _joined(fields.get("system")), prompt)
    return Request(
        id=id,
        body=body,
        model=text(fields.get("model")) or "",
        streaming=boolean(fields.get("stream")),
        prompt=prompt,
        prompt_kind=kind,
        correlating_tool_call_id=_answered_call(last),
        opening=opening_of(MESSAGES, messages, readable),
    )


def _said(message: Object) -> Said:
    role = text(message.get("role")) or ""
    if role != "user":
        return Said(role)
    content = message.get("content")
    whole = text(content)
    if whole is not None:
        return Said(role, [whole])
    blocks = [members(item) for item in items(content)]
    kinds = [text(block.get("type")) for block in blocks]
    return Said(
        role,
        [
            said
            for kind, block in zip(kinds, blocks, strict=True)
            if kind == "text" and (said := text(block.get("text"))) is not None
        ],
        is_result="tool_result" in kinds,
    )


def _joined(system: Buffer | None) -> str:
    """The system prompt: one text, or those of its blocks."""
    whole = text(system)
    if whole is not None:
        return whole
    return "\n".join(text(members(item).get("text")) or "" for item in items(system))


def _answered_call(message: Object) -> str | None:
    """The tool call whose result ends the last message, whoever said it."""
    for item in reversed(items(message.get("content"))):
        block = members(item)
        if text(block.get("type")) == "tool_result":
            call = text(block.get("tool_use_id"))
            if call:
                return call
    return None


@define
class _Block:
    """A content block that is still arriving and will be recorded."""

    type: str
    id: str = ""
    name: str = ""
    content: Text = field(factory=Text)
    whole_input: str = "{}"
    """What the block's start said, for tools that take no input."""


@define
class _Usage:
    """Token counts of one event or answer, not yet recorded."""

    created_at: float
    counts: dict[str, int]
    extra: dict[str, int] = field(factory=dict)
    metadata: dict[str, object] = field(factory=dict)


class MessagesInterception(Relay):
    """One request to the Messages API and its answer."""

    api: ClassVar[Api] = MESSAGES
    ping: ClassVar[bytes] = b'event: ping\ndata: {"type": "ping"}\n\n'
    pings: ClassVar[bool] = True

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._msg_id = ""
        self._blocks: dict[int, _Block] = {}
        self._usages: list[_Usage] = []
        self._usage_final = False
        self._told: dict[str, int] = {}
        """The counts of this message that the provider has told so far, output aside."""

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        # PERF: most events are deltas of text, which nobody records.
        if not self._blocks and piece.startswith(b"event: content_block_delta\n"):
            return
        name, data = parse_event(piece)
        if not data:
            return
        event = members(data)
        kind = name.decode("utf-8", "replace") if name else text(event.get("type"))
        handler = _HANDLERS.get(kind or "")
        known = handler is not None or not name
        if not event and known and self._read_odd_event(piece, data, now):
            return
        if handler is not None:
            handler(self, event, now)

    def _on_start(self, event: Object, now: float) -> None:
        self._flush_usages(INCOMPLETE)
        message = members(event.get("message"))
        self._msg_id = text(message.get("id")) or ""
        self._record_prompt(self._msg_id, now)
        self._usage_final = False
        self._told = {}
        if "usage" in message:
            usage = _whole_usage(members(message["usage"]), now)
            self._told = {name: usage.counts[name] for name in _INPUT_COUNTS}
            self._usages.append(usage)

    def _on_block_start(self, event: Object, now: float) -> None:
        block = members(event.get("content_block"))
        kind = text(block.get("type"))
        index = count(event.get("index"))
        if kind == "thinking":
            started = _Block(kind, content=Text(text(block.get("thinking")) or ""))
        elif kind == "tool_use":
            started = _Block(kind, text(block.get("id")) or "", text(block.get("name")) or "")
            if "input" in block:
                started.whole_input = source(block["input"])
        else:
            return
        self._finish_block(index, now)
        self._blocks[index] = started

    def _on_block_delta(self, event: Object, now: float) -> None:
        block = self._blocks.get(count(event.get("index")))
        if block is None:
            return
        delta = members(event.get("delta"))
        part = delta.get("thinking" if block.type == "thinking" else "partial_json")
        block.content.write(text(part) or "")

    def _on_block_stop(self, event: Object, now: float) -> None:
        self._finish_block(count(event.get("index")), now)

    def _on_delta(self, event: Object, now: float) -> None:
        if text(members(event.get("delta")).get("stop_reason")) is not None:
            self._usage_final = True
        if "usage" in event:
            usage = members(event["usage"])
            counts = {"output_tokens": count(usage.get("output_tokens"))}
            # The others are totals of the message so far: what the start told, unless the
            # provider went on to search the web, or only knows them now.
            for name in _INPUT_COUNTS:
                total, told = count(usage.get(name)), self._told.get(name, 0)
                if total > told:
                    counts[name] = total - told
                    self._told[name] = total
            searches = _searches(usage)
            extra = {"web_search_requests": searches} if searches else {}
            self._usages.append(_Usage(now, counts, extra))

    def _on_stop(self, event: Object, now: float) -> None:
        # A call cut short by max_tokens may end without an end of its block.
        for index in list(self._blocks):
            self._finish_block(index, now)
        self._flush_usages(NOTHING)
        self._complete = True

    def _on_error(self, event: Object, now: float) -> None:
        outcome = error_outcome(event.get("error"))
        self._fail(outcome.error_type or "unknown", outcome.error_message or "")

    def _finish_block(self, index: int, now: float) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        content = block.content.value()
        metadata = TRUNCATED if block.content.truncated else NOTHING
        if block.type == "thinking":
            self._record_thought(content, "thinking", now, metadata)
        elif block.id:
            arguments = content if content.strip() else block.whole_input
            self._record_call(block.id, block.name, arguments, now, metadata)

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = members(data)
        if text(answer.get("type")) == "error":
            self._on_error(answer, now)
            return
        self._msg_id = text(answer.get("id")) or ""
        self._record_prompt(self._msg_id, now)
        self._usages.append(_whole_usage(members(answer.get("usage")), now))
        self._flush_usages(NOTHING)
        for item in items(answer.get("content")):
            block = members(item)
            kind = text(block.get("type"))
            if kind == "thinking":
                self._record_thought(text(block.get("thinking")), "thinking", now)
            elif kind == "tool_use" and (call := text(block.get("id"))):
                arguments = source(block.get("input", b"{}"))
                self._record_call(call, text(block.get("name")) or "", arguments, now)

    # -- both

    def _finish(self, end: End, now: float) -> None:
        unseen = end is End.CUT and self._answered
        if self.streaming or self._mode is Mode.STREAM or unseen:
            self._record_prompt(self._msg_id, now)
        incomplete = end is not End.WHOLE and not self._usage_final
        if unseen and incomplete and not self._usages:
            self._usages.append(_Usage(now, {}))
        self._flush_usages(INCOMPLETE if incomplete else NOTHING)

    def _flush_usages(self, metadata: Mapping[str, object]) -> None:
        for usage in self._usages:
            self._record_tokens(
                self._msg_id,
                usage.created_at,
                input_tokens=usage.counts.get("input_tokens", 0),
                output_tokens=usage.counts.get("output_tokens", 0),
                cache_read_input_tokens=usage.counts.get("cache_read_input_tokens", 0),
                cache_write_input_tokens=usage.counts.get("cache_creation_input_tokens", 0),
                extra_token_types=usage.extra,
                metadata={**usage.metadata, **metadata},
            )
        self._usages.clear()

    def _record_call(
        self,
        call: str,
        name: str,
        arguments: str,
        now: float,
        metadata: Mapping[str, object] = NOTHING,
    ) -> None:
        if not is_json(arguments.encode()):
            # Cut short by max_tokens: kept for the reader, as a string.
            arguments = json_text(arguments)
        self._record_tool(
            self._msg_id,
            now,
            tool=name,
            tool_call_id=call,
            input=arguments,
            metadata=metadata,
        )

    def _error_event(self, error_type: str, message: str) -> bytes:
        error = {"type": _EVENT_TYPES.get(error_type, "api_error"), "message": message}
        data = msgspec.json.encode({"type": "error", "error": error})
        return b"event: error\ndata: " + data + b"\n\n"


def _whole_usage(usage: Object, now: float) -> _Usage:
    """Read the usage of a message: all counts and the extra ones, zero or not."""
    written = members(usage.get("cache_creation"))
    tier = text(usage.get("service_tier"))
    return _Usage(
        now,
        {name: count(usage.get(name)) for name in _COUNTS},
        {
            "web_search_requests": _searches(usage),
            "cache_ephemeral_1h_input": count(written.get("ephemeral_1h_input_tokens")),
            "cache_ephemeral_5m_input": count(written.get("ephemeral_5m_input_tokens")),
        },
        {"service_tier": tier} if tier else {},
    )


def _searches(usage: Object) -> int:
    return count(members(usage.get("server_tool_use")).get("web_search_requests"))


_INPUT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_COUNTS = ("output_tokens", *_INPUT_COUNTS)

_EVENT_TYPES = {
    "overloaded": "overloaded_error",
    "rate_limited": "rate_limit_error",
    "timeout": "timeout_error",
}

_HANDLERS: Mapping[str, Callable[[MessagesInterception, Object, float], None]] = {
    "message_start": MessagesInterception._on_start,
    "content_block_start": MessagesInterception._on_block_start,
    "content_block_delta": MessagesInterception._on_block_delta,
    "content_block_stop": MessagesInterception._on_block_stop,
    "message_delta": MessagesInterception._on_delta,
    "message_stop": MessagesInterception._on_stop,
    "error": MessagesInterception._on_error,
}
