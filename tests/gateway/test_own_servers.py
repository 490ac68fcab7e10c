"""Servers of one's own: without a key, without stream_options; and what is wrong with settings."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
import requests
from attrs import evolve
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, answer, imitate
from sdk_clients import closed_later


def strict(request: ReceivedRequest) -> Steps:
    """Refuses what it does not know, as servers with a schema do."""
    if request.body and "stream_options" in request.json():
        detail = [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
        return answer({"detail": detail}, 422)
    # The imitation wants a key, whichever.
    headers = [*request.headers, ("Authorization", "Bearer any"), ("X-Api-Key", "any")]
    return imitate()(evolve(request, headers=headers))


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=strict) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    url = provider.url
    plain = {"NO_KEY": "true", "STREAM_OPTIONS": "false"}
    upstreams = [
        Upstream("openai-compat", url, "vllm", key="", extra=plain),
        Upstream("openai-compat", url, "asks", key="", extra={"NO_KEY": "true"}),
        Upstream("anthropic", url, "local", key="", extra={"NO_KEY": "true"}),
        Upstream("openai-compat", "http://127.0.0.1:1", "down", extra={"FALLBACK": "vllm"}),
        Upstream("openai-compat", url, "both", extra={"NO_KEY": "true"}),
        Upstream("watson", url, "unheard-of"),
        Upstream(
            "openai", url, "many", extra={"MAX_RETRIES": "x", "MODELS": ",", "IDLE_TIMEOUT": "y"}
        ),
    ]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams) as gateway:
        gateway.allowed_errors.append("misconfigured")
        yield gateway


def client(gateway: GatewayProcess, name: str) -> openai.OpenAI:
    return closed_later(
        openai.OpenAI(base_url=f"{gateway.url}/{name}/v1", api_key=gateway.key(), max_retries=0)
    )


def test_a_server_that_wants_no_key_gets_none_on_any_route(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    with client(gateway, "vllm") as vllm:
        vllm.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    got = requests.post(
        f"{gateway.url}/local/v1/messages",
        json={"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )
    assert got.status_code == 200
    requests.get(f"{gateway.url}/vllm/v1/models", headers={"X-Api-Key": gateway.key()}, timeout=30)
    for request in provider.requests[-3:]:
        assert request.header("Authorization") is None
        assert request.header("X-Api-Key") is None
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert (found["credential_kind"], found["credential_hint"]) == ("centralized", "")


@pytest.mark.parametrize("name", ["vllm", "down"])
def test_a_server_that_refuses_stream_options_is_not_asked_for_usage(
    gateway: GatewayProcess, provider: ScriptedProvider, name: str
) -> None:
    with client(gateway, name) as vllm:
        chunks = list(
            vllm.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        )
    assert chunks
    assert "stream_options" not in provider.requests[-1].json()


def test_where_it_is_asked_the_reason_of_the_refusal_is_recorded(gateway: GatewayProcess) -> None:
    with client(gateway, "asks") as asks, pytest.raises(openai.UnprocessableEntityError):
        asks.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
    rows = gateway.rows("SELECT id FROM interceptions ORDER BY started_at DESC LIMIT 1")
    found = gateway.records(rows[0]["id"])
    assert found["error_type"] == "bad_request"
    assert "stream_options" in found["error_message"]


def answered(gateway: GatewayProcess, path: str) -> requests.Response:
    return requests.post(
        f"{gateway.url}{path}", json={}, headers={"X-Api-Key": gateway.key()}, timeout=30
    )


def test_a_key_for_a_server_that_wants_none_is_an_error(gateway: GatewayProcess) -> None:
    got = answered(gateway, "/both/v1/chat/completions")
    assert got.status_code == 503
    assert "NO_KEY and KEY/KEYS are mutually exclusive" in got.text


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/anything"])
def test_a_provider_of_an_unknown_type_is_listed_and_says_why_it_does_not_serve(
    gateway: GatewayProcess, path: str
) -> None:
    got = answered(gateway, f"/unheard-of{path}")
    assert got.status_code == 503
    assert 'unknown TYPE "watson"' in got.json()["error"]["message"]
    assert any("unheard-of" in json.dumps(line) for line in gateway.logs())


def test_each_of_several_wrong_settings_is_named_once(gateway: GatewayProcess) -> None:
    text = answered(gateway, "/many/v1/chat/completions").text
    for field in ("MAX_RETRIES", "MODELS", "IDLE_TIMEOUT"):
        assert text.count(f"CODER_AI_GATEWAY_PROVIDER_6_{field}") == 1
