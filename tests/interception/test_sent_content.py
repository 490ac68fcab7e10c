"""What is sent to models, as parts and chains: told once, however often it is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from interception_answers import REQUESTS
from interception_driver import open_one

from aigateway.actors.interception.sent_content import LIVES, PART_LIMIT, Sent, ToldContent
from aigateway.actors.values.records import ContentLink, ContentPart

KEY = b"k" * 32
NOW = 1_700_000_000.0
MARK = {"type": "ephemeral"}


def sent(
    told: ToldContent,
    body: Any,
    *,
    api: str = "messages",
    user: str = "u-1",
    now: float = NOW,
    key: bytes = KEY,
    stored: bool = True,
) -> Sent:
    # As clients write it.
    written = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    opened: Any = open_one(api, written)
    found = told.sent(key, user, "int-1", opened.written, now)
    if stored:
        told.remember(found.names, now)
    return found


def parts(found: Sent) -> list[ContentPart]:
    return [part for record in found.records for part in record.parts]


def links(found: Sent) -> list[ContentLink]:
    return [link for record in found.records for link in record.links]


def texts(found: Sent) -> list[Any]:
    return [json.loads(part.text) for part in parts(found)]


def turns(*said: str, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": [{"type": "text", "text": text}]}
        for place, text in enumerate(said)
    ]
    return {
        "model": "m",
        "system": "be brief",
        "tools": [{"name": "Bash"}],
        "messages": messages,
    } | more


def test_a_prompt_is_told_in_the_order_in_which_it_is_cached() -> None:
    found = sent(ToldContent(), turns("a", "b", "c"))
    assert [part.kind for part in parts(found)] == ["tools", "system", *["message"] * 3]
    assert texts(found) == [[{"name": "Bash"}], "be brief", *turns("a", "b", "c")["messages"]]
    chain = links(found)
    assert [link.part for link in chain] == [part.id for part in parts(found)]
    assert [link.before for link in chain] == [b"", *(link.id for link in chain[:-1])]
    assert found.records[-1].last == chain[-1].id


def test_what_a_session_sends_again_is_not_told_again() -> None:
    told = ToldContent()
    sent(told, turns("a"))
    second = sent(told, turns("a", "b", "c"))
    assert texts(second) == turns("a", "b", "c")["messages"][1:]
    assert len(links(second)) == 2
    again = sent(told, turns("a", "b", "c"))
    assert (parts(again), links(again)) == ([], [])
    assert again.records[-1].last == second.records[-1].last


def test_marks_that_move_on_make_no_other_parts() -> None:
    told = ToldContent()
    marked = turns("a")
    marked["messages"][-1]["content"][-1]["cache_control"] = MARK
    sent(told, marked)
    second = turns("a", "b", "c")
    second["messages"][-1]["content"][-1]["cache_control"] = MARK
    second["messages"][0]["content"] = "a"
    found = sent(told, second)
    assert texts(found) == turns("a", "b", "c")["messages"][1:]


def test_an_edit_tells_the_edited_part_alone_and_the_rest_of_the_chain() -> None:
    told = ToldContent()
    sent(told, turns("a", "b", "c"))
    found = sent(told, turns("a", "edited", "c"))
    assert [each["content"][0]["text"] for each in texts(found)] == ["edited"]
    assert len(links(found)) == 2


def test_what_is_not_on_disk_yet_is_told_again() -> None:
    told = ToldContent()
    sent(told, turns("a"), stored=False)
    assert len(parts(sent(told, turns("a")))) == 3


def test_what_was_not_of_use_for_long_is_told_again() -> None:
    told = ToldContent()
    sent(told, turns("a"))
    assert parts(sent(told, turns("a"), now=NOW + LIVES - 1)) == []
    assert parts(sent(told, turns("a"), now=NOW + 2 * LIVES - 2)) == []
    assert len(parts(sent(told, turns("a"), now=NOW + 3 * LIVES))) == 3
    # A clock that was set back tells nothing of how long ago that was.
    assert len(parts(sent(told, turns("a"), now=NOW))) == 3


def test_nobody_has_parts_of_the_names_of_anybody_elses() -> None:
    told = ToldContent()
    names = [
        set(sent(told, turns("a"), **whose).names)
        for whose in ({}, {"user": "u-2"}, {"key": b"another"})
    ]
    assert [len(each) for each in names] == [6, 6, 6]
    assert not names[0] & (names[1] | names[2])


def test_the_same_message_twice_is_one_part_and_two_links() -> None:
    found = sent(ToldContent(), turns("a", "b", "a"))
    assert len(parts(found)) == 4
    assert len(links(found)) == 5
    assert links(found)[2].part == links(found)[4].part


def test_a_long_part_is_cut_and_tells_its_size() -> None:
    found = sent(ToldContent(), turns("é" * PART_LIMIT))
    part = parts(found)[-1]
    assert part.size > 2 * PART_LIMIT
    assert len(part.text.encode()) <= PART_LIMIT + 3
    assert part.text.startswith('{"role":"user"')


def test_a_long_conversation_is_told_in_several_records_that_are_not_large() -> None:
    found = sent(ToldContent(), turns(*(f"{n} " + "x" * 10_000 for n in range(200))))
    sizes = [sum(len(part.text) for part in record.parts) for record in found.records]
    assert len(sizes) > 5
    assert max(sizes) < 300_000
    assert [bool(record.last) for record in found.records] == [False] * (len(sizes) - 1) + [True]
    assert len(links(found)) == 202


def listed(found: Sent) -> Sequence[str]:
    return [part.kind for part in parts(found)]


@pytest.mark.parametrize("api", REQUESTS)
def test_the_prompt_of_each_api_is_told(api: str) -> None:
    body: dict[str, Any] = {
        "messages": turns("a"),
        "chat-completions": {
            "model": "m",
            "tools": [{"type": "function"}],
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
        },
        "responses": {
            "model": "m",
            "tools": [{"type": "function"}],
            "instructions": "s",
            "input": [{"role": "user", "content": "a"}],
        },
        "gemini": {
            "tools": [{"functionDeclarations": []}],
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "a"}]}],
        },
    }[api]
    second = "message" if api == "chat-completions" else "system"
    assert listed(sent(ToldContent(), body, api=api)) == ["tools", second, "message"]


def test_of_a_response_that_goes_on_what_is_sent_is_told() -> None:
    body = {
        "model": "m",
        "previous_response_id": "resp_1",
        "input": [{"type": "function_call_output", "call_id": "c", "output": "o"}],
    }
    assert listed(sent(ToldContent(), body, api="responses")) == ["message"]


def test_a_prompt_of_nothing_has_no_record() -> None:
    assert sent(ToldContent(), {"model": "m"}).records == ()


def test_no_more_names_are_remembered_than_there_is_room_for() -> None:
    told = ToldContent()
    for number in range(40):
        sent(told, turns(*(f"{number}-{n}" for n in range(1000))))
    assert len(told._told) <= 65_536
