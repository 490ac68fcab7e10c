"""Whatever a client sends along, a provider gets one credential."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, imitate

SECRETS = {
    "Coder-Session-Token": "planted",
    "Api-Key": "planted",
    "X-Goog-Api-Key": "planted",
    "X-Amz-Security-Token": "planted",
    "x-auth-token": "planted",
    "Proxy-Authorization": "Basic planted",
    "Cookie": "coder_session_token=planted; access_token=planted",
    "X_API_KEY": "planted",
}
ACCOUNT = {"OpenAI-Organization": "org-mine", "OpenAI-Project": "proj-mine"}
KEYS = {"anthropic": "sk-gateway-anthropic-0001", "openai": "sk-gateway-openai-0001"}
QUERY = "?key=planted&api_key=planted&limit=3&%6bey=planted"
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "hi"}],
}
ROUTES = [
    ("anthropic", "POST", "/v1/messages", MESSAGES),
    ("anthropic", "POST", "/v1/messages", {**MESSAGES, "stream": True}),
    ("anthropic", "POST", "/v1/messages/count_tokens", MESSAGES),
    ("anthropic", "GET", "/v1/models", None),
    ("openai", "POST", "/v1/chat/completions", MESSAGES),
    ("openai", "POST", "/v1/responses", {"model": "m", "input": "hi"}),
    ("openai", "GET", "/v1/models", None),
    ("openai", "GET", "/v1/conversations/conv_1", None),
]


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    upstreams = [Upstream(kind, provider.url, key=key) for kind, key in KEYS.items()]
    folder: Path = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, upstreams) as gateway:
        yield gateway


def received(
    gateway: GatewayProcess,
    provider: ScriptedProvider,
    row: tuple[str, str, str, Any],
    headers: dict[str, str],
) -> ReceivedRequest:
    name, method, path, body = row
    before = len(provider.requests)
    requests.request(
        method,
        f"{gateway.url}/{name}{path}{QUERY}&q={gateway.key()}",
        json=body,
        headers={**SECRETS, **ACCOUNT, **headers},
        timeout=30,
    )
    return provider.wait_for_request(before + 1)


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row[2])
def test_with_the_gateways_key_nothing_else_of_a_client_goes_upstream(
    gateway: GatewayProcess, provider: ScriptedProvider, row: tuple[str, str, str, Any]
) -> None:
    request = received(
        gateway, provider, row, {"Authorization": f"Bearer {gateway.key()}", "X-Api-Key": "planted"}
    )
    shown = f"{request.target} {request.headers}"
    assert "planted" not in shown
    assert "-mine" not in shown
    assert gateway.key() not in shown
    assert request.target.endswith("?limit=3")
    assert shown.count("sk-gateway") == 1
    assert KEYS[row[0]] in shown
    assert "forwarded" not in shown.lower()


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row[2])
def test_with_the_users_key_that_key_and_its_account_go_upstream(
    gateway: GatewayProcess, provider: ScriptedProvider, row: tuple[str, str, str, Any]
) -> None:
    own = {"Authorization": "Bearer sk-own-key", "X-Coder-AI-Governance-Token": gateway.key()}
    request = received(gateway, provider, row, own)
    shown = f"{request.target} {request.headers}"
    assert "planted" not in shown
    assert "sk-gateway" not in shown
    assert gateway.key() not in shown
    assert shown.count("sk-own-key") == 1
    assert shown.count("-mine") == 2


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_only_a_users_own_key_may_delete_a_model(
    gateway: GatewayProcess, provider: ScriptedProvider, name: str
) -> None:
    url = f"{gateway.url}/{name}/v1/models/ft:gpt-5:acme::7p4lURel"
    before = len(provider.requests)
    got = requests.delete(url, headers={"X-Api-Key": gateway.key()}, timeout=30)
    assert got.status_code == 404
    assert got.json()["error"]["message"].startswith("route not supported: DELETE ")
    assert len(provider.requests) == before
    own = {"Authorization": "Bearer sk-own-key", "X-Coder-AI-Governance-Token": gateway.key()}
    requests.delete(url, headers=own, timeout=30)
    assert provider.wait_for_request(before + 1).request_line.startswith("DELETE ")
