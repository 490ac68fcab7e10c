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
from aigateway.actors.interception._one_answer import (
    edited,
    edited_elements,
    replaced,
    with_number,
)
from aigateway.actors.interception.injected import InjectedCall, InjectedInterception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.responses import BEGINNINGS, is_end
from aigateway.actors.interception.routes import RESPONSES, Api
from aigateway.actors.values.tools import ToolResult

__all__ = ["InjectedResponses"]

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


class InjectedResponses(InjectedInterception):
    """One request to the Responses API, its injected calls, and their answers."""

    api: ClassVar[Api] = RESPONSES

    # Of the answer that the client gets.
    _number: int | None = None
    """Of the last event, from the first one on that the client does not see."""
    _id: msgspec.Raw | None = None
    _shown: Sequence[bytes] = ()

    def _begin_round(self, relay: Relay) -> None:
        if self.rounds > 1:
            self._shown = [*self._shown, *self._items_for_client()]
        super()._begin_round(relay)
        self._items: dict[int, bytes] = {}

    def _is_injected(self, item: Object) -> bool:
        if text(item.get("type")) != "function_call" or text(item.get("namespace")):
            return False
        return text(item.get("name")) in self.tools

    # -- streams

    def _is_plain(self, piece: bytes) -> bool:
        return piece.startswith(b"event: ") and piece.endswith(b".delta", 0, piece.find(b"\n"))

    def _edit(self, piece: bytes, name: str, event: Object) -> bytes:
        if not event:
            return piece
        kind = text(event.get("type")) or name
        response = members(event.get("response"))
        self._totals.take(response.get("usage"))
        self._totals.take(event.get("usage"))
        if self._id is None:
            self._id = response.get("id")
        if kind in BEGINNINGS:
            return self._numbered(piece) if self.rounds == 1 else self._dropped(event)
        if is_end(kind, response):
            return self._on_end(piece, event, response)
        if "output_index" not in event:
            return self._numbered(piece)
        return self._on_output(piece, kind, event)

    def _on_output(self, piece: bytes, kind: str, event: Object) -> bytes:
        index = count(event["output_index"])
        item = members(event.get("item"))
        if kind == "response.output_item.added" or (item and index not in self._parts):
            if self._is_injected(item):
                self._parts.hide(index)
            else:
                self._parts.show(index)
                self._note_for_client(item)
        if kind == "response.output_item.done" and "item" in event:
            self._items[index] = bytes(event["item"])
        number = self._parts.of(index)
        if number is None:
            return self._dropped(event)
        return self._numbered(
            piece if number == index else with_number(piece, number, "output_index")
        )

    def _dropped(self, event: Object) -> bytes:
        if self._number is None:
            self._number = count(event.get("sequence_number")) - 1
        return b""

    def _numbered(self, piece: bytes) -> bytes:
        if self._number is None:
            return piece
        self._number += 1
        return with_number(piece, self._number, "sequence_number")

    def _on_end(self, piece: bytes, event: Object, response: Object) -> bytes:
        self._read_output(response)
        for index, item in self._items.items():
            # Not all announce their items.
            if self._is_injected(members(item)):
                self._parts.hide(index)
        if self._parts.hides:
            self._dropped(event)
            return self._keep_back(piece)
        return self._edit_last(piece)

    def _edit_last(self, piece: bytes) -> bytes:
        if self.rounds == 1 and not self._parts.hides:
            return self._numbered(piece)
        output = b"[" + b",".join([*self._shown, *self._items_for_client()]) + b"]"

        def edit(event: bytes) -> bytes:
            event = replaced(event, output, "response", "output")
            if self._id is not None:
                event = replaced(event, bytes(self._id), "response", "id")
            return self._totals.added_to(event, "response", "usage")

        return self._numbered(edited(piece, edit))

    def _items_for_client(self) -> list[bytes]:
        """The items of this round, without injected calls."""
        known = sorted(self._items.items())
        return [item for index, item in known if self._parts.of(index) is not None]

    # -- blocking answers

    def _read_answer(self, answer: Object) -> None:
        self._totals.take(answer.get("usage"))
        self._read_output(answer)

    def _edit_body(self, body: bytes) -> bytes:
        def without_injected(item: bytes) -> bytes | None:
            return None if self._is_injected(members(item)) else item

        return edited_elements(self._totals.added_to(body, "usage"), without_injected, "output")

    # -- both

    def _read_output(self, response: Object) -> None:
        """Take the items that a whole response tells, and how it ended."""
        self._stop_reason = text(response.get("status")) or ""
        for index, item in enumerate(items(response.get("output"))):
            self._items[index] = bytes(item)
            self._note_for_client(members(item))

    def _note_for_client(self, item: Object) -> None:
        if _is_for_client(item) and not self._is_injected(item):
            self._client_has_calls = True

    def _wants_results(self) -> bool:
        return self._stop_reason in ("completed", "")

    def _next_body(self, answered: Sequence[tuple[InjectedCall, ToolResult]]) -> bytes:
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
            return set_member(self.body, b"[" + b",".join(results) + b"]", "input")
        said = b",".join([*self._said(fields), *results])
        return add_elements(_with_list_of_input(self.body, fields), said, "input")

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
