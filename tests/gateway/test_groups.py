"""A group of providers shares sessions, and its members stand in for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, imitate


@pytest.fixture
def providers() -> Iterator[list[ScriptedProvider]]:
    with ScriptedProvider() as one, ScriptedProvider() as two, ScriptedProvider() as three:
        found = [one, two, three]
        for provider in found:
            provider.otherwise = imitate()
        yield found


@pytest.fixture
def gateway(tmp_path: object, providers: list[ScriptedProvider]) -> Iterator[GatewayProcess]:
    one, two, three = (provider.url for provider in providers)
    upstreams = [
        Upstream("anthropic", one, "a", extra={"GROUP": "a:1, b:1, nobody:50", "FALLBACK": "c"}),
        Upstream("anthropic", two, "b"),
        Upstream("anthropic", three, "c"),
        Upstream("anthropic", three, "nobody", extra={"MODELS": "another"}),
    ]
    with GatewayProcess(tmp_path, upstreams) as gateway:  # type: ignore[arg-type]
        yield gateway


def ask(gateway: GatewayProcess, session: str, provider: str = "a") -> str:
    """Who answered, by the records."""
    user = f"user_0_account__session_{session}"
    got = requests.post(
        f"{gateway.url}/{provider}/v1/messages",
        json={
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
            "metadata": {"user_id": user},
        },
        headers={"X-Api-Key": gateway.key(), "User-Agent": "claude-cli/2.1.0 (external, cli)"},
        timeout=30,
    )
    assert got.status_code == 200, got.text
    name: str = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])["provider_name"]
    return name


def test_sessions_are_shared_stay_where_they_are_and_move_when_they_must(
    gateway: GatewayProcess, providers: list[ScriptedProvider]
) -> None:
    sessions = [f"00000000-0000-4000-8000-{number:012}" for number in range(12)]
    first = {session: ask(gateway, session) for session in sessions}
    assert set(first.values()) == {"a", "b"}
    assert {session: ask(gateway, session) for session in sessions} == first
    # Asked by its own name a provider answers itself.
    assert ask(gateway, sessions[0], "b") == "b"


def test_the_others_of_a_group_are_asked_before_the_fallback(
    tmp_path: object, providers: list[ScriptedProvider]
) -> None:
    nobody = "http://127.0.0.1:1"
    second = providers[1]
    group = {"GROUP": "a, b", "FALLBACK": "c"}
    upstreams = [
        Upstream("anthropic", nobody, "a", extra=group),
        Upstream("anthropic", second.url, "b"),
        Upstream("anthropic", providers[2].url, "c"),
        Upstream("anthropic", nobody, "d", extra={"GROUP": "d, e", "FALLBACK": "c"}),
        Upstream("anthropic", nobody, "e"),
    ]
    with GatewayProcess(tmp_path, upstreams) as gateway:  # type: ignore[arg-type]
        sessions = [f"00000000-0000-4000-8000-{number:012}" for number in range(6)]
        assert {ask(gateway, session) for session in sessions} == {"b"}
        assert {ask(gateway, session, "d") for session in sessions} == {"c"}
