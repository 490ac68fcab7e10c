"""What a log says of a path into which a client has put a key."""

from __future__ import annotations

import pytest

from aigateway.http.logs.lines import SecretMask
from aigateway.http.request.inbound import shown_path

TOKEN = "abcdefghij-0123456789ABCDEFGHIJKL"
KEYS = [
    TOKEN,
    "sk-ant-api03-abcdefghijklmnop",
    "sk_live_0123456789abcdef",
    "xai-0123456789abcdefghij",
    "gsk_0123456789abcdefghij",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "AKIA0123456789ABCDEF",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdef",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "dGhpc0lzQVNlY3JldDEyMzQ1Njc4OTA",
]
PLAIN = [
    "/anthropic/v1/messages",
    "/openai/v1/models/Meta-Llama-3.1-70B-Instruct-Turbo",
    "/openai/v1/responses/resp_68b1a2c3d4e5f60718293a4b5c6d7e8f90A1B2C3D4E5F607",
    "/openai/v1/conversations/conv_689667905b048191b4740501625afd940c7533ace33a2dab",
    "/anthropic/v1/models/claude-sonnet-4-5-20250929",
    "/openai/v1/files/file-Abc123Def456Ghi789Jkl012",
    "/x/f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "/x/a=1",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_a_path_is_masked(key: str) -> None:
    assert shown_path(f"/openai/v1/{key}/models") == "/openai/v1/********/models"
    assert key not in shown_path(f"/openai/key={key}")
    assert key not in shown_path(f"/openai/v1/models;api_key={key}")
    assert key not in SecretMask().apply(f'path="/v1/models?key={key}&a=1"')
    assert key not in SecretMask().apply(f'{{"url": "https://x/v1?a=1&api%5Fkey={key}"}}')


def test_the_token_of_the_request_is_masked_whatever_it_looks_like() -> None:
    assert shown_path("/openai/tok/v1", "tok") == "/openai/********/v1"
    assert shown_path("/openai/%74ok/v1", "tok") == "/openai/********/v1"


@pytest.mark.parametrize("path", PLAIN)
def test_ids_and_models_stay_readable(path: str) -> None:
    assert shown_path(path, TOKEN) == path


def test_what_is_no_secret_of_a_query_stays_in_a_line() -> None:
    line = "GET /v1/models?limit=3&after=x key=value a=b"
    assert SecretMask().apply(line) == line


def test_a_short_path_is_looked_at_as_well() -> None:
    assert shown_path("/p/key=abc") == "/p/key=********"
    assert shown_path("/p/v1/models") == "/p/v1/models"
