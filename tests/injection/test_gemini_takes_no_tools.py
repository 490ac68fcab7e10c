"""Where users have tools of MCP servers, requests to an API that cannot have them are refused."""

from __future__ import annotations

import pytest
import requests
from gateway_process import GatewayProcess
from imitation_provider import ScriptedProvider, answer

BASE = "/gemini/v1beta/models/gemini-imaginary"
ASKED = {"contents": [{"parts": [{"text": "hello"}]}]}


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_a_request_to_gemini_is_refused_and_says_why(
    tooled_gateway: GatewayProcess, rounds_provider: ScriptedProvider, method: str
) -> None:
    asked = len(rounds_provider.requests)
    reply = requests.post(
        f"{tooled_gateway.url}{BASE}:{method}",
        json=ASKED,
        headers={"x-goog-api-key": tooled_gateway.key()},
        timeout=30,
    )
    assert reply.status_code == 400
    told = reply.json()["error"]
    assert told["status"] == "INVALID_ARGUMENT"
    assert "tools of MCP servers" in told["message"]
    assert len(rounds_provider.requests) == asked
    assert tooled_gateway.rows("SELECT 1 FROM interceptions WHERE provider = 'gemini'") == []


def test_what_calls_no_model_is_passed_on(
    tooled_gateway: GatewayProcess, rounds_provider: ScriptedProvider
) -> None:
    rounds_provider.play(answer({"totalTokens": 1}))
    reply = requests.post(
        f"{tooled_gateway.url}{BASE}:countTokens",
        json=ASKED,
        headers={"x-goog-api-key": tooled_gateway.key()},
        timeout=30,
    )
    assert reply.json() == {"totalTokens": 1}
