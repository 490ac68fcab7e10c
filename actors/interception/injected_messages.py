"""Anthropic's Messages API with injected tools: many upstream messages, one for the client.

In a stream, the first message's start is the client's, blocks are numbered through, and the
last message's delta carries what all of them used.  A blocking client gets the last message,
with the usage of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from aigateway.actors.codec.reading import (
    Object,
    count,
    is_json,
    is_null,
    items,
    members,
    source,
    text,
)
from aigateway.actors.codec.splice import add_elements, set_member
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._event_edits import edited, replaced
from aigateway.actors.interception._recording import Request
from aigateway.actors.interception.anthropic_messages import MessagesInterception
from aigateway.actors.interception.injected import (
    InjectedCall,
    InjectedInterception,
    RoundReading,
)
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import MESSAGES, Api
from aigateway.actors.interception.tools import ToolResult

__all__ = ["InjectedMessages"]

_COUNTS: tuple[tuple[str, ...], ...] = (
    ("input_tokens",),
    ("cache_creation_input_tokens",),
    ("cache_read_input_tokens",),
    ("output_tokens",),
    ("cache_creation", "ephemeral_5m_input_tokens"),
    ("cache_creation", "ephemeral_1h_input_tokens"),
    ("output_tokens_details", "thinking_tokens"),
    ("server_tool_use", "web_search_requests"),
    ("server_tool_use", "web_fetch_requests"),
)
_DETAILS = ("output_tokens_details", "server_tool_use")
"""Groups of counts that only some messages have."""
_CUT_SHORT = frozenset(
    {"", "max_tokens", "model_context_window_exceeded", "pause_turn", "refusal", "none"}
)
"""Reasons to stop that leave calls unfinished, or whoever made them unwilling."""
_DELTA = b"event: content_block_delta\n"
_PING = b"event: ping\n"


class _Round(RoundReading, MessagesInterception):
    """Reads one of the messages."""


class InjectedMessages(InjectedInterception):
    """One request to the Messages API, its injected calls, and their answers."""

    api: ClassVar[Api] = MESSAGES
    _round: _Round

    # Of the answer that the client gets.
    _next_index = 0
    _used: dict[tuple[str, ...], int]
    _earlier_iterations: list[bytes]
    _iterations: list[bytes]
    _container = b""

    def _make_round(self, first: Relay | None) -> Relay:
        request = Request(
            id=self.id,
            body=b"",
            model=self.model,
            streaming=self.streaming,
            prompt=None if first is None else first._prompt,
            prompt_kind=None if first is None else first._prompt_kind,
        )
        if first is not None:
            self._used = {}
            self._earlier_iterations = []
        else:
            self._used = self._totals()
            self._earlier_iterations += self._iterations
        self._iterations = []
        # The round's counts so far.
        self._usage: dict[tuple[str, ...], int] = {}
        self._pieces: list[bytes] = []
        self._kept_back: list[bytes] = []
        self._hidden: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._stop_reason = ""
        self._client_tools = False
        made = _Round(request)
        made.offered = self.tools
        return made

    @property
    def _calls_of_round(self) -> list[InjectedCall]:
        return self._round.calls

    def _has_client_calls(self) -> bool:
        return self._client_tools

    # -- streams

    def _edit(self, piece: bytes) -> bytes:
        self._pieces.append(piece)
        # PERF: nearly all events of a first message are deltas and leave as they came.
        plain = self.rounds == 1 and not self._hidden
        if piece.startswith(_PING) or (plain and piece.startswith(_DELTA)):
            return piece
        name, data = parse_event(piece)
        event = members(data)
        match name.decode("utf-8", "replace") or text(event.get("type")):
            case "message_start":
                return self._on_start(piece, event)
            case "content_block_start":
                return self._on_block(piece, event)
            case "content_block_delta" | "content_block_stop":
                index = count(event.get("index"))
                return b"" if index in self._hidden else self._numbered(piece, index)
            case "message_delta":
                return self._on_delta(piece, event)
            case "message_stop" if self._hidden:
                self._kept_back.append(piece)
                return b""
        return piece

    def _on_start(self, piece: bytes, event: Object) -> bytes:
        message = members(event.get("message"))
        self._read_usage(members(message.get("usage")))
        self._read_container(message)
        return piece if self.rounds == 1 else b""

    def _on_block(self, piece: bytes, event: Object) -> bytes:
        index = count(event.get("index"))
        block = members(event.get("content_block"))
        if text(block.get("type")) == "tool_use":
            if text(block.get("name")) in self.tools:
                self._hidden.add(index)
                return b""
            self._client_tools = True
        self._numbers[index] = self._next_index
        self._next_index += 1
        return self._numbered(piece, index)

    def _numbered(self, piece: bytes, index: int) -> bytes:
        number = self._numbers.get(index, index)
        if number == index:
            return piece
        return edited(piece, lambda event: replaced(event, b"%d" % number, "index"))

    def _on_delta(self, piece: bytes, event: Object) -> bytes:
        delta = members(event.get("delta"))
        self._read_usage(members(event.get("usage")))
        self._read_container(delta)
        self._stop_reason = text(delta.get("stop_reason")) or self._stop_reason
        if self._hidden:
            self._kept_back.append(piece)
            return b""
        return self._with_whole_usage(piece)

    def _with_whole_usage(self, piece: bytes) -> bytes:
        if self.rounds == 1:
            return piece
        return edited(piece, lambda event: self._with_totals(event, every=True))

    def _with_totals(self, document: bytes, *, every: bool = False) -> bytes:
        """The document with the counts of all rounds; ``every``: also those it leaves out."""
        usage = members(members(document).get("usage"))
        if not usage:
            return document
        totals = self._totals()
        for path in _COUNTS:
            if path not in totals:
                continue
            value = b"%d" % totals[path]
            if len(path) == 1 and every:
                document = set_member(document, value, "usage", *path)
            else:
                document = replaced(document, value, "usage", *path)
        for group in _DETAILS:
            counted = {path[1]: total for path, total in totals.items() if path[0] == group}
            if is_null(usage.get(group)) and any(counted.values()):
                document = set_member(document, msgspec.json.encode(counted), "usage", group)
        if self._earlier_iterations:
            all_of_them = b",".join([*self._earlier_iterations, *self._iterations])
            document = set_member(document, b"[" + all_of_them + b"]", "usage", "iterations")
        return document

    def _end_stream(self) -> bytes:
        out = b""
        for piece in self._kept_back:
            if b"message_delta" in piece:
                piece = self._with_whole_usage(piece)
                if self._ends_for_nothing():
                    piece = edited(
                        piece, lambda e: replaced(e, b'"end_turn"', "delta", "stop_reason")
                    )
            out += piece
        self._kept_back.clear()
        return out

    def _ends_for_nothing(self) -> bool:
        """Whether the answer ends with calls of which the client sees none."""
        return self._stop_reason == "tool_use" and not self._client_tools

    # -- blocking answers

    def _end_body(self, body: bytes) -> bytes:
        answer = members(body)
        self._read_answer(answer)
        if self.rounds > 1:
            body = self._with_totals(body)
        content = items(answer.get("content"))
        left = [block for block in content if not self._is_injected(members(block))]
        if len(left) < len(content):
            body = set_member(body, b"[" + b",".join(map(bytes, left)) + b"]", "content")
            if self._ends_for_nothing():
                body = replaced(body, b'"end_turn"', "stop_reason")
        return body

    def _read_answer(self, answer: Object) -> None:
        """Take from a blocking answer what a stream tells by and by; once for each round."""
        if self._stop_reason:
            return
        self._stop_reason = text(answer.get("stop_reason")) or "none"
        self._read_usage(members(answer.get("usage")))
        self._read_container(answer)
        for item in items(answer.get("content")):
            block = members(item)
            if text(block.get("type")) == "tool_use" and not self._is_injected(block):
                self._client_tools = True

    def _is_injected(self, block: Object) -> bool:
        return text(block.get("type")) == "tool_use" and text(block.get("name")) in self.tools

    # -- both

    def _wants_results(self) -> bool:
        if not self.event_stream:
            self._read_answer(members(self.answer_body))
        return self._stop_reason not in _CUT_SHORT

    def _read_usage(self, usage: Object) -> None:
        """Take the counts of a message: each is a total of what it has cost so far."""
        for path in _COUNTS:
            counts = usage if len(path) == 1 else members(usage.get(path[0]))
            if is_null(counts.get(path[-1])):
                continue
            self._usage[path] = count(counts[path[-1]])
        if not is_null(usage.get("iterations")):
            self._iterations = list(map(bytes, items(usage["iterations"])))

    def _totals(self) -> dict[tuple[str, ...], int]:
        paths = self._used.keys() | self._usage.keys()
        return {path: self._used.get(path, 0) + self._usage.get(path, 0) for path in paths}

    def _read_container(self, part: Object) -> None:
        """Code that the provider runs goes on where it was, if it is told where."""
        named = members(part.get("container")).get("id")
        if named is not None:
            self._container = bytes(named)

    def _next_body(
        self, answered: Sequence[tuple[InjectedCall, ToolResult]], tools_off: bool
    ) -> bytes:
        if self.event_stream:
            content = _content_of(self._pieces)
        else:
            content = list(map(bytes, items(members(self.answer_body).get("content"))))
        said = b'{"role":"assistant","content":[' + b",".join(content) + b"]}"
        results = msgspec.json.encode(
            {"role": "user", "content": [_result(call, result) for call, result in answered]}
        )
        body = add_elements(self.body, said + b"," + results, "messages")
        if self._container:
            asked = source(members(body).get("container"))
            if asked.startswith("{"):
                body = set_member(body, self._container, "container", "id")
            elif asked == "null":
                body = set_member(body, self._container, "container")
        return set_member(body, b'{"type":"none"}', "tool_choice") if tools_off else body


def _result(call: InjectedCall, result: ToolResult) -> dict[str, object]:
    told = result.as_texts()
    return {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": each} for each in told.texts],
        "is_error": told.is_error,
    }


_PARTS = {
    "text_delta": ("text",),
    "thinking_delta": ("thinking",),
    "signature_delta": ("signature",),
    "input_json_delta": ("partial_json",),
    "compaction_delta": ("content", "encrypted_content"),
}
"""Which members of a delta go on with which texts of its block."""


def _content_of(pieces: Sequence[bytes]) -> list[bytes]:
    """The content of a message, from the events of its stream."""
    blocks: dict[int, Object] = {}
    parts: dict[tuple[int, str], list[str]] = {}
    citations: dict[int, list[msgspec.Raw]] = {}
    for piece in pieces:
        _name, data = parse_event(piece)
        event = members(data)
        index = count(event.get("index"))
        match text(event.get("type")):
            case "content_block_start":
                blocks[index] = members(event.get("content_block"))
            case "content_block_delta":
                delta = members(event.get("delta"))
                kind = text(delta.get("type")) or ""
                for part in _PARTS.get(kind, ()):
                    if (more := text(delta.get(part))) is not None:
                        parts.setdefault((index, part), []).append(more)
                if kind == "citations_delta" and "citation" in delta:
                    citations.setdefault(index, []).append(delta["citation"])
    for (index, part), texts in parts.items():
        block, whole = blocks.get(index, {}), "".join(texts)
        if part == "partial_json":
            # What is no JSON was refused; the provider wants an object nevertheless.
            if whole.strip():
                good = is_json(whole.encode()) and whole.lstrip().startswith("{")
                block["input"] = msgspec.Raw(whole.encode() if good else b"{}")
        else:
            whole = (text(block.get(part)) or "") + whole
            block[part] = msgspec.Raw(msgspec.json.encode(whole))
    for index, found in citations.items():
        blocks.get(index, {})["citations"] = msgspec.Raw(msgspec.json.encode(found))
    return [
        msgspec.json.encode(block)
        for _, block in sorted(blocks.items())
        # An empty text is an answer that a provider gives and does not take.
        if text(block.get("type")) != "text" or text(block.get("text"))
    ]
