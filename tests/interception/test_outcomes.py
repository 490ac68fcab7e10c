from __future__ import annotations

import json

import pytest

from aigateway.actors.codec.reading import members
from aigateway.actors.interception import Outcome
from aigateway.actors.interception.outcomes import (
    MESSAGE_LIMIT,
    error_outcome,
    kind_of_name,
    kind_of_status,
    message_of,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "bad_request"),
        (408, "timeout"),
        (409, "unknown"),
        (413, "bad_request"),
        (422, "bad_request"),
        (429, "rate_limited"),
        (500, "server_error"),
        (502, "server_error"),
        (529, "overloaded"),
        (302, "unknown"),
        (700, "unknown"),
    ],
)
def test_a_status_says_what_kind_of_error_it_is(status: int, kind: str) -> None:
    assert kind_of_status(status, openai=True) == kind
    assert kind_of_status(status, openai=False) == kind


def test_503_is_an_overload_only_where_there_is_no_529() -> None:
    assert kind_of_status(503, openai=True) == "overloaded"
    assert kind_of_status(503, openai=False) == "server_error"


def test_the_first_known_name_tells_the_kind() -> None:
    assert kind_of_name(None, "nonsense", "rate_limit_error", "server_error") == "rate_limited"
    assert kind_of_name("nonsense", None) == "unknown"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"type": "overloaded_error", "message": "busy"}, Outcome("overloaded", "busy")),
        (
            {"code": "rate_limit_exceeded", "type": "tokens"},
            Outcome("rate_limited", "rate_limit_exceeded"),
        ),
        ({"code": 429, "message": "slow"}, Outcome("rate_limited", "slow")),
        ({"code": 502, "message": "bad"}, Outcome("server_error", "bad")),
        ({"code": "503", "message": "away"}, Outcome("overloaded", "away")),
        ({"code": 400, "message": {"detail": [{"msg": "bad"}]}}, Outcome("bad_request", "bad")),
        ({"code": "ODD", "message": ["x"]}, Outcome("unknown", "ODD")),
        ({}, Outcome("unknown", "The AI provider reported an error")),
        ("it broke", Outcome("unknown", "it broke")),
        (17, Outcome("unknown", "The AI provider reported an error")),
        ({"message": "x" * 5000}, Outcome("unknown", "x" * MESSAGE_LIMIT)),
    ],
)
def test_errors_of_any_shape_have_an_outcome(error: object, outcome: Outcome) -> None:
    encoded = json.dumps(error).encode()
    assert error_outcome(encoded) == outcome
    if isinstance(error, dict):
        assert error_outcome(members(encoded)) == outcome


NAMELESS = "The AI provider answered with HTTP status 502"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"message":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (
            b'{"detail":[{"loc":["body","n",0],"msg":"not allowed"},{"msg":"missing"},"x"]}',
            "body.n.0: not allowed; missing",
        ),
        (b'{"object":"error","message":{"detail":[{"msg":"not allowed"}]}}', "not allowed"),
        (b'[{"error":{"code":400,"message":"no"}}]', "no"),
        (
            b'{"detail":' + b"[" * 400 + b"]" * 400 + b"}",
            NAMELESS,
        ),
        (b"  upstream timed out\n", "upstream timed out"),
        (b'{"error":{"message":""}}', NAMELESS),
        (b'{"error":{"message":7}}', NAMELESS),
        (b"", NAMELESS),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 100_000, "x" * MESSAGE_LIMIT),
    ],
)
def test_error_bodies_of_any_shape_have_a_message(body: bytes, message: str) -> None:
    assert message_of(502, body) == message
