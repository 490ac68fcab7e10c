"""Another provider of the same API answers when the first cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, error, imitate


@pytest.fixture
def providers() -> Iterator[tuple[ScriptedProvider, ScriptedProvider]]:
    with ScriptedProvider() as first, ScriptedProvider(otherwise=imitate()) as second:
        yield first, second


def _ask(gateway: GatewayProcess) -> requests.Response:
    return requests.post(
        f"{gateway.url}/first/v1/messages?beta=true",
        json={"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )


@pytest.fixture
def gateway(
    tmp_path: Path, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> Iterator[GatewayProcess]:
    upstreams = [
        Upstream("anthropic", providers[0].url, "first", "sk-first", {"FALLBACK": "second"}),
        Upstream("anthropic", providers[1].url, "second", "sk-second"),
    ]
    with GatewayProcess(tmp_path, upstreams) as gateway:
        yield gateway


def test_an_exhausted_key_pool_falls_back_and_says_who_answered(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    first, second = providers
    first.play(error(429, retry_after="60"))
    answers = [_ask(gateway) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len(first.requests) == 1, "its only key rests"
    assert len(second.requests) == 3
    assert second.requests[0].request_line.startswith("POST /v1/messages?beta=true ")
    assert ("X-Api-Key", "sk-second") in second.requests[0].headers
    found = gateway.records(answers[0].headers["X-AI-Gateway-Interception-Id"])
    assert found["provider_name"] == "second"
    assert found["error_type"] is None


def test_an_upstream_that_cannot_be_reached_is_replaced(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    providers[0].refuse()
    assert _ask(gateway).status_code == 200
    assert len(providers[1].requests) == 1
