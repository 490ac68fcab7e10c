"""Anthropic's Messages API (``/v1/messages``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec
from attrs import define, field
from msgspec import Raw, Struct

from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    boolean,
    count,
    is_json,
    is_null,
    is_string,
    items,
    json_text,
    members,
    read_once,
    source,
    text,
    values,
)
from aigateway.actors.interception._pattern import Pattern
from aigateway.actors.interception._record_maker import NOTHING, TRUNCATED, ClientRequest, Text
from aigateway.actors.interception.conversation import (
    ASIDE,
    Conversation,
    Prompt,
    Said,
    kind_of,
    last_said,
    opening_of_messages,
)
from aigateway.actors.interception.relay import End, Mode, Relay
from aigateway.actors.interception.routes import MESSAGES, Api
from aigateway.actors.interception.usage import (
    COUNTS,
    BilledCall,
    Refusals,
    RunningUsage,
    billed_calls,
)

__all__ = ["MessagesInterception", "read_messages_request"]


_NULL = Raw(b"null")


class _Body(Struct):
    """What is wanted of a request's body."""

    model: str = ""
    messages: list[Raw] = []
    system: Raw = _NULL
    tools: Raw = _NULL
    stream: bool | None = None
    container: Raw = _NULL
    cache_control: Raw = _NULL


_body = msgspec.json.Decoder(_Body)


def _by_members(readable: bytes) -> _Body:
    fields = members(readable)
    return _Body(
        model=text(fields.get("model")) or "",
        messages=items(fields.get("messages")),
        system=fields.get("system", _NULL),
        tools=fields.get("tools", _NULL),
        stream=boolean(fields.get("stream")),
        container=fields.get("container", _NULL),
        cache_control=fields.get("cache_control", _NULL),
    )


def read_messages_request(
    id: str, readable: bytes, body: bytes, headers: Headers = ()
) -> ClientRequest:
    """Read a request; ``readable`` is ``body`` without its content coding.  Raises NotJson."""
    fields = read_once(readable, _body.decode, _by_members)
    messages = Conversation(fields.messages)
    last, texts = last_said(messages, _said)
    prompt = texts[-1] if texts else None
    kind = None if prompt is None else kind_of(headers, _joined(fields.system), prompt)
    return ClientRequest(
        id=id,
        body=body,
        model=fields.model,
        streaming=fields.stream is True,
        prompt=prompt,
        prompt_kind=kind,
        correlating_tool_call_id=_answered_call(last),
        opening=opening_of_messages(messages, fields.container, readable),
        written=Prompt(
            messages.raw,
            fields.tools,
            fields.system,
            control=fields.cache_control,
            explicit=True,
            aside=kind in ASIDE,
        ),
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
    """The tool call whose result ends the last message, of any role."""
    content = message.get("content")
    for item in () if is_string(content) else reversed(items(content)):
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
    server: str = ""
    """Which MCP server's tool it is, where the provider calls it."""
    content: Text = field(factory=Text)
    whole_input: str = "{}"
    """What the block's start said, for tools that take no input."""

    @property
    def adds(self) -> str:
        """The member of a delta that adds to it."""
        return self.type if self.type in ("thinking", "text") else "partial_json"


class MessagesInterception(Relay):
    """One request to the Messages API and its answer."""

    api: ClassVar[Api] = MESSAGES
    ping: ClassVar[bytes] = b'event: ping\ndata: {"type": "ping"}\n\n'
    pings: ClassVar[bool] = True

    __slots__ = (
        "_blocks",
        "_msg_id",
        "_pattern",
        "_refusals",
        "_told_usage",
        "_usage",
        "_usage_at",
        "_usage_final",
    )

    def __init__(self, request: ClientRequest) -> None:
        super().__init__(request)
        self._msg_id = ""
        self._blocks: dict[int, _Block] = {}
        self._pattern: Pattern | None = None
        self._usage = RunningUsage()
        self._usage_at = 0.0
        self._usage_final = False
        self._refusals = Refusals()
        self._told_usage = False

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        # PERF: most events are deltas, often of text that nobody records, else like the one before.
        if not self._blocks:
            if piece.startswith(b"event: content_block_delta\n"):
                return
        elif self._pattern is not None and self._pattern.fits(piece):
            return
        name, data = self._parsed(piece)
        if not data:
            return
        event = members(data)
        kind = name.decode("utf-8", "replace") if name else text(event.get("type"))
        handler = _HANDLERS.get(kind or "")
        known = handler is not None or not name
        if not event and known:
            may_cost = not name or kind in _TELL_USAGE
            self._note_odd_event(data, may_cost=may_cost)
        if handler is not None:
            handler(self, event, now)
            if kind == "content_block_delta":
                self._learn(piece, event)
        elif not kind and not is_null(event.get("error")):
            # As servers that speak OpenAI's APIs as well write it.
            self._on_error(event, now)
        elif not kind:
            self._stray.note(data)

    def _on_start(self, event: Object, now: float) -> None:
        message = members(event.get("message"))
        msg_id = text(message.get("id")) or ""
        if msg_id != self._msg_id or not msg_id:
            # Another message is another call; the same one again only tells more of it.
            self._record_usage(whole=self._usage_final)
            self._usage_final = False
        self._msg_id = msg_id
        self._record_prompt(msg_id, now)
        self._note_answer(model=text(message.get("model")))
        self._take_usage(message.get("usage"), now)

    def _on_block_start(self, event: Object, now: float) -> None:
        block = members(event.get("content_block"))
        kind = text(block.get("type"))
        index = count(event.get("index"))
        if kind == "thinking":
            started = _Block(kind, content=Text(text(block.get("thinking")) or ""))
        elif kind in _TOOL_BLOCKS:
            started = _tool_block(kind, block)
        elif kind == "text" and self._answers:
            started = _Block(kind, content=Text(text(block.get("text")) or ""))
        else:
            self._note_hand_over(block)
            return
        self._finish_block(index, now)
        self._blocks[index] = started
        self._pattern = self._pattern or Pattern()

    def _on_block_delta(self, event: Object, now: float) -> None:
        block = self._blocks.get(count(event.get("index")))
        if block is None:
            return
        delta = members(event.get("delta"))
        part = delta.get(block.adds)
        block.content.write(text(part) or "")

    def _learn(self, piece: bytes, event: Object) -> None:
        """Know deltas again that only add to the block of this one."""
        block, pattern = self._blocks.get(count(event.get("index"))), self._pattern
        if block is not None and pattern is not None and pattern.learns:
            said = text(members(event.get("delta")).get(block.adds))
            if said is not None:
                pattern.learn(piece, b'"%s"' % block.adds.encode(), block.content, said)

    def _on_block_stop(self, event: Object, now: float) -> None:
        self._finish_block(count(event.get("index")), now)

    def _on_delta(self, event: Object, now: float) -> None:
        self._note_stop(members(event.get("delta")))
        self._take_usage(event.get("usage"), now)

    def _note_stop(self, part: Object) -> None:
        reason = text(part.get("stop_reason"))
        if reason:
            self._usage_final = True
            self._note_answer(stop_reason=reason)
        if reason == "refusal":
            category = text(members(part.get("stop_details")).get("category")) or ""
            self._refusals.last = category
            if category:
                self._end_metadata["refusal_category"] = category

    def _note_hand_over(self, block: Object) -> None:
        """A block may mark where another model went on, since the one before declined."""
        if text(block.get("type")) != "fallback":
            return
        self._note_answer(model=text(members(block.get("to")).get("model")))
        declined = text(members(block.get("from")).get("model")) or ""
        category = text(members(block.get("trigger")).get("category")) or ""
        self._refusals.handed_over[declined] = category

    def _take_usage(self, usage: Buffer | None, now: float) -> None:
        told = values(usage)
        if told:
            if self._usage or "input_tokens" in told:
                # Else the beginning of the message is still unknown.
                self._usage_unread = False
            self._usage.take(told)
            self._usage_at = now

    def _on_stop(self, event: Object, now: float) -> None:
        self._finish_blocks(now)
        self._record_usage(whole=True)
        self._complete = True

    def _finish_blocks(self, now: float) -> None:
        """A call cut short by max_tokens may end without an end of its block."""
        for index in list(self._blocks):
            self._finish_block(index, now)

    def _may_end(self) -> bool:
        return self._usage_final

    def _on_error(self, event: Object, now: float) -> None:
        self._fail_with(event.get("error"))

    def _finish_block(self, index: int, now: float) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if self._pattern is not None:
            self._pattern.forget()
        content = block.content.value()
        if block.type == "thinking":
            self._record_thought(content, "thinking", now, truncated=block.content.truncated)
        elif block.type == "text":
            self._record_answer(self._msg_id, content, now, truncated=block.content.truncated)
        elif block.id:
            arguments = content if content.strip() else block.whole_input
            self._record_call(block, arguments, now)

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = members(data)
        if text(answer.get("type")) == "error" or _ANSWER.isdisjoint(answer):
            self._fail_as_told(data)
            return
        self._msg_id = text(answer.get("id")) or ""
        self._record_prompt(self._msg_id, now)
        self._note_stop(answer)
        self._take_usage(answer.get("usage"), now)
        content = [members(item) for item in items(answer.get("content"))]
        for block in content:
            self._note_hand_over(block)
        # Who answered is told last by the answer itself.
        self._note_answer(model=text(answer.get("model")))
        self._record_usage(whole=True)
        if not self._told_usage:
            self._record_unknown_usage(now)
        for block in content:
            kind = text(block.get("type"))
            if kind == "thinking":
                self._record_thought(text(block.get("thinking")), "thinking", now)
            elif kind == "text" and self._answers:
                self._record_answer(self._msg_id, text(block.get("text")), now)
            elif kind in _TOOL_BLOCKS and (call := _tool_block(kind, block)).id:
                self._record_call(call, call.whole_input, now)

    # -- both

    def _finish(self, end: End, now: float) -> None:
        unseen = end is End.CUT and self._answered
        if self.streaming or self._mode is Mode.STREAM or unseen:
            self._record_prompt(self._msg_id, now)
        if end is End.WHOLE:
            self._finish_blocks(now)
        for block in self._blocks.values():
            if block.type == "thinking":
                self._record_thought(block.content.value(), "thinking", now, truncated=True)
            elif block.type == "text":
                self._record_answer(self._msg_id, block.content.value(), now, truncated=True)
        whole = end is End.WHOLE or self._usage_final
        self._record_usage(whole=whole)
        unread = end is End.WHOLE and self._usage_unread
        if ((unseen and not whole) or unread) and not self._told_usage:
            self._record_unknown_usage(now)

    def _record_unknown_usage(self, now: float) -> None:
        self._usage_at = now
        self._record_billed(BilledCall(dict.fromkeys(COUNTS, 0)), whole=False)

    def _record_usage(self, *, whole: bool) -> None:
        """Record what the message at hand has cost: a record for each billed call."""
        usage, self._usage = self._usage, RunningUsage()
        if not usage:
            return
        self._told_usage = True
        refusals, self._refusals = self._refusals, Refusals()
        calls = billed_calls(usage, refusals, asked_model=self._asked_model)
        for call in calls:
            self._record_billed(call, whole=whole)

    def _record_billed(self, call: BilledCall, *, whole: bool) -> None:
        metadata = self._metadata_of_call(whole=whole)
        if call.model is not None:
            metadata.pop("provider_model", None)
            if call.model != self._asked_model:
                metadata["provider_model"] = call.model
        self._record_tokens(
            self._msg_id,
            self._usage_at,
            {**call.metadata, **metadata},
            input_tokens=call.counts["input_tokens"],
            output_tokens=call.counts["output_tokens"],
            cache_read_input_tokens=call.counts["cache_read_input_tokens"],
            cache_write_input_tokens=call.counts["cache_creation_input_tokens"],
            extra=call.extra,
        )

    def _record_call(self, block: _Block, arguments: str, now: float) -> None:
        metadata = TRUNCATED if block.content.truncated else NOTHING
        if not is_json(arguments.encode()):
            # Cut short by max_tokens: kept for the reader, as a string.
            arguments = json_text(arguments)
        if block.type != "tool_use":
            metadata = {**metadata, "type": block.type}
        if block.server:
            metadata = {**metadata, "server_name": block.server}
        self._record_tool(
            self._msg_id,
            now,
            tool=block.name,
            tool_call_id=block.id,
            input=arguments,
            metadata=metadata,
        )

    def error_event(self, error_type: str, message: str) -> bytes:
        error = {"type": _EVENT_TYPES.get(error_type, "api_error"), "message": message}
        data = msgspec.json.encode({"type": "error", "error": error})
        return b"event: error\ndata: " + data + b"\n\n"


_TELL_USAGE = frozenset({"message_start", "message_delta"})
_ANSWER = frozenset({"content", "stop_reason", "usage"})
"""Members of which every message has one: what has none is something else."""
_TOOL_BLOCKS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Calls of the client's tools, of the provider's, and of MCP servers that the provider asks."""


def _tool_block(kind: str, block: Object) -> _Block:
    return _Block(
        kind,
        text(block.get("id")) or "",
        text(block.get("name")) or "",
        text(block.get("server_name")) or "",
        whole_input=source(block["input"]) if "input" in block else "{}",
    )


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
