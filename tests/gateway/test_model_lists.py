"""A provider's list of models: an allow-list, other names for models, and the answer to /models."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer, error, imitate

NOBODY = "http://127.0.0.1:1"
CLAUDE = "claude-sonnet-5, fast = claude-haiku-4-5, opus-* = claude-opus-*"
OPENAI = "gpt-5, small = gpt-5-mini, o* = *"


@pytest.fixture(scope="module")
def providers() -> Iterator[tuple[ScriptedProvider, ScriptedProvider]]:
    with ScriptedProvider(otherwise=imitate()) as first, ScriptedProvider() as second:
        second.otherwise = imitate()
        yield first, second


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    providers: tuple[ScriptedProvider, ScriptedProvider],
) -> Iterator[GatewayProcess]:
    first, second = (provider.url for provider in providers)
    upstreams = [
        Upstream("anthropic", first, "claude", extra={"MODELS": CLAUDE}),
        Upstream("anthropic", NOBODY, "down", extra={"MODELS": CLAUDE, "FALLBACK": "no, yes"}),
        Upstream("anthropic", second, "no", extra={"MODELS": "claude-sonnet-5 = another"}),
        Upstream("anthropic", second, "yes", extra={"MODELS": "fast = quick, a* = x/a*"}),
        Upstream("openai", first, "gpt", extra={"MODELS": OPENAI}),
        Upstream("anthropic", first, "any"),
        Upstream("anthropic", first, "wrong", extra={"MODELS": "a = b*"}),
    ]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams) as gateway:
        gateway.allowed_errors.append("skipping misconfigured ai provider")
        gateway.allowed_errors.append("misconfigured provider")
        yield gateway


def ask(
    gateway: GatewayProcess, model: Any, provider: str = "claude", **more: Any
) -> requests.Response:
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    return requests.post(
        f"{gateway.url}/{provider}/v1/messages",
        json={**body, **more},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("fast", "claude-haiku-4-5"),
        ("opus-5", "claude-opus-5"),
    ],
)
def test_a_model_is_asked_for_by_the_providers_name_and_recorded_by_both(
    gateway: GatewayProcess,
    providers: tuple[ScriptedProvider, ScriptedProvider],
    asked: str,
    sent: str,
) -> None:
    got = ask(gateway, asked)
    assert got.status_code == 200
    assert providers[0].requests[-1].json()["model"] == sent
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["model"] == asked
    (tokens,) = found["token_usages"]
    if asked != sent:
        assert json.loads(tokens["metadata"])["provider_model"]


def test_all_other_bytes_of_the_body_stay_as_they_were(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    body = (
        b' {"max_tokens":9 , "model" : "fast",\n"model":"fa\\u0073t",'
        b'"messages":[{"role":"user","content":"\\u00e9 fast"}] }\n'
    )
    for coding in ("", "gzip"):
        providers[0].play(answer({"type": "message", "content": []}))
        got = requests.post(
            f"{gateway.url}/claude/v1/messages",
            data=gzip.compress(body) if coding else body,
            headers={
                "X-Api-Key": gateway.key(),
                **({"Content-Encoding": coding} if coding else {}),
            },
            timeout=30,
        )
        assert got.status_code == 200
        sent = providers[0].requests[-1].body
        plain = gzip.decompress(sent) if coding else sent
        # Whichever of the two a provider reads, it is the model that was looked up.
        new = b'"claude-haiku-4-5"'
        assert plain == body.replace(b'"fa\\u0073t"', new).replace(b': "fast"', b": " + new)


@pytest.mark.parametrize("model", ["claude-opus-9", "FAST", "", None, 5])
def test_a_model_that_is_not_in_the_list_is_refused_before_anything_is_recorded(
    gateway: GatewayProcess,
    providers: tuple[ScriptedProvider, ScriptedProvider],
    model: Any,
) -> None:
    before = len(providers[0].requests), gateway.rows("SELECT count(*) AS n FROM interceptions")
    got = ask(gateway, model)
    assert got.status_code == 404
    assert got.json()["error"]["type"] == "not_found_error"
    assert '"claude" has no model' in got.json()["error"]["message"]
    after = len(providers[0].requests), gateway.rows("SELECT count(*) AS n FROM interceptions")
    assert after == before


def test_the_openai_sdk_learns_that_there_is_no_such_model(gateway: GatewayProcess) -> None:
    with openai.OpenAI(
        base_url=f"{gateway.url}/gpt/v1", api_key=gateway.key(), max_retries=0
    ) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(
                model="gpt-9", messages=[{"role": "user", "content": "hi"}]
            )
        assert caught.value.code == "model_not_found"
        answer = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices


def test_the_sdks_list_the_models_that_are_written_out(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    before = len(providers[0].requests)
    with openai.OpenAI(
        base_url=f"{gateway.url}/gpt/v1", api_key=gateway.key(), max_retries=0
    ) as client:
        assert [model.id for model in client.models.list()] == ["gpt-5", "small"]
        assert client.models.retrieve("o3").id == "o3"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/claude", api_key=gateway.key(), max_retries=0
    ) as claude:
        assert [model.id for model in claude.models.list()] == ["claude-sonnet-5", "fast"]
        assert claude.models.retrieve("opus-5").id == "opus-5"
        with pytest.raises(anthropic.NotFoundError):
            claude.models.retrieve("claude-opus-9")
    assert len(providers[0].requests) == before


def test_a_passed_request_goes_by_the_list_too(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    provider = providers[0]

    def count(model: str) -> requests.Response:
        return requests.post(
            f"{gateway.url}/claude/v1/messages/count_tokens",
            json={"model": model, "messages": []},
            headers={"X-Api-Key": gateway.key()},
            timeout=30,
        )

    count("fast")
    assert provider.requests[-1].json() == {"model": "claude-haiku-4-5", "messages": []}
    before = len(provider.requests)
    assert count("claude-opus-9").status_code == 404
    assert len(provider.requests) == before


def test_without_a_list_any_model_is_asked_for(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    assert ask(gateway, "whatever", "any").status_code == 200
    assert providers[0].requests[-1].json()["model"] == "whatever"


def test_a_wrong_list_is_the_providers_error_and_names_the_setting(
    gateway: GatewayProcess,
) -> None:
    assert ask(gateway, "a", "wrong").status_code == 503
    (line,) = [line for line in gateway.logs() if "skipping misconfigured" in line["msg"]]
    assert "CODER_AI_GATEWAY_PROVIDER_6_MODELS" in line["fields"]["error"]
    assert "a = b*" in line["fields"]["error"]


def test_a_fallback_without_the_model_is_passed_over(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    second = providers[1]
    before = len(second.requests)
    got = ask(gateway, "fast", "down")
    assert got.status_code == 200
    assert [request.json()["model"] for request in second.requests[before:]] == ["quick"]
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert (found["provider_name"], found["model"]) == ("yes", "fast")
    # The first of the two has it.
    second.play(error(500))
    assert ask(gateway, "claude-sonnet-5", "down").status_code == 500
    assert second.requests[-1].json()["model"] == "another"
    # Nobody has it: the refusal is that of the provider that was asked.
    before = len(second.requests)
    got = ask(gateway, "opus-5", "down")
    assert got.status_code == 502
    assert len(second.requests) == before
