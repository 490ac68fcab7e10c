"""What a request may use at most: never too little, and not absurdly much."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from aigateway.actors.interception.estimate import (
    LONGEST_CONTEXT,
    LONGEST_OUTPUT,
    PICTURE,
    most_used,
)
from aigateway.actors.interception.routes import Api

HELLO = [{"role": "user", "content": "hello"}]
PIXELS = base64.b64encode(bytes(range(256)) * 4096).decode()
"""A megabyte."""


def most(api: Api, **body: Any) -> Any:
    return most_used(api, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("api", "body", "tokens"),
    [
        ("messages", {"max_tokens": 64}, 64),
        ("messages", {}, LONGEST_OUTPUT),
        ("messages", {"max_tokens": "many"}, LONGEST_OUTPUT),
        ("chat-completions", {"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ("chat-completions", {"max_completion_tokens": 20, "n": 3}, 60),
        ("chat-completions", {"n": 2}, 2 * LONGEST_OUTPUT),
        ("responses", {"max_output_tokens": 99}, 99),
        ("compaction", {}, LONGEST_OUTPUT),
        ("gemini", {"generationConfig": {"maxOutputTokens": 7, "candidateCount": 2}}, 14),
        ("gemini", {"generation_config": {"max_output_tokens": 7}}, 7),
        ("gemini", {"generationConfig": None}, LONGEST_OUTPUT),
    ],
)
def test_output_is_what_the_request_allows_for_each_answer(
    api: Api, body: dict[str, Any], tokens: int
) -> None:
    assert most(api, **body).output_tokens == tokens


@pytest.mark.parametrize("text", ["hello " * 2_000, "你好" * 4_000, "x = y[0] + 1\n" * 900])
def test_input_is_more_than_any_model_counts(text: str) -> None:
    found = most("messages", messages=[{"role": "user", "content": text}]).input_tokens
    # No usual tokenizer makes more than a token of two bytes of such texts.
    assert found >= len(text.encode()) // 2
    assert found < LONGEST_CONTEXT


def test_pictures_are_no_text() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXELS}
    content = [{"type": "image", "source": source}] * 2
    found = most("messages", messages=[{"role": "user", "content": content}]).input_tokens
    assert 2 * PICTURE <= found < 3 * PICTURE
    url = f"data:image/png;base64,{PIXELS}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    found = most("chat-completions", messages=[{"role": "user", "content": content}]).input_tokens
    assert PICTURE <= found < 3 * PICTURE


@pytest.mark.parametrize("before", [*range(4090, 4102), 8191, 8192, 8193, 12_287])
@pytest.mark.parametrize("size", [4094, 4095, 4096, 4097, 4098, 8192, 12_289])
def test_pictures_are_found_wherever_they_begin(before: int, size: int) -> None:
    # The second one begins where the padding of the first one ends.
    body = b" " * before + (b"A" * size + b"==") * 2 + b" image " + b". " * 9000
    found = re.findall(rb"[A-Za-z0-9+/]{4096,}={0,2}", body)
    assert len(found) == (2 if size >= 4096 else 0)
    expected = (len(body) - sum(map(len, found))) // 2 + len(found) * PICTURE + 1_000
    assert most_used("messages", body).input_tokens == expected


def test_a_document_may_be_a_token_for_each_byte() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": PIXELS[:50_000]}
    body = {"messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    assert most("messages", **body).input_tokens >= 50_000


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"conversation": {"id": "conv_1"}}),
        ("gemini", {"cachedContent": "cachedContents/1"}),
        ("messages", {"container": "container_1"}),
        ("messages", {"messages": [{"role": "user", "content": "x" * 9_000_000}]}),
    ],
)
def test_what_is_not_in_the_body_may_be_as_long_as_a_context(
    api: Api, body: dict[str, Any]
) -> None:
    assert most(api, **body).input_tokens == LONGEST_CONTEXT
    assert most("responses", previous_response_id=None).input_tokens < LONGEST_CONTEXT


@pytest.mark.parametrize(
    ("api", "body", "searches"),
    [
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": 3}]}, 3),
        ("messages", {"tools": [{"type": "web_search_20250305"}]}, 5),
        ("messages", {"tools": [{"name": "mine", "input_schema": {}}]}, None),
        ("chat-completions", {"web_search_options": {}}, 5),
        ("responses", {"tools": [{"type": "web_search"}]}, 5),
        ("gemini", {"tools": [{"googleSearch": {}}]}, 5),
    ],
)
def test_tools_of_the_provider_cost_requests_and_bring_input(
    api: Api, body: dict[str, Any], searches: int | None
) -> None:
    found = most(api, **body)
    assert found.metadata.get("web_search_requests") == searches
    assert (found.input_tokens > 20_000) == (searches is not None)


def test_the_tier_and_an_hours_cache_are_what_the_request_asks_for() -> None:
    assert most("chat-completions", service_tier="priority").metadata == {
        "service_tier": "priority"
    }
    marked = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert most("messages", system=marked).metadata == {"cache_ephemeral_1h_input": True}


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"tools": 1, "max_tokens": -5}'])
def test_what_cannot_be_read_has_the_usual_maxima(body: bytes) -> None:
    for api in ("messages", "chat-completions", "responses", "gemini"):
        found = most_used(api, body)  # type: ignore[arg-type]
        assert found.output_tokens == LONGEST_OUTPUT
