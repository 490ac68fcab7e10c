"""OpenAI's Responses API with injected tools: many responses, one for the client.

In a stream, events and output items are numbered through; the last event holds the items of
all responses that are the client's, and what all of them used.  All events carry the id of
the first response: clients refuse a stream whose id changes.  So a later request cannot name
that stream as its ``previous_response_id``; the provider knows calls in it that it has no
results of.  A blocking client gets the last response, with the usage of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from aigateway.actors.codec.reading import (
    Object,
    boolean,
    count,
    is_null,
    items,
    members,
    source,
    text,
)
from aigateway.actors.codec.splice import (
    add_elements,
    delete_member,
    set_member,
)
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._event_edits import edited, replaced
from aigateway.actors.interception._recording import Request
from aigateway.actors.interception.injected import (
    InjectedCall,
    InjectedInterception,
    RoundReading,
)
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.responses import ResponsesInterception, is_end
from aigateway.actors.interception.routes import RESPONSES, Api
from aigateway.actors.interception.tools import ToolResult

__all__ = ["InjectedResponses"]

_COUNTS: tuple[tuple[str, ...], ...] = (
    ("input_tokens",),
    ("output_tokens",),
    ("total_tokens",),
    ("input_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cache_write_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
)
_BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
_FOR_CLIENTS = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "mcp_approval_request",
        "shell_call",
    }
)
"""Items that the client has to answer."""


class _Round(RoundReading, ResponsesInterception):
    """Reads one of the responses."""

    def count(self, *path: str) -> int:
        """A number of tokens of the response, as far as it is known."""
        return self._usage.count(*path)


class InjectedResponses(InjectedInterception):
    """One request to the Responses API, its injected calls, and their answers."""

    api: ClassVar[Api] = RESPONSES
    _round: _Round

    # Of the answer that the client gets.
    _number = -1
    _renumbers = False
    _last_whole = b""
    _id: msgspec.Raw | None = None
    _next_output = 0
    _shown: list[bytes]
    _used: dict[tuple[str, ...], int]

    def _make_round(self, first: Relay | None) -> Relay:
        if first is not None:
            self._shown, self._used = [], {}
        else:
            self._shown += [self._items[at] for at in sorted(self._numbers) if at in self._items]
            for path in _COUNTS:
                self._used[path] = self._used.get(path, 0) + self._round.count(*path)
        request = Request(
            id=self.id,
            body=b"",
            model=self.model,
            streaming=self.streaming,
            prompt=None if first is None else first._prompt,
            prompt_kind=None if first is None else first._prompt_kind,
        )
        self._kept_back: list[bytes] = []
        self._items: dict[int, bytes] = {}
        self._hidden: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._client_tools = False
        self._status = ""
        made = _Round(request)
        made.offered = self.tools
        return made

    @property
    def _calls_of_round(self) -> list[InjectedCall]:
        return self._round.calls

    def _has_client_calls(self) -> bool:
        return self._client_tools

    def _is_injected(self, item: Object) -> bool:
        if text(item.get("type")) != "function_call" or text(item.get("namespace")):
            return False
        return text(item.get("name")) in self.tools

    # -- streams

    def _edit(self, piece: bytes) -> bytes:
        # PERF: nearly all events of a first response are deltas and leave as they came.
        if (
            not self._renumbers
            and piece.startswith(b"event: ")
            and piece.endswith(b".delta", 0, piece.find(b"\n"))
        ):
            self._last_whole = piece
            return piece
        name, data = parse_event(piece)
        event = members(data)
        if not event:
            return piece
        kind = text(event.get("type")) or name.decode("utf-8", "replace")
        if self._id is None:
            self._id = members(event.get("response")).get("id")
        if kind in _BEGINNINGS:
            return self._numbered(piece) if self.rounds == 1 else self._dropped()
        if is_end(kind, members(event.get("response"))):
            return self._on_end(piece, members(event.get("response")))
        if "output_index" not in event:
            return self._numbered(piece)
        return self._on_output(piece, kind, event)

    def _on_output(self, piece: bytes, kind: str, event: Object) -> bytes:
        index = count(event["output_index"])
        item = members(event.get("item"))
        known = index in self._numbers or index in self._hidden
        if kind == "response.output_item.added" or (item and not known):
            if self._is_injected(item):
                self._hidden.add(index)
            else:
                self._numbers[index] = self._next_output
                self._next_output += 1
                if _is_for_client(item):
                    self._client_tools = True
        if kind == "response.output_item.done" and "item" in event:
            self._items[index] = bytes(event["item"])
        if index in self._hidden:
            return self._dropped()
        number = self._numbers.get(index, index)
        if number != index:
            piece = edited(piece, lambda doc: replaced(doc, b"%d" % number, "output_index"))
        return self._numbered(piece)

    def _dropped(self) -> bytes:
        if not self._renumbers:
            self._renumbers = True
            _name, data = parse_event(self._last_whole)
            self._number = count(members(data).get("sequence_number"))
        return b""

    def _numbered(self, piece: bytes) -> bytes:
        if not self._renumbers:
            self._last_whole = piece
            return piece
        self._number += 1
        number = b"%d" % self._number
        return edited(piece, lambda event: replaced(event, number, "sequence_number"))

    def _on_end(self, piece: bytes, response: Object) -> bytes:
        self._read_answer(response)
        for index, item in enumerate(items(response.get("output"))):
            self._items[index] = bytes(item)
            # Not all announce their items.
            if self._is_injected(members(item)):
                self._hidden.add(index)
        if self._hidden:
            self._kept_back.append(piece)
            self._dropped()
            return b""
        return self._numbered(self._whole(piece))

    def _whole(self, piece: bytes) -> bytes:
        """The last event, with the items and the usage of all responses."""
        if self.rounds == 1 and not self._hidden:
            return piece
        mine = [self._items[at] for at in sorted(self._items) if at not in self._hidden]
        output = b"[" + b",".join([*self._shown, *mine]) + b"]"

        def edit(event: bytes) -> bytes:
            event = replaced(event, output, "response", "output")
            if self._id is not None:
                event = replaced(event, bytes(self._id), "response", "id")
            return self._with_whole_usage(event, "response")

        return edited(piece, edit)

    def _with_whole_usage(self, document: bytes, *place: str) -> bytes:
        for path in _COUNTS:
            total = self._used.get(path, 0) + self._round.count(*path)
            document = replaced(document, b"%d" % total, *place, "usage", *path)
        return document

    def _end_stream(self) -> bytes:
        out = b"".join([self._numbered(self._whole(piece)) for piece in self._kept_back])
        self._kept_back.clear()
        return out

    # -- blocking answers

    def _end_body(self, body: bytes) -> bytes:
        answer = members(body)
        self._read_answer(answer)
        if self.rounds > 1:
            body = self._with_whole_usage(body)
        output = items(answer.get("output"))
        left = [bytes(item) for item in output if not self._is_injected(members(item))]
        if len(left) < len(output):
            body = set_member(body, b"[" + b",".join(left) + b"]", "output")
        return body

    def _read_answer(self, answer: Object) -> None:
        self._status = text(answer.get("status")) or ""
        for each in items(answer.get("output")):
            item = members(each)
            if _is_for_client(item) and not self._is_injected(item):
                self._client_tools = True

    # -- both

    def _wants_results(self) -> bool:
        if not self.event_stream:
            answer = members(self.answer_body)
            self._read_answer(answer)
            self._items = dict(enumerate(map(bytes, items(answer.get("output")))))
        return self._status in ("completed", "")

    def _next_body(
        self, answered: Sequence[tuple[InjectedCall, ToolResult]], tools_off: bool
    ) -> bytes:
        fields = members(self.body)
        results = [
            msgspec.json.encode(
                {
                    "type": "function_call_output",
                    "call_id": call.id,
                    "output": result.as_json().decode(),
                }
            )
            for call, result in answered
        ]
        if not is_null(fields.get("conversation")):
            # The provider has added the rest to its conversation already.
            body = set_member(self.body, b"[" + b",".join(results) + b"]", "input")
        else:
            body = add_elements(
                _with_list_of_input(self.body, fields),
                b",".join([*self._said(fields), *results]),
                "input",
            )
        return set_member(body, b'"none"', "tool_choice") if tools_off else body

    def _said(self, fields: Object) -> list[bytes]:
        """The round's output as it is given back."""
        kept = [self._items[at] for at in sorted(self._items)]
        if "store" not in fields or boolean(fields["store"]) or source(fields["store"]) == "null":
            return kept
        # Nothing is kept there, so reasoning without its content cannot be found again, nor
        # items that refer to it.
        if all(not _is_lost(item) for item in kept):
            return kept
        return [delete_member(item, "id") for item in kept if not _is_lost(item)]


def _is_for_client(item: Object) -> bool:
    kind = text(item.get("type"))
    searches = kind == "tool_search_call" and text(item.get("execution")) == "client"
    return searches or kind in _FOR_CLIENTS


def _is_lost(item: bytes) -> bool:
    fields = members(item)
    return text(fields.get("type")) == "reasoning" and is_null(fields.get("encrypted_content"))


def _with_list_of_input(body: bytes, fields: Object) -> bytes:
    given = fields.get("input")
    if given is None or text(given) is None:
        return body
    return set_member(body, b'[{"role":"user","content":' + bytes(given) + b"}]", "input")
