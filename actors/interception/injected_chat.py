"""OpenAI's Chat Completions API with injected tools: many completions, one for the client.

In a stream all chunks carry the first completion's id, the role comes once, and the usage
chunk holds what all completions used.  A blocking client gets the last completion, with the
usage of all.  There is one choice: requests for more get no tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from aigateway.actors.codec.reading import (
    Object,
    is_null,
    items,
    members,
    text,
)
from aigateway.actors.codec.splice import (
    add_elements,
    delete_member,
)
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._chat_chunk import (
    CallPart,
    OpenCall,
    finish_reason,
    read_call_part,
)
from aigateway.actors.interception._chat_message import message_of, with_whole_calls
from aigateway.actors.interception._one_answer import edited, edited_elements, replaced
from aigateway.actors.interception._pattern import Pattern
from aigateway.actors.interception.injected import InjectedCall, InjectedInterception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import CHAT_COMPLETIONS, Api
from aigateway.actors.values.tools import ToolResult

__all__ = ["InjectedChat"]

_CUT_SHORT = ("length", "content_filter")


class InjectedChat(InjectedInterception):
    """One request to the Chat Completions API, its injected calls, and their answers."""

    api: ClassVar[Api] = CHAT_COMPLETIONS

    # Of the answer that the client gets.
    _id: msgspec.Raw | None = None
    _created: msgspec.Raw | None = None
    _role_said = False

    def _begin_round(self, relay: Relay) -> None:
        super()._begin_round(relay)
        self._pieces: list[bytes] = []
        self._open: dict[int, OpenCall] = {}
        self._pattern = Pattern()
        self._pattern_shown = False

    # -- streams

    def _shown_of(self, piece: bytes) -> bytes:
        # PERF: the arguments of a call may come in thousands of parts.
        if self._pattern.fits(piece):
            self._pieces.append(piece)
            return piece if self._pattern_shown else b""
        return super()._shown_of(piece)

    def _is_plain(self, piece: bytes) -> bool:
        if not self._role_said or b'"tool_calls"' in piece or b'_tokens"' in piece:
            return False
        self._pieces.append(piece)
        return True

    def _edit(self, piece: bytes, name: str, event: Object) -> bytes:
        self._pieces.append(piece)
        if "choices" not in event:
            done = parse_event(piece)[1].startswith(b"[DONE]")
            return self._keep_back(piece) if done and self._parts.hides else piece
        if self._id is None:
            self._id, self._created = event.get("id"), event.get("created")
        self._read_usage(event)
        choices = items(event["choices"])
        before, told_role = piece, self._role_said
        self._pattern.forget()
        self._parts_read: list[tuple[OpenCall, CallPart]] = []
        piece = edited(piece, lambda chunk: edited_elements(chunk, self._edit_choice, "choices"))
        ends = not choices
        for choice in choices:
            if reason := finish_reason(text(members(choice).get("finish_reason"))):
                self._stop_reason, ends = reason, True
        if self._parts.hides and ends:
            return self._keep_back(piece)
        gone = piece != before and not items(members(parse_event(piece)[1]).get("choices"))
        shown = b"" if gone else self._as_of_first(piece)
        if told_role and len(choices) == 1 and not ends and b'_tokens"' not in before:
            self._learn(before, shown)
        return shown

    def _learn(self, piece: bytes, shown: bytes) -> None:
        """Know chunks again that add to the same call, and go to the client whole or not at all."""
        if len(self._parts_read) != 1 or (shown and shown != piece) or not self._pattern.learns:
            return
        call, part = self._parts_read[0]
        if part.name and not (part.id and (part.id, part.name) == (call.id, call.name)):
            # Its text decides whether the next such part begins another call.
            return
        name = b'"arguments"' if part.custom is None else b'"input"'
        self._pattern.learn(piece, name, call.arguments, part.arguments)
        self._pattern_shown = bool(shown)

    def _edit_choice(self, choice: bytes) -> bytes | None:
        """The choice without what is not for the client; None when nothing is left."""
        before = choice
        choice = edited_elements(before, self._edit_call, "delta", "tool_calls")
        delta = members(members(choice).get("delta"))
        gone = choice != before and not items(delta["tool_calls"])
        if gone:
            choice = delete_member(choice, "delta", "tool_calls")
        if "role" in delta:
            if self._role_said:
                choice = delete_member(choice, "delta", "role")
            self._role_said = True
        finishes = finish_reason(text(members(choice).get("finish_reason")))
        left = members(members(choice).get("delta")).values()
        return None if gone and not finishes and all(map(is_null, left)) else choice

    def _edit_call(self, call: bytes) -> bytes | None:
        part = read_call_part(msgspec.Raw(call))
        index = max(part.index or 0, 0)
        known = self._open.get(index)
        if known is None or known.ends_before(part):
            known = self._open[index] = OpenCall()
            if part.name in self.tools:
                self._parts.hide(index)
            else:
                self._parts.show(index)
                self._client_has_calls = True
        known.add(part)
        self._parts_read.append((known, part))
        number = self._parts.of(index)
        if number is None:
            return None
        return call if number == index else replaced(call, b"%d" % number, "index")

    def _as_of_first(self, piece: bytes) -> bytes:
        """The chunk as one of the client's completion."""
        if self.rounds == 1:
            return piece

        def edit(event: bytes) -> bytes:
            for name, value in (("id", self._id), ("created", self._created)):
                if value is not None:
                    event = replaced(event, bytes(value), name)
            return self._with_totals(event)

        return edited(piece, edit)

    def _edit_last(self, piece: bytes) -> bytes:
        if self._ends_for_nothing:
            piece = edited(piece, _without_reason)
        return self._as_of_first(piece)

    @property
    def _ends_for_nothing(self) -> bool:
        """Whether the answer ends with calls of which the client sees none."""
        return self._stop_reason == "tool_calls" and not self._client_has_calls

    # -- blocking answers

    def _read_answer(self, answer: Object) -> None:
        self._read_usage(answer)
        for item in items(answer.get("choices"))[:1]:
            choice = members(item)
            self._stop_reason = finish_reason(text(choice.get("finish_reason")))
            calls = items(members(choice.get("message")).get("tool_calls"))
            self._client_has_calls = not all(map(self._is_injected, calls))

    def _edit_body(self, body: bytes) -> bytes:
        whole = edited_elements(body, self._without_injected, "choices")
        if whole != body and self._ends_for_nothing:
            whole = _without_reason(whole)
        return self._with_totals(whole)

    def _without_injected(self, choice: bytes) -> bytes:
        def edit(call: bytes) -> bytes | None:
            return None if self._is_injected(call) else call

        left = edited_elements(choice, edit, "message", "tool_calls")
        if left == choice or items(members(members(left)["message"])["tool_calls"]):
            return left
        return delete_member(left, "message", "tool_calls")

    def _is_injected(self, call: bytes | msgspec.Raw) -> bool:
        return text(members(members(call).get("function")).get("name")) in self.tools

    # -- both

    def _read_usage(self, document: Object) -> None:
        """Take the usage that a chunk or a completion tells, wherever its vendor puts it."""
        for choice in items(document.get("choices"))[:1]:
            self._totals.take(members(choice).get("usage"))
        self._totals.take(members(document.get("x_groq")).get("usage"))
        self._totals.take(document.get("usage"))

    def _with_totals(self, document: bytes) -> bytes:
        """The document with the usage of all completions in each of these places."""
        if self.rounds == 1:
            return document
        document = self._totals.added_to(document, "usage")
        document = self._totals.added_to(document, "x_groq", "usage")
        return edited_elements(
            document, lambda choice: self._totals.added_to(choice, "usage"), "choices"
        )

    def _wants_results(self) -> bool:
        return self._stop_reason not in _CUT_SHORT

    def _next_body(self, answered: Sequence[tuple[InjectedCall, ToolResult]]) -> bytes:
        if self.event_stream:
            said = message_of(self._pieces)
        else:
            choices = items(members(self.answer_body).get("choices"))
            said = bytes(members(choices[0])["message"])
        said, ids = with_whole_calls(said, f"call_{self.rounds}_")
        nameless = iter([id for id in ids if id not in {call.id for call, _ in answered}])
        results = [
            msgspec.json.encode(
                {
                    "role": "tool",
                    "tool_call_id": call.id or next(nameless, ""),
                    "content": result.as_json().decode(),
                }
            )
            for call, result in answered
        ]
        return add_elements(self.body, b",".join([said, *results]), "messages")


def _without_reason(document: bytes) -> bytes:
    """The document with choices that just stop, instead of for calls that nobody sees."""
    return edited_elements(
        document, lambda choice: replaced(choice, b'"stop"', "finish_reason"), "choices"
    )
