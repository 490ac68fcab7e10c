"""A request's body is read once, and means what its members mean one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec import reading
from aigateway.actors.codec.reading import NotJson, is_json, read_once
from aigateway.actors.interception import (
    InvalidRequest,
    anthropic_messages,
    chat,
    open_interception,
    responses,
)
from aigateway.actors.interception.conversation import affinity_of
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    COMPACTION,
    MESSAGES,
    RESPONSES,
    Api,
)
from aigateway.actors.interception.stored_ids import ids_in_body, is_stored

APIS: list[Api] = [MESSAGES, CHAT_COMPLETIONS, RESPONSES, COMPACTION]
MODULES: dict[Api, tuple[Any, str]] = {
    MESSAGES: (anthropic_messages, "_body"),
    CHAT_COMPLETIONS: (chat, "_body"),
    RESPONSES: (responses, "_decode"),
    COMPACTION: (responses, "_decode"),
}

_texts = st.sampled_from(
    ["hi", "", " ", "caf\xe9", "\ud83d", "<system-reminder>x</system-reminder>"]
)
_any = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.just(10**30), _texts)
_roles = st.sampled_from(["user", "assistant", "system", "developer", "tool", None, 7])
_parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "input_text", "tool_result", "image", None]),
        "text": _texts | st.none(),
        "tool_use_id": _texts,
        "source": st.just({"type": "file", "file_id": "file_1"}),
        "container": _texts,
    },
)
_messages = st.fixed_dictionaries(
    {},
    optional={
        "role": _roles,
        "type": st.sampled_from(["message", "function_call_output", "reasoning", None]),
        "content": _texts | st.lists(_parts, max_size=3) | _any,
        "tool_call_id": _any,
        "call_id": _any,
        "encrypted_content": _texts,
    },
)
_conversations = st.lists(_messages | _any, max_size=4) | _any
_tools = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["function", "custom", "file_search", None]),
            "vector_store_ids": st.lists(_texts, max_size=1),
            "container": _texts | st.just({"type": "auto", "file_ids": ["f"]}),
        },
    )
    | _any,
    max_size=2,
)
_fields: dict[str, st.SearchStrategy[Any]] = {
    "model": _any,
    "messages": _conversations,
    "input": _conversations,
    "system": _texts | st.lists(_parts, max_size=2) | _any,
    "instructions": _any,
    "stream": _any | st.sampled_from(["true", "1", "F"]),
    "stream_options": _any
    | st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | _any}),
    "n": _any | st.just(2.0),
    "background": _any | st.just("T"),
    "tools": _tools | _any,
    "container": _any | st.just({"skills": [{"x": 1}], "id": "c"}),
    "previous_response_id": _any,
    "conversation": _any | st.just({"id": "conv_1"}),
    "store": _any,
    "other": _any,
}


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """An object of such members, some of them more than once, as clients may write it."""
    names = draw(st.lists(st.sampled_from(sorted(_fields)), max_size=9))
    blank = draw(st.sampled_from(["", " ", "\n\t"]))
    written = []
    for name in names:
        value = json.dumps(draw(_fields[name]), ensure_ascii=draw(st.booleans()))
        quoted = json.dumps(name)
        if draw(st.booleans()):
            quoted = quoted.replace("o", "\\u006f").replace("s", "\\u0073")
        written.append(f"{blank}{quoted}{blank}:{blank}{value}{blank}")
    document = blank + "{" + ",".join(written) + "}" + blank
    return document.encode("utf-8", "surrogatepass")


def _said(api: Api, body: bytes) -> dict[str, Any] | tuple[int, bytes]:
    """What is known of a request after it was opened, or how it is refused."""
    try:
        opened = open_interception(api, id="i", body=body)
    except InvalidRequest as ex:
        return ex.status, ex.body
    found = {name: getattr(opened, name) for name in ("_prompt", "_prompt_kind", "model")}
    found |= {name: getattr(opened, name) for name in ("streaming", "refusal")}
    opening = opened.opening
    found["opening"] = attrs.evolve(opening, conversation=None)
    found["belongs"] = affinity_of(None, "user", opening)
    found["call"] = opened.correlating_tool_call_id
    found["body"] = opened.upstream_body()
    if isinstance(opened, chat.ChatInterception):
        found["asked"] = (opened._withholds, opened._usage._choices)
    return found


_damage = st.sampled_from([b"", b"x", b"}", b'"', b"\\", b"\x00", b",", b"\xff"])


class _Refuses:
    """A decoder that finds something unexpected in every document."""

    def __call__(self, document: bytes) -> Any:
        raise msgspec.ValidationError

    decode = __call__


def _by_members(api: Api, body: bytes) -> dict[str, Any] | tuple[int, bytes]:
    module, name = MODULES[api]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, _Refuses())
        return _said(api, body)


@pytest.mark.parametrize("api", APIS)
@given(_bodies())
def test_one_pass_finds_what_the_members_say_one_by_one(api: Api, body: bytes) -> None:
    assert _said(api, body) == _by_members(api, body)


@pytest.mark.parametrize("api", APIS)
@given(_bodies(), st.integers(0, 400), _damage)
def test_a_body_is_refused_exactly_where_it_is_no_json(
    api: Api, body: bytes, place: int, put: bytes
) -> None:
    broken = body[:place] + put + body[place + 1 :]
    said = _said(api, broken)
    assert isinstance(said, tuple) == (not is_json(broken))
    assert said == _by_members(api, broken)


@given(_bodies())
def test_what_is_stored_and_named_is_told_of_every_value_of_a_name(body: bytes) -> None:
    opening = open_interception(RESPONSES, id="i", body=body).opening
    assert opening.stored == is_stored(body)
    assert opening.names_stored or not ids_in_body(body)


@pytest.mark.parametrize("depth", [10, 100_000])
def test_a_body_that_nests_without_end_is_refused(depth: int) -> None:
    body = b'{"model":"m","x":' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(_said(MESSAGES, body), tuple) == (depth > 1000)


def test_a_document_that_is_wrong_behind_something_unexpected_is_not_json() -> None:
    def unexpected(document: bytes) -> int:
        raise msgspec.ValidationError

    assert read_once(b"[1]", unexpected, len) == 3
    with pytest.raises(NotJson):
        read_once(b"[1", unexpected, len)


# -- how much is read


class _Counted:
    """A decoder that counts the bytes that it is given."""

    def __init__(self, decode: Callable[[Any], Any], read: list[int]) -> None:
        self._decode = decode
        self._read = read

    def __call__(self, data: Any) -> Any:
        self._read.append(memoryview(data).nbytes)
        return self._decode(data)

    decode = __call__


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that decoders were given."""
    sizes: list[int] = []
    for name in ("_object", "_array", "_any", "_string", "_scalar", "_values", "_any_value"):
        decoder = getattr(reading, name)
        monkeypatch.setattr(reading, name, _Counted(decoder.decode, sizes))
    for module, name in set(MODULES.values()):
        decoder = getattr(module, name)
        monkeypatch.setattr(module, name, _Counted(getattr(decoder, "decode", decoder), sizes))
    return sizes


def _conversation(api: Api, turns: int) -> bytes:
    """A conversation of so many turns, of which each has about 2,000 bytes."""
    part = "input_text" if api in (RESPONSES, COMPACTION) else "text"
    said = [
        {"role": role, "content": [{"type": part, "text": f'{n} \u00e9 " ' * 100}]}
        for n in range(turns)
        for role in ("user", "assistant")
    ]
    said.append({"role": "user", "content": [{"type": part, "text": "go on"}]})
    tools = [{"type": "function", "name": f"t{n}", "description": "x" * 500} for n in range(40)]
    name = "input" if part == "input_text" else "messages"
    body = {"model": "m", "tools": tools, name: said, "stream": True, "store": False}
    return json.dumps(body).encode()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("turns", [20, 200, 2000])
def test_no_byte_of_a_conversation_is_read_twice_however_long_it_is(
    api: Api, turns: int, read: list[int]
) -> None:
    body = _conversation(api, turns)
    open_interception(api, id="i", body=body)
    # Beside the body: the first message, the last one, their parts.
    assert len(body) <= sum(read) < len(body) + 10_000
