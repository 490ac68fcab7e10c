"""Calls whose arguments come in many parts: known again unread, and to the same effect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_injected_rounds import APIS, NOW, opened

from aigateway.actors.interception import injected_chat
from aigateway.actors.interception._pattern import Pattern
from aigateway.actors.values.records import ToolUsage

CHAT = APIS[1]
PARTS = 40


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "g", "choices": [choice]}
    return b"data: " + json.dumps({**chunk, **more}).encode() + b"\n\n"


def _part(arguments: str, index: int = 0, name: str = "", id: str = "", **more: Any) -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    call = {"index": index, **({"id": id} if id else {}), "function": function}
    return _chunk({"tool_calls": [call], **more})


def _call(index: int, name: str, id: str, **each: Any) -> list[bytes]:
    """A call of which only the first part says all, then many of text; ``each`` is in all."""
    texts = [text for number in range(PARTS) for text in (f'"{number} \\\\ é ', '", ')]
    parts = [_part('{"a": 1, "b": [', index, name, id, **each)]
    parts += [_part(text, index, **each) for text in texts]
    return [*parts, _part('""]}', index, **each)]


_ROLE = {"role": "assistant", "content": ""}
_INJECTED, _OWN = "bmcp_s_add", "mine"
DIALECTS: dict[str, list[bytes]] = {
    "one of the client's": [_chunk(_ROLE), *_call(0, _OWN, "a")],
    "one that is injected": [_chunk(_ROLE), *_call(0, _INJECTED, "a")],
    "the client's, then injected": [
        _chunk(_ROLE),
        *_call(0, _OWN, "a"),
        *_call(1, _INJECTED, "b"),
    ],
    "injected, then the client's": [
        _chunk(_ROLE),
        *_call(0, _INJECTED, "a"),
        *_call(1, _OWN, "b"),
        _chunk({"content": "and text"}),
        *_call(2, _OWN, "c"),
    ],
    "all have the number 0": [
        _chunk(_ROLE),
        *_call(0, _OWN, "a"),
        *_call(0, _INJECTED, "b"),
        *_call(0, _OWN, "c"),
    ],
    "the role in each": [
        *_call(0, _OWN, "a", role="assistant"),
        *_call(1, _INJECTED, "b", role="assistant"),
        *_call(2, _OWN, "c", role="assistant"),
    ],
    "name and id in each": [
        _chunk(_ROLE),
        *[_part(text, 0, _OWN, "a") for text in ("{", *'"x": "yyyyyyyy"', "}")],
        *[_part(text, 0, _INJECTED, "b") for text in ("{", *'"x": "yyyyyyyy"', "}")],
        *[_part(text, 0, _OWN, "c") for text in ("{", *'"x": "yyyyyyyy"', "}")],
    ],
    "role, name and id in each": [
        *[_part(text, 0, _OWN, "a", role="assistant") for text in ("{", *'"x": "yyyyyy"', "}")],
        *[_part(text, 1, _INJECTED, "b", role="assistant") for text in ("{", *'"x": "y"', "}")],
        *[_part(text, 2, _OWN, "c", role="assistant") for text in ("{", *'"x": "yyyyyy"', "}")],
    ],
    "the name in each, without an id": [
        _chunk(_ROLE),
        *[_part(text, 0, _OWN) for text in ("{", *'"x": "yyyyyyyy"', "}")],
        *[_part("{}", 0, _INJECTED) for _ in range(5)],
        *[_part("{}", 0, _OWN) for _ in range(5)],
    ],
    "by turns": [
        _chunk(_ROLE),
        *[
            part
            for both in zip(_call(0, _OWN, "a"), _call(1, _INJECTED, "b"), strict=True)
            for part in both
        ],
    ],
}


def _run(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, str | None]], list[str]]:
    loop = opened(CHAT, True)
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    end = [_chunk({}, "tool_calls"), b"data: [DONE]\n\n"]
    client = b"".join(loop.receive_data(piece, NOW) for piece in [*pieces, *end])
    client += loop.receive_end(NOW)
    called = [(call.tool, call.arguments) for call in loop.calls]
    tools = [each for each in loop.take_records() if isinstance(each, ToolUsage)]
    assert loop.edit_faults == 0
    return client, called, [f"{each.tool} {each.input}" for each in tools]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_parts_that_are_known_again_are_treated_as_those_that_are_read(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly = _run(DIALECTS[dialect])
    monkeypatch.setattr(Pattern, "fits", lambda _self, _piece: False)
    assert quickly == _run(DIALECTS[dialect])


@pytest.mark.parametrize("dialect", ["one of the client's", "one that is injected"])
def test_most_parts_of_a_call_are_not_read(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = injected_chat.read_call_part
    monkeypatch.setattr(
        injected_chat, "read_call_part", lambda part: read.append(1) or original(part)
    )
    _run(DIALECTS[dialect])
    assert 0 < len(read) < 12


def test_a_client_gets_its_own_call_byte_by_byte() -> None:
    pieces = DIALECTS["one of the client's"]
    client, called, _ = _run(pieces)
    assert b"".join(pieces) in client
    assert called == []
