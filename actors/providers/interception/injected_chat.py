"""OpenAI's Chat Completions API with injected tools: many completions, one for the client.

In a stream all chunks carry the first completion's id, the role comes once, and the usage
chunk holds what all completions used.  A blocking client gets the last completion, with the
usage of all.  There is one choice: requests for more get no tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from attrs import frozen

from aigateway.actors.providers.interception._chat_message import message_of
from aigateway.actors.providers.interception._event_edits import edited, replaced
from aigateway.actors.providers.interception._recording import Request
from aigateway.actors.providers.interception.chat import ChatInterception
from aigateway.actors.providers.interception.injected import (
    InjectedCall,
    InjectedInterception,
    RoundReading,
)
from aigateway.actors.providers.interception.reading import (
    Object,
    count,
    is_null,
    items,
    members,
    text,
)
from aigateway.actors.providers.interception.relay import Relay
from aigateway.actors.providers.interception.routes import CHAT_COMPLETIONS, Api
from aigateway.actors.providers.interception.splice import (
    add_elements,
    delete_member,
    set_member,
)
from aigateway.actors.providers.interception.sse import parse_event
from aigateway.actors.providers.interception.tools import ToolResult

__all__ = ["InjectedChat"]

_COUNTS: tuple[tuple[str, ...], ...] = (
    ("prompt_tokens",),
    ("completion_tokens",),
    ("total_tokens",),
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_tokens_details", "audio_tokens"),
    ("completion_tokens_details", "reasoning_tokens"),
    ("completion_tokens_details", "audio_tokens"),
    ("completion_tokens_details", "accepted_prediction_tokens"),
    ("completion_tokens_details", "rejected_prediction_tokens"),
)
_CUT_SHORT = ("length", "content_filter")


@frozen
class _Call:
    """A call that is arriving in parts."""

    id: str
    name: str
    number: int | None
    """Which number the client sees for it; None: it does not see it."""

    def ends_with(self, part: Object) -> bool:
        """Whether a part with the same number is the first one of another call.

        Some providers number all their calls 0; others repeat the name in each part.
        """
        another = text(part.get("id")) not in (None, "", self.id)
        return another and bool(_name_of(part)) and bool(self.name)


class _Round(RoundReading, ChatInterception):
    """Reads one of the completions."""


class InjectedChat(InjectedInterception):
    """One request to the Chat Completions API, its injected calls, and their answers."""

    api: ClassVar[Api] = CHAT_COMPLETIONS
    _round: _Round

    # Of the answer that the client gets.
    _id: msgspec.Raw | None = None
    _created: msgspec.Raw | None = None
    _role_said = False
    _withholds = False
    _next_call = 0
    _used: dict[tuple[str, ...], int]

    def _make_round(self, first: Relay | None) -> Relay:
        if first is not None:
            assert isinstance(first, ChatInterception)
            self._withholds = first._withholds
            self._used = {}
        else:
            self._add_usage(self._usage)
        request = Request(
            id=self.id,
            body=b"",
            model=self.model,
            streaming=self.streaming,
            prompt=None if first is None else first._prompt,
        )
        self._pieces: list[bytes] = []
        self._kept_back: list[bytes] = []
        self._hides = False
        self._calls: dict[int, _Call] = {}
        self._finish_reason = ""
        self._client_tools = False
        self._usage: Object = {}
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
        # PERF: nearly all chunks of a first completion carry text and leave as they came.
        if (
            self._role_said
            and self.rounds == 1
            and not self._hides
            and b'"tool_calls"' not in piece
            and b'_tokens"' not in piece
        ):
            return piece
        _name, data = parse_event(piece)
        if data.startswith(b"[DONE]"):
            return self._keep_back(piece) if self._hides else piece
        chunk = members(data)
        if "choices" not in chunk:
            return piece
        return self._edit_chunk(piece, chunk)

    def _keep_back(self, piece: bytes) -> bytes:
        self._kept_back.append(piece)
        return b""

    def _edit_chunk(self, piece: bytes, chunk: Object) -> bytes:
        if self._id is None:
            self._id, self._created = chunk.get("id"), chunk.get("created")
        usage = members(chunk.get("usage"))
        if usage:
            self._usage = usage
        choices = items(chunk["choices"])
        if not choices:
            if self._hides:
                return self._keep_back(piece)
            return b"" if self._withholds and usage else self._as_of_first(piece)
        left, finishes = [], False
        for choice in choices:
            fields = members(choice)
            reason = text(fields.get("finish_reason"))
            kept = self._edit_choice(bytes(choice), fields)
            if reason is not None:
                self._finish_reason, finishes = reason, True
                kept = kept or bytes(choice)
            if kept:
                left.append(kept)
        if not left:
            return b""
        if left != list(map(bytes, choices)):
            piece = edited(
                piece, lambda event: replaced(event, b"[" + b",".join(left) + b"]", "choices")
            )
        return self._keep_back(piece) if finishes and self._hides else self._as_of_first(piece)

    def _edit_choice(self, choice: bytes, fields: Object) -> bytes:
        """The choice without what is not for the client; empty when nothing is left."""
        delta = members(fields.get("delta"))
        given = items(delta.get("tool_calls"))
        calls = [each for call in given if (each := self._edit_call(call))]
        changed = calls != list(map(bytes, given))
        if changed and calls:
            choice = set_member(choice, b"[" + b",".join(calls) + b"]", "delta", "tool_calls")
        elif changed:
            choice = delete_member(choice, "delta", "tool_calls")
        if "role" in delta:
            if self._role_said:
                choice = delete_member(choice, "delta", "role")
                delta = {name: value for name, value in delta.items() if name != "role"}
            self._role_said = True
        if changed and not calls:
            said = [v for n, v in delta.items() if n != "tool_calls" and not is_null(v)]
            return choice if said else b""
        return choice

    def _edit_call(self, part_of_call: msgspec.Raw) -> bytes:
        part = members(part_of_call)
        index = count(part.get("index"))
        call = self._calls.get(index)
        if call is None or call.ends_with(part):
            call = self._calls[index] = self._begin_call(part)
        if call.number is None:
            return b""
        if call.number == index:
            return bytes(part_of_call)
        return replaced(bytes(part_of_call), b"%d" % call.number, "index")

    def _begin_call(self, part: Object) -> _Call:
        name = _name_of(part)
        if name in self.tools:
            self._hides = True
            return _Call(text(part.get("id")) or "", name, None)
        self._client_tools = True
        self._next_call += 1
        return _Call(text(part.get("id")) or "", name, self._next_call - 1)

    def _as_of_first(self, piece: bytes) -> bytes:
        """The chunk as one of the client's completion."""
        if self.rounds == 1:
            return piece

        def edit(event: bytes) -> bytes:
            for name, value in (("id", self._id), ("created", self._created)):
                if value is not None:
                    event = replaced(event, bytes(value), name)
            return self._with_whole_usage(event)

        return edited(piece, edit)

    def _with_whole_usage(self, document: bytes) -> bytes:
        usage = members(members(document).get("usage"))
        if not usage or self.rounds == 1:
            return document
        for path in _COUNTS:
            total = self._used.get(path, 0) + _count_at(usage, path)
            document = replaced(document, b"%d" % total, "usage", *path)
        return document

    def _end_stream(self) -> bytes:
        out = b""
        for piece in self._kept_back:
            _name, data = parse_event(piece)
            chunk = members(data)
            if self._withholds and "usage" in chunk and not items(chunk.get("choices")):
                continue
            if self._ends_for_nothing():
                piece = edited(piece, _without_reason)
            out += self._as_of_first(piece)
        self._kept_back.clear()
        return out

    def _ends_for_nothing(self) -> bool:
        """Whether the answer ends with calls of which the client sees none."""
        return self._finish_reason == "tool_calls" and not self._client_tools

    # -- blocking answers

    def _end_body(self, body: bytes) -> bytes:
        answer = members(body)
        self._read_answer(answer)
        body = self._with_whole_usage(body)
        choices = list(map(bytes, items(answer.get("choices"))))
        left = [self._without_injected(choice) for choice in choices]
        if left != choices:
            body = set_member(body, b"[" + b",".join(left) + b"]", "choices")
            if self._ends_for_nothing():
                body = _without_reason(body)
        return body

    def _without_injected(self, choice: bytes) -> bytes:
        given = items(members(members(choice).get("message")).get("tool_calls"))
        calls = [bytes(call) for call in given if not self._is_injected(members(call))]
        if len(calls) == len(given):
            return choice
        if not calls:
            return delete_member(choice, "message", "tool_calls")
        return set_member(choice, b"[" + b",".join(calls) + b"]", "message", "tool_calls")

    def _read_answer(self, answer: Object) -> None:
        """Take from a blocking answer what a stream tells by and by."""
        self._usage = members(answer.get("usage"))
        for item in items(answer.get("choices"))[:1]:
            choice = members(item)
            self._finish_reason = text(choice.get("finish_reason")) or ""
            for call in items(members(choice.get("message")).get("tool_calls")):
                if not self._is_injected(members(call)):
                    self._client_tools = True

    def _is_injected(self, call: Object) -> bool:
        return text(members(call.get("function")).get("name")) in self.tools

    # -- both

    def _wants_results(self) -> bool:
        if not self.event_stream:
            self._read_answer(members(self.answer_body))
        return self._finish_reason not in _CUT_SHORT

    def _add_usage(self, usage: Object) -> None:
        for path in _COUNTS:
            self._used[path] = self._used.get(path, 0) + _count_at(usage, path)

    def _next_body(
        self, answered: Sequence[tuple[InjectedCall, ToolResult]], tools_off: bool
    ) -> bytes:
        if self.event_stream:
            said = message_of(self._pieces)
        else:
            choices = items(members(self.answer_body).get("choices"))
            said = bytes(members(choices[0])["message"])
        results = [
            msgspec.json.encode(
                {"role": "tool", "tool_call_id": call.id, "content": result.as_json().decode()}
            )
            for call, result in answered
        ]
        body = add_elements(self.body, b",".join([said, *results]), "messages")
        return set_member(body, b'"none"', "tool_choice") if tools_off else body


def _count_at(usage: Object, path: tuple[str, ...]) -> int:
    for name in path[:-1]:
        usage = members(usage.get(name))
    return count(usage.get(path[-1]))


def _without_reason(document: bytes) -> bytes:
    """The document with choices that just stop, instead of for calls that nobody sees."""
    choices = [
        replaced(bytes(choice), b'"stop"', "finish_reason")
        for choice in items(members(document).get("choices"))
    ]
    return replaced(document, b"[" + b",".join(choices) + b"]", "choices") if choices else document


def _name_of(part: Object) -> str:
    given = part.get("custom", part.get("function"))
    return text(members(given).get("name")) or ""
