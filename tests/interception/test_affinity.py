"""Which requests belong to one session, and which to one account."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.decoding import encode
from aigateway.actors.interception.conversation import (
    Affinity,
    affinity_of,
    affinity_of_passed,
)
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    GEMINI,
    MESSAGES,
    RESPONSES,
)
from aigateway.actors.values.provider_config import ProviderConfig

USER = {"role": "user", "content": "hello"}
SAID = {"role": "user", "parts": [{"text": "hello"}]}


def affinity(
    api: str, document: dict[str, Any], *, session: str | None = None, user: str = "u"
) -> Affinity:
    body = json.dumps(document).encode()
    interception = open_interception(api, id="i", body=body)
    return affinity_of(session, user, interception.opening)


@pytest.mark.parametrize("api", [MESSAGES, CHAT_COMPLETIONS])
def test_requests_of_a_conversation_belong_together_without_a_sessions_name(api: str) -> None:
    name = "messages"
    system = {"role": "system", "content": "today is Monday"}
    turns = [USER, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]
    first = affinity(api, {"model": "m", name: turns[:1]})
    assert affinity(api, {"model": "other", name: turns, "stream": True}) == first
    assert affinity(api, {"model": "m", name: [system, *turns]}) == first
    assert affinity(api, {"model": "m", name: turns[:1]}, user="v") != first
    assert affinity(api, {"model": "m", name: turns[2:]}) != first


def test_where_there_is_one_place_only_nobody_asks_what_belongs_to_it() -> None:
    body = json.dumps({"model": "m", "messages": [USER], "container": "c"}).encode()
    bound = open_interception(MESSAGES, id="i", body=body).opening
    assert affinity_of("s", "u", bound, alone=True) == Affinity(binding=True)
    body = json.dumps({"model": "m", "messages": [USER]}).encode()
    free = open_interception(MESSAGES, id="i", body=body).opening
    assert affinity_of("s", "u", free, alone=True) == Affinity()


@pytest.mark.parametrize(
    ("more", "alone"),
    [
        ({}, True),
        ({"keys": ("k",)}, True),
        ({"keys": ("k", "l")}, False),
        ({"fallback": ("other",)}, False),
        ({"group": (("other", 1),)}, False),
    ],
)
def test_a_provider_of_one_key_that_nobody_stands_in_for_is_alone(
    more: dict[str, Any], alone: bool
) -> None:
    config = ProviderConfig(name="p", type="openai", base_url="http://p/v1", **more)
    assert config.alone is alone


def test_what_goes_on_from_a_stored_response_goes_where_that_is() -> None:
    """It repeats nothing by which its conversation could be told."""
    first = affinity(RESPONSES, {"model": "m", "input": "one"})
    later = affinity(RESPONSES, {"model": "m", "input": "two", "previous_response_id": "resp_1"})
    assert later.session == first.session
    assert (first.bound, later.bound) == (False, True)
    # Other processes have to know where: nothing but the hash may decide.
    assert first.stays
    assert not affinity(MESSAGES, {"model": "m", "messages": [USER]}).stays
    looked_up = affinity_of_passed(None, "u", "/responses/")
    assert (looked_up.session, looked_up.bound) == (first.session, True)
    created = affinity_of_passed(None, "u", "/conversations")
    assert (created.session, created.bound) == (first.session, False)
    assert affinity(RESPONSES, {"model": "m", "input": "one"}, user="v") != first
    named = affinity(RESPONSES, {"model": "m", "input": "one"}, session="s")
    assert affinity_of_passed("s", "u", "/responses/").session == named.session


def test_what_was_cached_is_asked_for_where_it_is() -> None:
    created = affinity_of_passed(None, "u", "/cachedContents")
    asked = affinity(GEMINI, {"cachedContent": "cachedContents/c1", "contents": [SAID]})
    assert (created.session, created.bound, created.stays) == (asked.session, False, True)
    assert (asked.bound, asked.stays) == (True, True)
    changed = affinity_of_passed(None, "u", "/cachedContents/")
    assert (changed.session, changed.bound) == (asked.session, True)
    others = affinity(GEMINI, {"contents": [SAID]})
    assert others.session != asked.session
    assert affinity(GEMINI, {"contents": [SAID, {"role": "model", "parts": []}]}) == others


def test_what_is_passed_and_stores_nothing_does_not_say_where_things_are() -> None:
    first = affinity(RESPONSES, {"model": "m", "input": "one"})
    for route in ("/models", "/models/", "/v1/messages/count_tokens"):
        passed = affinity_of_passed(None, "u", route)
        assert passed.session != first.session
        assert not passed.bound


def test_a_sessions_name_counts_more_than_what_is_said_in_it() -> None:
    one = affinity(MESSAGES, {"model": "m", "messages": [USER]}, session="s")
    assert affinity(MESSAGES, {"model": "m", "messages": []}, session="s") == one
    assert affinity(MESSAGES, {"model": "m", "messages": [USER]}, session="t") != one
    # Clients choose the names of sessions: two users may choose the same.
    assert affinity(MESSAGES, {"model": "m", "messages": [USER]}, session="s", user="v") != one
    assert len(one.session) == 32


FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
BOUND = [
    (RESPONSES, {"previous_response_id": "resp_1"}),
    (RESPONSES, {"conversation": "conv_1"}),
    (RESPONSES, {"conversation": {"id": "conv_1"}}),
    (RESPONSES, {"input": [{"type": "reasoning", "encrypted_content": "gAAA"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    (RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    (RESPONSES, {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}),
    (RESPONSES, {"tools": [{"type": "code_interpreter",
                            "container": {"type": "auto", "file_ids": ["file-1"]}}]}),
    (MESSAGES, {"container": "container_1"}),
    (MESSAGES, {"container": {"skills": [], "id": "container_1"}}),
    (MESSAGES, {"messages": [{"role": "user", "content": [FILE]}]}),
    (GEMINI, {"cachedContent": "cachedContents/c1"}),
    (GEMINI, {"cached_content": "cachedContents/c1"}),
]  # fmt: skip


@pytest.mark.parametrize(("api", "document"), BOUND)
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_what_one_account_alone_knows_binds_a_request(
    api: str, document: dict[str, Any], coding: str
) -> None:
    for separators in ((",", ":"), (" , ", " : ")):
        body = encode(json.dumps(document, separators=separators).encode(), coding)
        interception = open_interception(api, id="i", body=body, content_encoding=coding)
        assert interception.opening.binding


FREE = [
    (RESPONSES, {"input": "hello"}),
    (RESPONSES, {"previous_response_id": None, "conversation": None, "input": "x"}),
    (RESPONSES, {"include": ["reasoning.encrypted_content"], "store": False, "input": "x"}),
    (RESPONSES, {"input": 'I say "previous_response_id": "resp_1"'}),
    (RESPONSES, {"input": "previous_response_id", "x": "y"}),
    (RESPONSES, {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
    (MESSAGES, {"messages": [{"role": "user", "content": '{"file_id": "file_1"}'}]}),
    (MESSAGES, {"container": None, "messages": [USER]}),
    (MESSAGES, {"container": {"skills": [{"skill_id": "pdf"}]}, "messages": [USER]}),
    (CHAT_COMPLETIONS, {"messages": [USER]}),
    (GEMINI, {"contents": [{"parts": [{"text": '"cachedContent": "x"'}]}], "cachedContent": None}),
]


@pytest.mark.parametrize(("api", "document"), FREE)
def test_what_any_account_can_serve_binds_nothing(api: str, document: dict[str, Any]) -> None:
    assert not affinity(api, {"model": "m", **document}).bound


@given(st.text())
def test_no_text_of_a_user_binds_a_request(text: str) -> None:
    said = [{"role": "user", "content": text + '"file_id": "x", "encrypted_content": "y"' + text}]
    assert not affinity(MESSAGES, {"model": "m", "messages": said}).bound
    assert not affinity(RESPONSES, {"model": "m", "input": said}).bound


def test_a_large_body_is_read_in_time_that_grows_with_its_size_alone() -> None:
    """Names that stand in texts again and again must not make a scan quadratic."""
    text = '"file_id" "encrypted_content" ' * 400_000
    body = json.dumps({"model": "m", "input": [{"role": "user", "content": text}]}).encode()
    assert len(body) > 12_000_000
    began = time.process_time()
    interception = open_interception(RESPONSES, id="i", body=body)
    assert not interception.opening.binding
    assert time.process_time() - began < 5
