"""Error answers as each provider's SDK expects them."""

from __future__ import annotations

import json

import pytest

from aigateway.actors.interception.error_bodies import (
    breaker_open,
    error_body,
    is_anthropic,
    keys_rate_limited,
    keys_rejected,
)
from aigateway.actors.values.provider_config import OPENAI_TYPES

ANTHROPIC = ["messages", "anthropic", "bedrock"]
OPENAI = ["chat-completions", "responses", "copilot", *sorted(OPENAI_TYPES)]

STATUSES = [
    (400, "invalid_request_error", ("invalid_request_error", None)),
    (401, "authentication_error", ("authentication_error", "invalid_api_key")),
    (402, "billing_error", ("invalid_request_error", None)),
    (403, "permission_error", ("permission_error", "permission_denied")),
    (404, "not_found_error", ("invalid_request_error", "not_found")),
    (413, "request_too_large", ("invalid_request_error", "request_too_large")),
    (422, "invalid_request_error", ("invalid_request_error", None)),
    (429, "rate_limit_error", ("rate_limit_error", "rate_limit_exceeded")),
    (500, "api_error", ("server_error", None)),
    (501, "api_error", ("server_error", None)),
    (502, "api_error", ("api_error", "server_error")),
    (503, "overloaded_error", ("server_error", "service_unavailable")),
    (504, "timeout_error", ("server_error", "timeout")),
    (529, "overloaded_error", ("server_error", None)),
]


@pytest.mark.parametrize(("status", "anthropic", "openai"), STATUSES)
def test_a_status_has_its_type_in_each_shape(
    status: int, anthropic: str, openai: tuple[str, str | None]
) -> None:
    for dialect in ANTHROPIC:
        assert json.loads(error_body(dialect, status, 'say "no"')) == {
            "type": "error",
            "error": {"type": anthropic, "message": 'say "no"'},
        }
    for dialect in OPENAI:
        assert json.loads(error_body(dialect, status, 'say "no"')) == {
            "error": {
                "message": 'say "no"',
                "type": openai[0],
                "param": None,
                "code": openai[1],
            }
        }


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (413, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (502, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_google_has_a_name_for_each_status(status: int, name: str) -> None:
    expected = {"error": {"code": status, "message": 'say "no"', "status": name}}
    assert json.loads(error_body("gemini", status, 'say "no"')) == expected
    assert json.loads(error_body("gemini", status, 'say "no"', "api_error", "c")) == expected


def test_google_is_told_in_its_shape_that_nobody_can_answer() -> None:
    assert json.loads(breaker_open("gemini"))["error"]["status"] == "UNAVAILABLE"
    assert json.loads(keys_rate_limited("gemini", "m"))["error"]["code"] == 429
    assert json.loads(keys_rejected("gemini", "m"))["error"]["code"] == 502


def test_a_caller_may_name_the_kind_and_the_code() -> None:
    assert json.loads(error_body("messages", 503, "m", "api_error", "c"))["error"] == {
        "type": "api_error",
        "message": "m",
    }
    kind_only = json.loads(error_body("openai", 429, "m", "quota"))["error"]
    assert (kind_only["type"], kind_only["code"]) == ("quota", None)
    code_only = json.loads(error_body("openai", 429, "m", code="c"))["error"]
    assert (code_only["type"], code_only["code"]) == ("rate_limit_error", "c")


def test_the_bytes_keep_the_order_that_readers_know() -> None:
    assert error_body("messages", 429, "m") == (
        b'{"type":"error","error":{"type":"rate_limit_error","message":"m"}}'
    )
    assert error_body("responses", 504, "m") == (
        b'{"error":{"message":"m","type":"server_error","param":null,"code":"timeout"}}'
    )


OVERLOADED = (
    b'{"type":"error","error":{"type":"overloaded_error","message":"circuit breaker is open"}}'
)
UNAVAILABLE = (
    b'{"error":{"message":"circuit breaker is open","type":"server_error",'
    b'"code":"service_unavailable"}}'
)
BEDROCK = (
    b'{"type":"error","error":{"type":"api_error","message":"circuit breaker is open",'
    b'"code":"service_unavailable"}}'
)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("anthropic", OVERLOADED),
        ("messages", OVERLOADED),
        ("bedrock", BEDROCK),
        *((dialect, UNAVAILABLE) for dialect in OPENAI),
    ],
)
def test_an_open_breaker_answers_in_the_providers_shape(dialect: str, body: bytes) -> None:
    assert breaker_open(dialect) == body


def test_exhausted_keys_answer_in_the_providers_shape() -> None:
    assert json.loads(keys_rate_limited("anthropic", "m"))["error"]["type"] == "rate_limit_error"
    assert json.loads(keys_rejected("anthropic", "m"))["error"]["type"] == "api_error"
    limited = json.loads(keys_rate_limited("copilot", "m"))["error"]
    assert (limited["type"], limited["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    rejected = json.loads(keys_rejected("openai", "m"))["error"]
    assert (rejected["type"], rejected["code"]) == ("api_error", "server_error")


def test_the_api_decides_before_the_provider() -> None:
    assert is_anthropic("messages")
    assert not is_anthropic("copilot")
    assert not is_anthropic("responses")
