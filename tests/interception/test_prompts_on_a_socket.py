"""A conversation on a WebSocket has the checksums that it has when all of it is sent again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigateway.actors.interception.fingerprint import fingerprint
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.interception.responses_socket import SocketResponse, open_response
from aigateway.actors.interception.routes import RESPONSES
from aigateway.actors.interception.socket_prompts import SocketPrompts

KEY = b"k" * 32
TOOLS = {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": []}
FUNCTION = {"type": "function", "name": "look"}
THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"}


def said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def answer(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_9", "status": "completed", "role": "assistant",
            "content": content}  # fmt: skip


BASE, SKILLS, ONE = said("developer", "You are Codex"), said("developer", "s"), said("user", "one")


def told(id: str, *output: dict[str, Any], at_end: bool = False) -> list[dict[str, Any]]:
    """The events of a response; its items are told one by one, or at its end alone."""
    response = {"id": id, "status": "completed", "output": list(output) if at_end else []}
    items = [{"type": "response.output_item.done", "item": each} for each in output]
    begun = {"type": "response.created", "response": {"id": id}}
    return [begun, *([] if at_end else items), {"type": "response.completed", "response": response}]


def begin(prompts: SocketPrompts, *given: Any, **more: Any) -> tuple[SocketResponse, bytes]:
    asked = {"type": "response.create", "model": "m", "input": list(given), **more}
    response = open_response("i", json.dumps(asked).encode())
    assert response.written is not None
    return response, prompts.fingerprint(KEY, response.written, response)


def ask(prompts: SocketPrompts, *given: Any, events: list[dict[str, Any]], **more: Any) -> bytes:
    """Ask on the connection, and have it answered; the checksums of what the model read."""
    response, found = begin(prompts, *given, **more)
    for each in events:
        response.receive_data(json.dumps(each).encode(), 1.0)
    prompts.answered(response)
    return found


def whole(*given: Any, **more: Any) -> bytes:
    """Of a request that has all of it."""
    body = json.dumps({"model": "m", "input": list(given), **more}).encode()
    written = open_interception(RESPONSES, id="i", body=body).written
    assert written is not None
    return fingerprint(KEY, written)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    ("prepared", "first", "more"),
    [
        (None, [TOOLS, BASE, SKILLS, ONE], {}),
        ([], [TOOLS, BASE, SKILLS, ONE], {}),
        ([TOOLS], [BASE, SKILLS, ONE], {}),
        ([TOOLS, BASE], [SKILLS, ONE], {}),
        ([], [BASE, SKILLS, ONE], {"tools": [FUNCTION]}),
        ([BASE], [SKILLS, ONE], {"tools": [FUNCTION]}),
        ([], [ONE], {"tools": [FUNCTION], "instructions": "be brief"}),
    ],
)
def test_what_goes_on_from_a_response_begins_with_its_prompt_and_its_output(
    prepared: list[Any] | None, first: list[Any], more: dict[str, Any], at_end: bool
) -> None:
    prompts = SocketPrompts()
    before: dict[str, Any] = {}
    if prepared is not None:
        assert ask(prompts, *prepared, events=told("r0"), generate=False, **more) == b""
        before = {"previous_response_id": "r0"}
    start = [*(prepared or []), *first]
    events = told("r1", THOUGHT, answer("yes"), at_end=at_end)
    assert ask(prompts, *first, events=events, **before, **more) == whole(*start, **more)
    two = said("user", "two")
    found = ask(prompts, two, events=told("r2"), previous_response_id="r1", **more)
    again = {**THOUGHT, "content": None}
    assert found == whole(*start, again, answer("yes"), two, **more)


def test_tools_that_are_added_later_are_told_where_they_come() -> None:
    prompts = SocketPrompts()
    ask(prompts, TOOLS, BASE, ONE, events=told("r1", answer("yes")))
    found = ask(prompts, TOOLS, events=told("r2"), previous_response_id="r1")
    assert found == whole(TOOLS, BASE, ONE, answer("yes"), TOOLS)


@pytest.mark.parametrize(
    "more", [{"previous_response_id": "r9"}, {"conversation": "c"}, {"input": "one"}]
)
def test_what_is_not_known_here_has_no_checksums(more: dict[str, Any]) -> None:
    prompts = SocketPrompts()
    ask(prompts, ONE, events=told("r1"))
    asked = {"type": "response.create", "model": "m", "input": [ONE], **more}
    response = open_response("i", json.dumps(asked).encode())
    if response.written is not None:
        assert prompts.fingerprint(KEY, response.written, response) == b""


def test_nothing_goes_on_from_a_response_that_was_not_told() -> None:
    prompts = SocketPrompts()
    response, _found = begin(prompts, ONE)
    prompts.answered(response)
    assert begin(prompts, ONE, previous_response_id="r1")[1] == b""


def test_a_connection_remembers_a_bounded_number_of_responses() -> None:
    prompts = SocketPrompts()
    for number in range(100):
        ask(prompts, ONE, events=told(f"r{number}"))
    found = [begin(prompts, ONE, previous_response_id=f"r{number}")[1] for number in range(100)]
    assert found[-1] != b""
    assert 0 < sum(each != b"" for each in found) < 50
