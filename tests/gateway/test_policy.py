"""What a policy refuses, and how clients and operators hear of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, answer, imitate
from sdk_clients import closed_later

from aigateway.http.request.inbound import REQUEST_ID_HEADER

NOBODY = "http://127.0.0.1:1"
POLICY = """
contact: ask platform@example.com
everybody:
  models: ["claude-haiku-*", "claude-sonnet-5", fast, "gpt-5*", "gemini-*-flash"]
  providers: [anthropic, openai, gemini, mapped, lists, down, any]
groups:
  research: {models: ["*"]}
  tight: {shared_requests_per_minute: 4}
users:
  carol: {requests_per_minute: 3}
  nil: {requests_per_minute: 0}
  uno: {requests_per_minute: 1}
  tom: {tokens_per_minute: 2}
  nina: {content: none}
  oscar: {providers: [openai]}
  nobody: {models: []}
  peter: {providers: [down]}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gw")
    url = provider.url
    upstreams = [
        Upstream("anthropic", url),
        Upstream("openai", url),
        Upstream("gemini", url),
        Upstream(
            "anthropic", url, "mapped", extra={"MODELS": "fast = claude-opus-5, claude-haiku-4-5"}
        ),
        Upstream(
            "anthropic", url, "lists", extra={"MODELS": "claude-opus-5, claude-haiku-4-5, o* = *"}
        ),
        Upstream("anthropic", NOBODY, "down", extra={"FALLBACK": "forbidden, anthropic"}),
        Upstream("anthropic", url, "forbidden"),
    ]
    gateway = GatewayProcess(
        folder, upstreams, ["--prometheus-enable", "--prometheus-address", "127.0.0.1:0"], workers=2
    )
    (folder / "policy.yaml").write_text(POLICY)
    for command in (
        ("policy", "apply", "policy.yaml", "--yes"),
        ("groups", "create", "research"),
        ("groups", "create", "tight"),
        ("users", "create", "rita", "zed", "zoe"),
        ("groups", "add", "research", "rita"),
        ("groups", "add", "tight", "zed", "zoe"),
    ):
        done = manage(gateway, *command)
        assert done.returncode == 0, done.stderr
    with gateway:
        yield gateway


def manage(gateway: GatewayProcess, *command: str) -> subprocess.CompletedProcess[str]:
    return gateway.command(*command, "--local-db", str(gateway.database))


def ask(
    gateway: GatewayProcess,
    user: str,
    model: str = "claude-haiku-4-5",
    name: str = "anthropic",
    **more: Any,
) -> requests.Response:
    return requests.post(
        f"{gateway.url}/{name}/v1/messages",
        json={
            "model": model,
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "a secret of mine"}],
            **more,
        },
        headers={"X-Api-Key": gateway.key(user)},
        timeout=30,
    )


def claude(gateway: GatewayProcess, user: str) -> anthropic.Anthropic:
    return closed_later(
        anthropic.Anthropic(
            api_key=gateway.key(user), base_url=f"{gateway.url}/anthropic", max_retries=0
        )
    )


def gpt(gateway: GatewayProcess, user: str) -> openai.OpenAI:
    return closed_later(
        openai.OpenAI(api_key=gateway.key(user), base_url=f"{gateway.url}/openai/v1", max_retries=0)
    )


def line_of(gateway: GatewayProcess, request_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        for line in gateway.logs():
            fields = line.get("fields", {})
            if fields.get("request_id") == request_id and message_of(line) == "request":
                return dict(fields)
        return None

    line: dict[str, Any] = wait_until(found, "the line of the request")
    return line


def test_a_refused_model_is_told_with_its_rule_and_whom_to_ask(gateway: GatewayProcess) -> None:
    client = claude(gateway, "alice")
    client.messages.create(
        model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    )
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        client.messages.create(
            model="claude-opus-5", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )
    said = refused.value.body
    assert isinstance(said, dict)
    assert said["error"] == {
        "type": "permission_error",
        "message": 'the model "claude-opus-5" is not allowed by the policy (everybody.models)'
        " until that is changed; ask platform@example.com",
    }
    headers = refused.value.response.headers
    assert "X-AI-Gateway-Interception-Id" not in headers
    line = line_of(gateway, headers[REQUEST_ID_HEADER])
    assert (line["reason"], line["rule"]) == ("policy_model", "everybody.models")


def test_openais_clients_are_told_in_their_shape(gateway: GatewayProcess) -> None:
    client = gpt(gateway, "alice")
    client.responses.create(model="gpt-5", input="hi")
    with pytest.raises(openai.PermissionDeniedError, match=r"everybody\.models"):
        client.responses.create(model="o9", input="hi")
    with pytest.raises(openai.PermissionDeniedError, match=r"ask platform@example\.com"):
        client.chat.completions.create(
            model="o9", messages=[{"role": "user", "content": "hi"}], stream=True
        )


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
def test_googles_models_in_the_path_are_looked_at(gateway: GatewayProcess, method: str) -> None:
    def call(model: str) -> requests.Response:
        return requests.post(
            f"{gateway.url}/gemini/v1beta/models/{model}:{method}",
            json={"contents": [{"parts": [{"text": "hi"}]}]},
            headers={"x-goog-api-key": gateway.key()},
            timeout=30,
        )

    assert call("gemini-3-flash").status_code == 200
    refused = call("gemini-3-pro")
    assert refused.status_code == 403
    assert refused.json()["error"]["status"] == "PERMISSION_DENIED"
    assert "gemini-3-pro" in refused.json()["error"]["message"]


def test_the_model_that_a_name_stands_for_must_be_allowed_too(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "alice", "fast", "mapped")
    assert refused.status_code == 403
    assert '"claude-opus-5" is not allowed' in refused.json()["error"]["message"]
    assert ask(gateway, "rita", "fast", "mapped").status_code == 200


@pytest.mark.parametrize(
    "beside",
    [
        {"models": ["claude-haiku-4-5", "claude-opus-5"]},
        {"fallbacks": [{"model": "claude-opus-5"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"}]},
    ],
)
def test_models_that_a_request_names_beside_its_own_are_looked_at(
    gateway: GatewayProcess, beside: dict[str, Any]
) -> None:
    refused = ask(gateway, "alice", **beside).json()
    assert '"claude-opus-5" is not allowed' in refused["error"]["message"]
    assert ask(gateway, "rita", **beside).ok
    tools = [{"name": "model", "input_schema": {"type": "object"}}]
    assert ask(gateway, "alice", models=["claude-haiku-4-5"], tools=tools).ok


def test_a_group_may_more_and_an_empty_list_allows_nothing(gateway: GatewayProcess) -> None:
    assert ask(gateway, "rita", "claude-opus-5").status_code == 200
    refused = ask(gateway, "nobody")
    assert "users.nobody.models" in refused.json()["error"]["message"]


def test_passed_requests_that_name_a_model_are_looked_at(gateway: GatewayProcess) -> None:
    def count(model: str) -> requests.Response:
        return requests.post(
            f"{gateway.url}/anthropic/v1/messages/count_tokens",
            json={"model": model, "messages": [{"role": "user", "content": "hi"}]},
            headers={"X-Api-Key": gateway.key()},
            timeout=30,
        )

    assert count("claude-haiku-4-5").status_code == 200
    refused = count("claude-opus-5")
    assert refused.status_code == 403
    assert refused.json()["error"]["type"] == "permission_error"


def test_providers_that_are_not_allowed_are_refused_on_every_way(
    gateway: GatewayProcess,
) -> None:
    refused = ask(gateway, "oscar")
    assert refused.status_code == 403
    assert (
        'the provider "anthropic" is not allowed by the policy (users.oscar.providers)'
        in refused.json()["error"]["message"]
    )
    listed = requests.get(
        f"{gateway.url}/anthropic/v1/models",
        headers={"X-Api-Key": gateway.key("oscar")},
        timeout=30,
    )
    assert listed.status_code == 403
    assert gpt(gateway, "oscar").responses.create(model="gpt-5", input="hi").output_text
    assert ask(gateway, "alice", name="forbidden").status_code == 403


def test_a_provider_that_is_not_allowed_stands_in_for_none(gateway: GatewayProcess) -> None:
    got = ask(gateway, "alice", name="down")
    assert got.status_code == 200, got.text
    recorded = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert recorded["provider_name"] == "anthropic"
    gateway.allowed_errors.append("upstream request failed")
    assert ask(gateway, "peter", name="down").status_code == 502


def test_lists_of_models_show_what_may_be_used(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    anthropics = {
        "data": [
            {"type": "model", "id": "claude-opus-5", "display_name": "Opus"},
            {"type": "model", "id": "claude-haiku-4-5", "display_name": "H\u00e4iku", "n": 1.50},
        ],
        "has_more": True,
        "last_id": "claude-haiku-4-5",
    }
    provider.play(answer(anthropics, encoding="gzip"))
    provider.play(answer({"object": "list", "data": [{"id": "o9"}]}))
    found = claude(gateway, "alice").models.list()
    assert [each.id for each in found.data] == ["claude-haiku-4-5"]
    assert found.has_more
    assert [each.id for each in gpt(gateway, "alice").models.list().data] == []
    provider.play(answer(anthropics))
    assert len(claude(gateway, "rita").models.list().data) == 2


def test_own_lists_of_models_show_what_may_be_used(gateway: GatewayProcess) -> None:
    def models(user: str, path: str = "") -> requests.Response:
        return requests.get(
            f"{gateway.url}/lists/v1/models{path}",
            headers={"X-Api-Key": gateway.key(user)},
            timeout=30,
        )

    assert [each["id"] for each in models("alice").json()["data"]] == ["claude-haiku-4-5"]
    assert len(models("rita").json()["data"]) == 2
    assert models("alice", "/claude-haiku-4-5").status_code == 200
    assert models("alice", "/claude-opus-5").status_code == 403
    asked = requests.get(
        f"{gateway.url}/anthropic/v1/models/claude-opus-5",
        headers={"X-Api-Key": gateway.key("alice")},
        timeout=30,
    )
    assert asked.status_code == 403


def test_a_limit_of_one_is_one_and_a_limit_of_none_is_none_in_every_minute(
    gateway: GatewayProcess,
) -> None:
    assert ask(gateway, "uno").status_code == 200
    said = ask(gateway, "uno").json()["error"]["message"]
    told = "the policy allows 1 request per minute (users.uno.requests_per_minute), and it is used"
    assert said.startswith(told)
    refused = ask(gateway, "nil")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    assert refused.json()["error"]["message"] == (
        "the policy allows no requests (users.nil.requests_per_minute) until that is changed;"
        " ask platform@example.com"
    )


def test_requests_per_minute_are_counted_over_all_workers(gateway: GatewayProcess) -> None:
    answers = [ask(gateway, "carol") for _ in range(8)]
    assert [each.status_code for each in answers] == [200] * 3 + [429] * 5
    refused = answers[-1]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    said = refused.json()["error"]["message"]
    assert "allows 3 requests per minute (users.carol.requests_per_minute)" in said
    assert "used up until " in said
    assert said.endswith("; ask platform@example.com")
    line = line_of(gateway, refused.headers[REQUEST_ID_HEADER])
    assert (line["reason"], line["rule"]) == ("policy_requests", "users.carol.requests_per_minute")
    with pytest.raises(anthropic.RateLimitError):
        claude(gateway, "carol").messages.count_tokens(
            model="claude-haiku-4-5", messages=[{"role": "user", "content": "hi"}]
        )
    assert ask(gateway, "alice").status_code == 200


def test_a_group_shares_what_is_limited_for_all_of_it(gateway: GatewayProcess) -> None:
    answers = [ask(gateway, user).status_code for user in ("zed", "zoe") * 3]
    assert sorted(answers) == [200] * 4 + [429] * 2


def test_tokens_per_minute_are_counted_when_they_are_known(gateway: GatewayProcess) -> None:
    assert ask(gateway, "tom").status_code == 200
    refused = ask(gateway, "tom")
    assert refused.status_code == 429
    assert "2 tokens per minute (users.tom.tokens_per_minute)" in refused.text
    assert line_of(gateway, refused.headers[REQUEST_ID_HEADER])["reason"] == "policy_tokens"


def test_content_of_those_whom_the_policy_spares_is_not_recorded(
    gateway: GatewayProcess,
) -> None:
    for user, prompts in (("alice", 1), ("nina", 0)):
        got = ask(gateway, user)
        recorded = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
        assert len(recorded["user_prompts"]) == prompts
        assert recorded["token_usages"]


def test_refusals_are_counted_by_reason(gateway: GatewayProcess) -> None:
    assert ask(gateway, "nobody").status_code == 403
    address = next(
        line["fields"]["addr"]
        for line in gateway.logs()
        if line.get("fields", {}).get("name") == "prometheus"
    )

    def counted() -> bool:
        text = requests.get(f"http://{address}/metrics", timeout=30).text
        return any(
            line.startswith("coder_ai_gateway_requests_refused_total")
            and 'reason="policy_model"' in line
            and float(line.rpartition(" ")[2]) >= 1
            for line in text.splitlines()
        )

    wait_until(counted, "the refusal is counted")


def test_a_keys_own_rules_narrow_what_its_user_may(gateway: GatewayProcess) -> None:
    made = manage(
        gateway,
        "keys",
        "create",
        "rita",
        "-q",
        "--model",
        "claude-opus-*",
        "--requests-per-minute",
        "1",
    )
    key = made.stdout.strip()

    def call(model: str) -> requests.Response:
        return requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            json={
                "model": model,
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "hi"}],
            },
            headers={"X-Api-Key": key},
            timeout=30,
        )

    assert call("claude-opus-5").status_code == 200
    assert call("claude-opus-5").status_code == 429
    assert ask(gateway, "rita", "claude-haiku-4-5").status_code == 200


def test_a_new_policy_holds_within_five_seconds(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert ask(gateway, "dora", "claude-opus-5").status_code == 403
    text = POLICY.replace("users:", 'users:\n  dora: {models: ["*"]}', 1)
    (gateway.folder / "next.yaml").write_text(text)
    done = manage(gateway, "policy", "apply", "next.yaml", "--yes")
    assert done.returncode == 0, done.stderr
    assert "+ users.dora.models: [*]" in done.stdout
    since = time.monotonic()
    in_a_row = 0
    while in_a_row < 10:
        assert time.monotonic() - since < 5, "the policy did not reach all workers"
        in_a_row = in_a_row + 1 if ask(gateway, "dora", "claude-opus-5").ok else 0


def test_a_disabled_user_is_refused_at_once(gateway: GatewayProcess) -> None:
    assert ask(gateway, "gone").status_code == 200
    assert manage(gateway, "users", "disable", "gone").returncode == 0
    refused = ask(gateway, "gone")
    assert refused.status_code == 403
    line = line_of(gateway, refused.headers[REQUEST_ID_HEADER])
    assert (line["reason"], line["rule"]) == ("unauthorized", "user disabled")
