"""OpenAI's Chat Completions API with injected tools: many completions, one for the client.

In a stream all chunks carry the first completion's id, the role comes once, and the usage
chunk holds what all completions used.  A blocking client gets the last completion, with the
usage of all.  There is one choice: requests for more get no tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import msgspec
from attrs import define, field

from aigateway.actors.codec.reading import (
    Object,
    is_null,
    items,
    members,
    number,
    text,
)
from aigateway.actors.codec.splice import (
    add_elements,
    delete_member,
    set_member,
)
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._chat_calls import OpenCall
from aigateway.actors.interception._chat_chunk import (
    CallPart,
    finish_reason,
    read_call_part,
)
from aigateway.actors.interception._chat_message import message_of, with_whole_calls
from aigateway.actors.interception._event_edits import edited, replaced
from aigateway.actors.interception._recording import Request
from aigateway.actors.interception.chat import ChatInterception
from aigateway.actors.interception.injected import (
    InjectedCall,
    InjectedInterception,
    RoundReading,
)
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import CHAT_COMPLETIONS, Api
from aigateway.actors.interception.tools import ToolResult

__all__ = ["InjectedChat"]

_CUT_SHORT = ("length", "content_filter")


@define
class _Call:
    """A call that is arriving in parts."""

    number: int | None
    """Which number the client sees for it; None: it does not see it."""
    open: OpenCall = field(factory=OpenCall)


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
    _used: _Numbers

    def _make_round(self, first: Relay | None) -> Relay:
        if first is not None:
            assert isinstance(first, ChatInterception)
            self._withholds = first._withholds
            self._used = {}
        else:
            self._used = {
                path: self._used.get(path, 0) + self._usage.get(path, 0)
                for path in self._used.keys() | self._usage.keys()
            }
        request = Request(
            id=self.id,
            body=b"",
            model=self.model,
            streaming=self.streaming,
            prompt=None if first is None else first._prompt,
            prompt_kind=None if first is None else first._prompt_kind,
        )
        self._pieces: list[bytes] = []
        self._kept_back: list[bytes] = []
        self._hides = False
        self._calls: dict[int, _Call] = {}
        self._finish_reason = ""
        self._client_tools = False
        self._usage: _Numbers = {}
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
        self._usage |= _told_by(chunk)
        choices = items(chunk["choices"])
        if not choices:
            if self._hides:
                return self._keep_back(piece)
            withheld = self._withholds and members(chunk.get("usage"))
            return b"" if withheld else self._as_of_first(piece)
        left, finishes = [], False
        for choice in choices:
            fields = members(choice)
            reason = finish_reason(text(fields.get("finish_reason")))
            kept = self._edit_choice(bytes(choice), fields)
            if reason:
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
        part = read_call_part(part_of_call)
        index = max(part.index or 0, 0)
        call = self._calls.get(index)
        if call is None or call.open.ends_before(part):
            call = self._calls[index] = self._begin_call(part)
        call.open.add(part)
        if call.number is None:
            return b""
        if call.number == index:
            return bytes(part_of_call)
        return replaced(bytes(part_of_call), b"%d" % call.number, "index")

    def _begin_call(self, part: CallPart) -> _Call:
        if part.name in self.tools:
            self._hides = True
            return _Call(None)
        self._client_tools = True
        self._next_call += 1
        return _Call(self._next_call - 1)

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
        """The document with the usage of all completions, wherever its vendor puts it."""
        if self.rounds == 1:
            return document
        document = self._added(self._added(document, "usage"), "x_groq", "usage")
        choices = list(map(bytes, items(members(document).get("choices"))))
        added = [self._added(choice, "usage") for choice in choices]
        if added == choices:
            return document
        return replaced(document, b"[" + b",".join(added) + b"]", "choices")

    def _added(self, document: bytes, *place: str) -> bytes:
        for path, value in _numbers(_at(members(document), place)).items():
            if before := self._used.get(path):
                total = msgspec.json.encode(before + value)
                document = replaced(document, total, *place, *path)
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
        self._usage = _told_by(answer)
        for item in items(answer.get("choices"))[:1]:
            choice = members(item)
            self._finish_reason = finish_reason(text(choice.get("finish_reason")))
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

    def _next_body(
        self, answered: Sequence[tuple[InjectedCall, ToolResult]], tools_off: bool
    ) -> bytes:
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
        body = add_elements(self.body, b",".join([said, *results]), "messages")
        return set_member(body, b'"none"', "tool_choice") if tools_off else body


_Numbers: TypeAlias = dict[tuple[str, ...], int | float]
"""The numbers of a usage object by the names that lead to them."""


def _told_by(document: Object) -> _Numbers:
    """The usage that a chunk or a completion tells, wherever its vendor puts it."""
    told: _Numbers = {}
    for choice in items(document.get("choices"))[:1]:
        told |= _numbers(members(members(choice).get("usage")))
    told |= _numbers(_at(document, ("x_groq", "usage")))
    return told | _numbers(members(document.get("usage")))


def _numbers(usage: Object) -> _Numbers:
    found: _Numbers = {}
    for name, raw in usage.items():
        value = number(raw)
        if value is not None:
            found[(name,)] = value
            continue
        found |= {(name, *path): n for path, n in _numbers(members(raw)).items()}
    return found


def _at(document: Object, place: Sequence[str]) -> Object:
    for name in place:
        document = members(document.get(name))
    return document


def _without_reason(document: bytes) -> bytes:
    """The document with choices that just stop, instead of for calls that nobody sees."""
    choices = [
        replaced(bytes(choice), b'"stop"', "finish_reason")
        for choice in items(members(document).get("choices"))
    ]
    return replaced(document, b"[" + b",".join(choices) + b"]", "choices") if choices else document
