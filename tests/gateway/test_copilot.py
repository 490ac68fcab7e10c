"""Copilot behind a real gateway: always the user's own GitHub token, never a key of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer

GITHUB = "tid=githubtokenofalice0123456789;exp=1"
EDITOR = {
    "Editor-Version": "vscode/1.99.0",
    "Copilot-Integration-Id": "vscode-chat",
    "User-Agent": "GitHubCopilotChat/0.30.0",
    "x-interaction-id": "interaction-7",
}
CHAT = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "tell me of angels"}]}


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def copilot(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    upstreams = [
        Upstream("copilot", provider.url, key=""),
        Upstream("copilot", f"{provider.url}/enterprise", "copilot-work", key=""),
    ]
    options = ["--worker-class", request.param, "--ai-gateway-send-actor-headers"]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams, options) as gateway:
        yield gateway


def headers(gateway: GatewayProcess, token: str = GITHUB) -> dict[str, str]:
    """What a Copilot client behind the gateway sends."""
    own = {"Authorization": f"Bearer {token}"} if token else {}
    return {"X-Coder-AI-Governance-Token": gateway.key(), **own, **EDITOR}


def ask(gateway: GatewayProcess, path: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(
        f"{gateway.url}{path}", json=body, headers=more.pop("headers", headers(gateway)), timeout=30
    )


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/chat/completions", CHAT, "choices"),
        ("/responses", {"model": "gpt-4.1", "input": "tell me of angels"}, "output"),
        ("/responses/compact", {"model": "gpt-4.1", "input": "tell me of angels"}, "output"),
        ("/v1/messages", {**CHAT, "model": "claude-x", "max_tokens": 9}, "content"),
    ],
)
def test_every_api_is_intercepted_and_called_with_the_users_token(
    copilot: GatewayProcess, provider: ScriptedProvider, path: str, body: Any, key: str
) -> None:
    # The imitation knows the APIs by OpenAI's paths.
    provider.play(lambda request: provider_answer(path))
    got = ask(copilot, f"/copilot{path}", body)
    assert got.status_code == 200
    assert key in got.json()
    asked = provider.requests[-1]
    assert asked.target == path
    assert asked.header("Authorization") == f"Bearer {GITHUB}"
    for name, value in EDITOR.items():
        assert asked.header(name) == value
    assert copilot.key() not in repr(asked.headers)
    assert asked.header("X-Coder-AI-Governance-Token") is None
    assert not [name for name, _ in asked.headers if name.lower().startswith("x-ai-bridge")]
    found = copilot.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert (found["provider"], found["provider_name"]) == ("copilot", "copilot")
    assert (found["credential_kind"], found["credential_hint"]) == ("byok", "tid=...xp=1")
    assert (found["client"], found["client_session_id"]) == (
        "GitHub Copilot (VS Code)",
        "interaction-7",
    )
    assert [row["prompt"] for row in found["user_prompts"]] == ["tell me of angels"]
    assert len(found["token_usages"]) == 1


def provider_answer(path: str) -> Any:
    """A small answer of the API behind ``path``."""
    if path == "/chat/completions":
        message = {"role": "assistant", "content": "Many."}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return answer({"id": "chatcmpl-1", "choices": [choice], "usage": usage})
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    if path.startswith("/responses"):
        return answer({"id": "resp_1", "status": "completed", "output": [], "usage": usage})
    return answer({"id": "msg_1", "type": "message", "content": [], "usage": usage})


def test_the_openai_sdk_streams_through_it(
    copilot: GatewayProcess, provider: ScriptedProvider
) -> None:
    lines = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "Many."}}]},
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    ]
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    provider.play(answer(body, content_type="text/event-stream", framing="chunked"))
    with openai.OpenAI(
        base_url=f"{copilot.url}/copilot",
        api_key=GITHUB,
        default_headers={"X-Coder-AI-Governance-Token": copilot.key()},
        max_retries=0,
    ) as client:
        chunks = list(client.chat.completions.create(**CHAT, stream=True))  # type: ignore[call-overload]
    assert chunks[0].choices[0].delta.content == "Many."
    assert provider.requests[-1].header("Authorization") == f"Bearer {GITHUB}"


@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/gpt-4.1",
        "/agents/x",
        "/mcp/readonly",
        "/.well-known/x",
        "/_ping",
        "/user",
        "/chat/completions/input",
        "/v2/some/new/route",
        "/audio/speech",
    ],
)
def test_other_routes_are_passed_through_with_the_users_token(
    copilot: GatewayProcess, provider: ScriptedProvider, path: str
) -> None:
    provider.play(answer({"ok": True}))
    got = requests.get(
        f"{copilot.url}/copilot-work{path}?a=b", headers=headers(copilot), timeout=30
    )
    assert got.json() == {"ok": True}
    asked = provider.requests[-1]
    assert asked.target == f"/enterprise{path}?a=b"
    assert asked.header("Authorization") == f"Bearer {GITHUB}"
    assert copilot.key() not in repr(asked.headers)


@pytest.mark.parametrize("path", ["/chat/completions/", "/responses;a=b", "/V1/Messages"])
def test_what_a_server_may_take_for_a_recorded_route_is_404(
    copilot: GatewayProcess, provider: ScriptedProvider, path: str
) -> None:
    before = len(provider.requests)
    got = requests.post(f"{copilot.url}/copilot{path}", headers=headers(copilot), timeout=30)
    assert got.status_code == 404
    assert f"route not supported: POST /copilot{path}" in got.text
    assert len(provider.requests) == before


def test_without_a_github_token_it_is_refused(
    copilot: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = len(provider.requests)
    got = ask(copilot, "/copilot/chat/completions", CHAT, headers=headers(copilot, ""))
    assert got.status_code == 400
    assert "missing Copilot authorization" in got.json()["error"]["message"]
    # The Coder token in the usual place is no GitHub token.
    only = {"Authorization": f"Bearer {copilot.key()}"}
    got = ask(copilot, "/copilot/chat/completions", CHAT, headers=only)
    assert got.status_code == 400
    assert len(provider.requests) == before


def test_an_error_of_github_is_relayed_and_recorded(
    copilot: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = {"error": {"message": "quota exceeded", "code": "quota_exceeded"}}
    provider.play(answer(body, 429, [("Retry-After", "7")]))
    got = ask(copilot, "/copilot/chat/completions", CHAT)
    assert (got.status_code, got.json()) == (429, body)
    assert got.headers["Retry-After"] == "7"
    found = copilot.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["error_type"] == "rate_limited"
