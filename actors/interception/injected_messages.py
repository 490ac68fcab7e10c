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
from aigateway.actors.interception._one_answer import (
    edited,
    edited_elements,
    replaced,
    with_number,
)
from aigateway.actors.interception.injected import InjectedCall, InjectedInterception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import MESSAGES, Api
from aigateway.actors.values.tools import ToolResult

__all__ = ["InjectedMessages"]

_COUNTS = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
)
"""What the usage of the whole tells although the last message's leaves it out."""
_CUT_SHORT = frozenset({"", "max_tokens", "model_context_window_exceeded", "pause_turn", "refusal"})
"""Reasons to stop that leave calls unfinished, or their maker unwilling."""


class InjectedMessages(InjectedInterception):
    """One request to the Messages API, its injected calls, and their answers."""

    api: ClassVar[Api] = MESSAGES
    no_tools: ClassVar[bytes] = b'{"type":"none"}'

    _earlier_iterations: Sequence[bytes] = ()
    _iterations: Sequence[bytes] = ()
    _container = b""

    def _begin_round(self, relay: Relay) -> None:
        super()._begin_round(relay)
        self._pieces: list[bytes] = []
        self._earlier_iterations = [*self._earlier_iterations, *self._iterations]
        self._iterations = ()

    # -- streams

    def _is_plain(self, piece: bytes) -> bool:
        if not piece.startswith(b"event: content_block_delta\n"):
            return False
        self._pieces.append(piece)
        return True

    def _edit(self, piece: bytes, name: str, event: Object) -> bytes:
        self._pieces.append(piece)
        match name or text(event.get("type")):
            case "message_start":
                self._read_part(members(event.get("message")))
                return piece if self.rounds == 1 else b""
            case "content_block_start":
                index, block = count(event.get("index")), members(event.get("content_block"))
                if self._is_injected(block):
                    self._parts.hide(index)
                else:
                    self._parts.show(index)
                    self._note_for_client(block)
                return self._numbered(piece, index)
            case "content_block_delta" | "content_block_stop":
                return self._numbered(piece, count(event.get("index")))
            case "message_delta":
                self._read_part(event)
                self._read_part(members(event.get("delta")))
                if self._parts.hides:
                    return self._keep_back(piece)
                return edited(piece, self._with_totals)
            case "message_stop" if self._parts.hides:
                return self._keep_back(piece)
        return piece

    def _numbered(self, piece: bytes, index: int) -> bytes:
        number = self._parts.of(index)
        if number is None:
            return b""
        return piece if number == index else with_number(piece, number, "index")

    def _edit_last(self, piece: bytes) -> bytes:
        if b"message_delta" not in piece:
            return piece
        piece = edited(piece, self._with_totals)
        if not self._ends_for_nothing:
            return piece
        return edited(piece, lambda event: replaced(event, b'"end_turn"', "delta", "stop_reason"))

    @property
    def _ends_for_nothing(self) -> bool:
        """Whether the answer ends with calls of which the client sees none."""
        return self._stop_reason == "tool_use" and not self._client_has_calls

    # -- blocking answers

    def _read_answer(self, answer: Object) -> None:
        self._read_part(answer)
        for block in items(answer.get("content")):
            self._note_for_client(members(block))

    def _edit_body(self, body: bytes) -> bytes:
        def without_injected(block: bytes) -> bytes | None:
            return None if self._is_injected(members(block)) else block

        whole = edited_elements(body, without_injected, "content")
        if whole != body and self._ends_for_nothing:
            whole = replaced(whole, b'"end_turn"', "stop_reason")
        return self._with_totals(whole)

    # -- both

    def _read_part(self, part: Object) -> None:
        """Take what a message tells of itself, at its start, at its end or as a whole."""
        self._stop_reason = text(part.get("stop_reason")) or self._stop_reason
        usage = members(part.get("usage"))
        self._totals.take(part.get("usage"))
        if not is_null(usage.get("iterations")):
            self._iterations = list(map(bytes, items(usage["iterations"])))
        # Code that the provider runs goes on where it was, if it is told where.
        if (named := members(part.get("container")).get("id")) is not None:
            self._container = bytes(named)

    def _is_injected(self, block: Object) -> bool:
        return text(block.get("type")) == "tool_use" and text(block.get("name")) in self.tools

    def _note_for_client(self, block: Object) -> None:
        if text(block.get("type")) == "tool_use" and not self._is_injected(block):
            self._client_has_calls = True

    def _with_totals(self, document: bytes) -> bytes:
        """The document with the usage of all messages, also where it leaves counts out."""
        usage = members(members(document).get("usage"))
        if not usage or self.rounds == 1:
            return document
        document = self._totals.added_to(document, "usage")
        sums = self._totals.sums()
        for name in _COUNTS:
            if not is_null(usage.get(name)):
                continue
            group = {path[1]: n for path, n in sums.items() if len(path) > 1 and path[0] == name}
            value = group if any(group.values()) else sums.get((name,))
            if value is not None:
                document = set_member(document, msgspec.json.encode(value), "usage", name)
        if self._earlier_iterations:
            all_of_them = b",".join([*self._earlier_iterations, *self._iterations])
            document = set_member(document, b"[" + all_of_them + b"]", "usage", "iterations")
        return document

    def _wants_results(self) -> bool:
        return self._stop_reason not in _CUT_SHORT

    def _next_body(self, answered: Sequence[tuple[InjectedCall, ToolResult]]) -> bytes:
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
        return body


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
            # What is not JSON was refused; the provider wants an object nevertheless.
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
