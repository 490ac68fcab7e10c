"""Claude on Vertex AI, through a real gateway with the real clients and Google's own library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import pytest
import requests
from claude_code import USER, models_asked_by_claude_code
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, error, imitate
from node_clients import run_node
from vertex_stub import PROJECT, VertexStub

PROMPT = "tell me about angels on pins"
MODEL = "claude-sonnet-4-5@20250929"
ASK: dict[str, Any] = {"max_tokens": 2000, "messages": [{"role": "user", "content": PROMPT}]}
PREFIX = "CODER_AI_GATEWAY_PROVIDER_0_"


def upstream(url: str, file: str = "", name: str = "vertex", **extra: str) -> Upstream:
    fields = {"VERTEX_PROJECT": PROJECT, "VERTEX_REGION": "europe-west1", "BASE_URL": url, **extra}
    if file:
        fields["VERTEX_CREDENTIALS_FILE"] = file
    return Upstream("vertex", url, name=name, key="", extra=fields)


@pytest.fixture(scope="module")
def stub() -> VertexStub:
    return VertexStub()


@pytest.fixture(scope="module")
def google(stub: VertexStub) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=stub) as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    google: ScriptedProvider,
    stub: VertexStub,
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gw")
    file = stub.service_account(folder, google.url)
    with ScriptedProvider(otherwise=imitate()) as claude:
        upstreams = [
            upstream(google.url, file),
            upstream(google.url, file, "listed", MODELS=f"sonnet = {MODEL}"),
            upstream(google.url, file, "rescued", FALLBACK="claude"),
            Upstream("anthropic", claude.url, name="claude", extra={"FALLBACK": "listed"}),
        ]
        with GatewayProcess(folder, upstreams, ["--worker-class", request.param]) as gateway:
            yield gateway


def client_for(gateway: GatewayProcess, name: str = "vertex") -> anthropic.AnthropicVertex:
    return anthropic.AnthropicVertex(
        region="us-east5",
        project_id="what-the-client-says",
        access_token=gateway.key(),
        base_url=f"{gateway.url}/{name}/v1",
        max_retries=0,
    )


def test_anthropics_client_for_vertex_works_and_is_recorded(
    gateway: GatewayProcess, stub: VertexStub
) -> None:
    with client_for(gateway) as client:
        raw = client.messages.with_raw_response.create(model=MODEL, **ASK)
    model, token = stub.asked[-1]
    assert (model, token.startswith("ya29.account-")) == (MODEL, True)
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert (found["model"], found["provider"]) == (MODEL, "vertex")
    assert found["user_prompts"][0]["prompt"] == PROMPT
    (used,) = found["token_usages"]
    assert used["output_tokens"] == raw.parse().usage.output_tokens
    assert used["cost_nano_usd"] > 0
    assert found["credential_hint"] == "<google credentials>"


def test_a_stream_is_relayed_and_recorded(gateway: GatewayProcess) -> None:
    with client_for(gateway) as client, client.messages.stream(model=MODEL, **ASK) as answer:
        message = answer.get_final_message()
        interception = answer.response.headers["x-ai-gateway-interception-id"]
    (used,) = gateway.records(interception)["token_usages"]
    assert used["output_tokens"] == message.usage.output_tokens


def test_tokens_are_counted(gateway: GatewayProcess, stub: VertexStub) -> None:
    with client_for(gateway) as client:
        counted = client.messages.count_tokens(model=MODEL, messages=ASK["messages"])
    assert counted.input_tokens > 0
    assert stub.asked[-1][0] == "count-tokens"


def test_a_body_in_vertexs_form_goes_on_as_it_came(
    gateway: GatewayProcess, google: ScriptedProvider
) -> None:
    body = (
        b'{ "anthropic_version" : "vertex-2023-10-16","max_tokens":16,\n'
        b' "messages":[{"role":"user","content":"caf\\u00e9"}]}'
    )
    answered = requests.post(
        f"{gateway.url}/vertex/v1/projects/p/locations/l/publishers/anthropic/models/"
        f"{MODEL}:rawPredict",
        data=body,
        headers={"Authorization": f"Bearer {gateway.key()}", "Content-Type": "application/json"},
        timeout=10,
    )
    assert answered.status_code == 200, answered.text
    assert google.requests[-1].body == body


@pytest.mark.parametrize("streaming", [False, True])
def test_clients_of_anthropics_own_api_are_answered_by_vertex(
    gateway: GatewayProcess, stub: VertexStub, streaming: bool
) -> None:
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/vertex", api_key=gateway.key(), max_retries=0
    ) as client:
        raw = client.messages.with_raw_response.create(
            model="claude-opus-4-8-20260901", stream=streaming, **ASK
        )
        if streaming:
            assert [event.type for event in raw.parse()][-1] == "message_stop"
        counted = client.messages.count_tokens(
            model="claude-opus-4-8-20260901", messages=ASK["messages"]
        )
    assert counted.input_tokens > 0
    assert [model for model, _ in stub.asked[-2:]] == ["claude-opus-4-8@20260901", "count-tokens"]
    assert stub.bodies[-1]["model"] == "claude-opus-4-8@20260901"
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert found["model"] == "claude-opus-4-8-20260901"
    assert found["token_usages"][0]["output_tokens"] > 0


def test_a_list_of_models_holds_in_the_path(gateway: GatewayProcess, stub: VertexStub) -> None:
    with client_for(gateway, "listed") as client:
        client.messages.create(model="sonnet", **ASK)
        with pytest.raises(anthropic.NotFoundError, match="has no model"):
            client.messages.create(model=MODEL, **ASK)
    assert stub.asked[-1][0] == MODEL


def test_anthropic_stands_in_for_vertex_in_its_own_form_only(
    gateway: GatewayProcess, google: ScriptedProvider
) -> None:
    google.play(error(503))
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/rescued", api_key=gateway.key(), max_retries=0
    ) as client:
        assert client.messages.create(model="claude-sonnet-5", **ASK).content
    google.play(error(503))
    with client_for(gateway, "rescued") as client, pytest.raises(anthropic.InternalServerError):
        client.messages.create(model=MODEL, **ASK)


def test_a_revoked_token_is_renewed_once_under_load(
    gateway: GatewayProcess, stub: VertexStub
) -> None:
    with client_for(gateway) as client:
        client.messages.create(model=MODEL, **ASK)
        before = len(stub.given)

        def ask(number: int) -> bool:
            if number == 20:
                stub.revoked.add(stub.asked[-1][1])
            return bool(client.messages.create(model=MODEL, **ASK).content)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(60)))
    assert len(stub.given) == before + 1
    assert "ya29." not in json.dumps(gateway.logs())


def test_what_vertex_does_not_have_is_not_served(gateway: GatewayProcess) -> None:
    headers = {"Authorization": f"Bearer {gateway.key()}"}
    place = "v1/projects/p/locations/l/publishers"
    for method, path in (
        ("GET", "v1/models"),
        ("POST", f"{place}/google/models/gemini:generateContent"),
        ("POST", f"{place}/anthropic/models/m:predict"),
        ("GET", f"{place}/anthropic/models/m:rawPredict"),
        ("POST", f"{place}/anthropic/models/count-tokens:streamRawPredict"),
    ):
        answered = requests.request(
            method, f"{gateway.url}/vertex/{path}", json={}, headers=headers, timeout=10
        )
        assert answered.status_code == 404, (path, answered.text)


def test_anthropics_client_for_node_works(gateway: GatewayProcess) -> None:
    told = run_node(
        """
        import { AnthropicVertex } from "@anthropic-ai/vertex-sdk";
        const client = new AnthropicVertex({
            region: "global", projectId: "any", baseURL: process.env.BASE, maxRetries: 0,
            authClient: {
                projectId: "any",
                getRequestHeaders: async () =>
                    new Headers({ Authorization: `Bearer ${process.env.KEY}` }),
            } });
        const ask = { model: process.env.MODEL, max_tokens: 2000,
            messages: [{ role: "user", content: "tell me about angels on pins" }] };
        const whole = await client.messages.create(ask);
        const stream = await client.messages.create({ ...ask, stream: true });
        let text = "";
        for await (const event of stream)
            if (event.type === "content_block_delta") text += event.delta.text ?? "";
        console.log(JSON.stringify({ whole: whole.content.at(-1).text, text }));
        """,
        {"BASE": f"{gateway.url}/vertex/v1", "KEY": gateway.key(), "MODEL": MODEL},
    )
    assert told["whole"] == told["text"] != ""


@pytest.mark.parametrize("way", ["workload", "machine"])
def test_other_identities_get_tokens_too(
    tmp_path: Path, google: ScriptedProvider, stub: VertexStub, way: str
) -> None:
    file = stub.workload_identity(tmp_path, google.url) if way == "workload" else ""
    host = google.url.removeprefix("http://")
    environ = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "HOME": str(tmp_path)}
    with (
        GatewayProcess(tmp_path / "gw", [upstream(google.url, file)], environ=environ) as gateway,
        client_for(gateway) as client,
    ):
        client.messages.create(model=MODEL, **ASK)
    assert stub.asked[-1][1].startswith(f"ya29.{way}-")


def test_without_credentials_a_request_is_told_why(
    tmp_path: Path, google: ScriptedProvider
) -> None:
    missing = str(tmp_path / "missing.json")
    with (
        GatewayProcess(tmp_path / "gw", [upstream(google.url, missing)]) as gateway,
        client_for(gateway) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model=MODEL, **ASK)
    assert caught.value.status_code == 503
    assert "no Google credentials found" in str(caught.value)


@pytest.mark.parametrize(
    ("region", "address"),
    [
        ("europe-west1", "https://europe-west1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_the_check_shows_where_a_region_is_and_what_is_missing(
    tmp_path: Path, region: str, address: str
) -> None:
    gateway = GatewayProcess(tmp_path, [upstream("", VERTEX_REGION=region, BASE_URL="")])
    (provider,) = json.loads(gateway.command("check", "--local", "--json").stdout)["providers"]
    assert (provider["base_url"], provider["status"]) == (address, "enabled")
    assert provider["credentials"] == "google credentials of the machine"
    gateway = GatewayProcess(tmp_path, [upstream("", VERTEX_PROJECT="")])
    told = gateway.command("check", "--local", "--json")
    assert "VERTEX_PROJECT and VERTEX_REGION are required" in told.stdout


def test_the_check_dials_with_a_token(
    tmp_path: Path, google: ScriptedProvider, stub: VertexStub
) -> None:
    file = stub.service_account(tmp_path, google.url)
    gateway = GatewayProcess(tmp_path / "gw", [upstream(google.url, file)])
    told = json.loads(gateway.command("check", "--local", "--dial", "--json").stdout)
    (dialled,) = [each for each in told["dialled"] if each["target"] == "vertex"]
    assert (dialled["status"], dialled["problem"]) == (400, None)


def test_claude_code_works_over_vertexs_paths(gateway: GatewayProcess, tmp_path: Path) -> None:
    asked = models_asked_by_claude_code(
        gateway,
        tmp_path,
        PROMPT,
        MODEL,
        {
            "CLAUDE_CODE_USE_VERTEX": "1",
            "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1",
            "CLOUD_ML_REGION": "europe-west1",
            "ANTHROPIC_VERTEX_PROJECT_ID": "any",
            "ANTHROPIC_VERTEX_BASE_URL": f"{gateway.url}/vertex/v1",
            "ANTHROPIC_CUSTOM_HEADERS": f"x-api-key: {gateway.key(USER)}",
        },
    )
    assert MODEL in {model for _, model in asked}
