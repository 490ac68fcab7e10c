"""Azure OpenAI as its users write it, through a real gateway with the real clients."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator

import openai
import pytest
import requests
from azure_stub import KEY, AzureStub, entra_token
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer, error, imitate
from node_clients import run_node

PROMPT = "tell me about angels on pins"
VERSION = "2024-10-21"
ASK = {"messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture(scope="module")
def stub() -> AzureStub:
    return AzureStub()


@pytest.fixture(scope="module")
def azure(stub: AzureStub) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=stub) as provider:
        yield provider


@pytest.fixture(scope="module")
def backup() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    azure: ScriptedProvider,
    backup: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    """``azure``; ``bare``, whose address is the resource alone; ``listed``, with names of its own;
    ``rescued``, which falls back on OpenAI; ``entra``, with a token."""

    def upstream(name: str, path: str = "/openai/v1", **extra: str) -> Upstream:
        fields = {"KEY": KEY, "BASE_URL": f"{azure.url}{path}", **extra}
        return Upstream("azure", azure.url, name=name, key="", extra=fields)

    upstreams = [
        upstream("azure"),
        upstream("bare", ""),
        upstream("listed", MODELS="gpt-4.1 = prod-chat"),
        upstream("rescued", FALLBACK="backup"),
        upstream("entra", KEY=entra_token(3600)),
        Upstream("openai", backup.url, name="backup"),
    ]
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, ["--worker-class", request.param]) as gateway:
        yield gateway


def client_for(gateway: GatewayProcess, name: str = "azure") -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=f"{gateway.url}/{name}",
        api_key=gateway.key(),
        api_version=VERSION,
        max_retries=0,
    )


def test_azures_own_client_asks_a_deployment(
    gateway: GatewayProcess, azure: ScriptedProvider, stub: AzureStub
) -> None:
    with client_for(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(model="prod-chat", **ASK)
    assert raw.parse().choices[0].message.content
    target, who = stub.asked[-1]
    assert (target, who) == (
        f"/openai/deployments/prod-chat/chat/completions?api-version={VERSION}",
        "key",
    )
    assert azure.requests[-1].json()["model"] == "prod-chat"
    assert azure.requests[-1].header("Authorization") is None
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert (found["model"], found["provider_name"]) == ("prod-chat", "azure")
    assert found["user_prompts"][0]["prompt"] == PROMPT


def test_a_deployment_costs_what_the_model_costs_that_answers(gateway: GatewayProcess) -> None:
    with client_for(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(model="prod-chat", **ASK)
    (used,) = gateway.records(raw.headers["x-ai-gateway-interception-id"])["token_usages"]
    assert json.loads(used["metadata"])["provider_model"] == "gpt-4.1-2025-04-14"
    assert used["cost_nano_usd"] > 0
    assert "gpt-4.1" in used["price"]


def test_a_stream_of_a_deployment_is_recorded(gateway: GatewayProcess) -> None:
    with (
        client_for(gateway) as client,
        client.chat.completions.with_streaming_response.create(
            model="prod-chat", stream=True, **ASK
        ) as raw,
    ):
        assert b"[DONE]" in b"".join(raw.iter_bytes())
        interception = raw.headers["x-ai-gateway-interception-id"]
    (used,) = gateway.records(interception)["token_usages"]
    assert used["output_tokens"] > 0


def test_embeddings_and_responses_are_azures_too(gateway: GatewayProcess, stub: AzureStub) -> None:
    with client_for(gateway) as client:
        raw = client.embeddings.with_raw_response.create(
            model="prod-vectors", input="hello", encoding_format="float"
        )
        assert raw.parse().data[0].embedding == [0.5, -0.25]
        assert client.responses.create(model="prod-chat", input=PROMPT).output_text
    assert [target for target, _ in stub.asked[-2:]] == [
        f"/openai/deployments/prod-vectors/embeddings?api-version={VERSION}",
        f"/openai/responses?api-version={VERSION}",
    ]
    (used,) = gateway.records(raw.headers["x-ai-gateway-interception-id"])["token_usages"]
    assert used["input_tokens"] == 8


def test_a_recording_goes_to_a_deployment_byte_for_byte(
    gateway: GatewayProcess, azure: ScriptedProvider
) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\1" * 8000)
    with client_for(gateway) as client:
        heard = client.audio.transcriptions.create(
            model="prod-chat", file=("speech.wav", file.getvalue())
        )
    assert heard.text == "Hello, Ghent."
    assert file.getvalue() in azure.requests[-1].body


@pytest.mark.parametrize("name", ["azure", "bare"])
@pytest.mark.parametrize("path", ["openai/v1", "v1"])
def test_the_versioned_api_is_found_by_either_path(
    gateway: GatewayProcess, stub: AzureStub, name: str, path: str
) -> None:
    with openai.OpenAI(
        base_url=f"{gateway.url}/{name}/{path}", api_key=gateway.key(), max_retries=0
    ) as client:
        client.chat.completions.create(model="prod-chat", **ASK)
    assert stub.asked[-1] == ("/openai/v1/chat/completions", "key")


def test_the_address_of_a_resource_leads_to_its_deployments(
    gateway: GatewayProcess, stub: AzureStub
) -> None:
    with client_for(gateway, "bare") as client:
        client.chat.completions.create(model="prod-chat", **ASK)
    assert stub.asked[-1][0].startswith("/openai/deployments/prod-chat/chat/completions?")


def test_a_list_of_models_names_deployments_in_the_path(
    gateway: GatewayProcess, azure: ScriptedProvider, stub: AzureStub
) -> None:
    with client_for(gateway, "listed") as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4.1", **ASK)
        with pytest.raises(openai.NotFoundError, match='has no model "prod-chat"'):
            client.chat.completions.create(model="prod-chat", **ASK)
        assert [each.id for each in client.models.list()] == ["gpt-4.1"]
    assert stub.asked[-1][0].startswith("/openai/deployments/prod-chat/chat/completions?")
    # Azure reads the path only, so the body stays as it came.
    assert azure.requests[-1].json()["model"] == "gpt-4.1"
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert found["model"] == "gpt-4.1"
    assert found["token_usages"][0]["cost_nano_usd"] > 0


def test_a_body_goes_to_a_deployment_as_it_came(
    gateway: GatewayProcess, azure: ScriptedProvider
) -> None:
    body = b'{ "messages":[ {"role":"user", "content":"odd \\u00e9"} ],"temperature":1.0}'
    answered = requests.post(
        f"{gateway.url}/listed/openai/deployments/gpt-4.1/chat/completions?api-version={VERSION}",
        data=body,
        headers={"api-key": gateway.key(), "Content-Type": "application/json"},
        timeout=10,
    )
    assert answered.status_code == 200
    assert azure.requests[-1].body == body


def test_a_fallback_of_another_kind_is_asked_in_its_own_form(
    gateway: GatewayProcess, azure: ScriptedProvider, backup: ScriptedProvider
) -> None:
    azure.play(error(503))
    body = b'{"messages":[{"role":"user","content":"hello"}]}'
    answered = requests.post(
        f"{gateway.url}/rescued/openai/deployments/gpt-4.1/chat/completions?api-version={VERSION}",
        data=body,
        headers={"api-key": gateway.key(), "Content-Type": "application/json"},
        timeout=10,
    )
    assert answered.status_code == 200, answered.text
    assert backup.requests[-1].target == "/v1/chat/completions"
    assert backup.requests[-1].json() == {"model": "gpt-4.1", **json.loads(body)}
    assert backup.requests[-1].header("api-key") is None


def test_a_token_of_entra_id_is_a_bearers(gateway: GatewayProcess, stub: AzureStub) -> None:
    with client_for(gateway, "entra") as client:
        client.chat.completions.create(model="prod-chat", **ASK)
    assert stub.asked[-1][1] == "one"


def test_users_bring_keys_and_tokens_of_their_own(gateway: GatewayProcess, stub: AzureStub) -> None:
    own = {"X-Coder-AI-Governance-Token": gateway.key()}
    for more, who in (
        ({"api_key": KEY}, "key"),
        ({"azure_ad_token": entra_token(60, name="own")}, "own"),
    ):
        with openai.AzureOpenAI(
            azure_endpoint=f"{gateway.url}/azure",
            api_version=VERSION,
            default_headers=own,
            max_retries=0,
            **more,
        ) as client:
            client.chat.completions.create(model="prod-chat", **ASK)
        assert stub.asked[-1][1] == who


def test_what_azure_refuses_reaches_its_client(gateway: GatewayProcess) -> None:
    with client_for(gateway) as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nowhere", **ASK)
    assert "deployment" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "openai/deployments/prod-chat/chat/completions/",
        "openai/deployments/prod-chat/completions",
        "openai/deployments/prod%20chat/chat/completions",
        "openai/deployments/prod-chat/models",
        "openai/deployments/prod-chat",
        "openai/deployments",
        "openai/v1/deployments",
        "OpenAI/deployments/prod-chat/chat/completions",
    ],
)
def test_what_is_no_call_of_a_model_is_not_served(gateway: GatewayProcess, path: str) -> None:
    answered = requests.post(
        f"{gateway.url}/azure/{path}?api-version={VERSION}",
        data=b"{}",
        headers={"api-key": gateway.key()},
        timeout=10,
    )
    assert answered.status_code == 404, answered.text
    assert "route not supported" in answered.text


def test_what_another_user_has_stored_is_not_found_below_azures_path(
    gateway: GatewayProcess, azure: ScriptedProvider
) -> None:
    with client_for(gateway) as client:
        made = client.responses.create(model="prod-chat", input=PROMPT)
    asked = len(azure.requests)
    for path in ("openai", "openai/v1", "v1"):
        answered = requests.get(
            f"{gateway.url}/azure/{path}/responses/{made.id}?api-version={VERSION}",
            headers={"api-key": gateway.key("mallory")},
            timeout=10,
        )
        assert answered.status_code == 404
    assert len(azure.requests) == asked


def test_azures_client_for_node_works(gateway: GatewayProcess, stub: AzureStub) -> None:
    told = run_node(
        """
        import { AzureOpenAI } from "openai";
        const client = new AzureOpenAI({ apiVersion: process.env.VERSION, maxRetries: 0 });
        const messages = [{ role: "user", content: "tell me about angels on pins" }];
        const whole = await client.chat.completions.create({ model: "prod-chat", messages });
        let streamed = "";
        const stream = await client.chat.completions.create(
            { model: "prod-chat", messages, stream: true });
        for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
        const vectors = await client.embeddings.create(
            { model: "prod-vectors", input: "hello", encoding_format: "float" });
        console.log(JSON.stringify({
            whole: whole.choices[0].message.content,
            streamed,
            vector: vectors.data[0].embedding,
        }));
        """,
        {
            "AZURE_OPENAI_ENDPOINT": f"{gateway.url}/azure",
            "AZURE_OPENAI_API_KEY": gateway.key(),
            "VERSION": VERSION,
        },
    )
    assert told["whole"] == told["streamed"] != ""
    assert told["vector"] == [0.5, -0.25]
    assert {who for _, who in stub.asked[-3:]} == {"key"}


def test_a_refusal_that_quotes_the_key_hides_it(
    gateway: GatewayProcess, azure: ScriptedProvider
) -> None:
    azure.play(answer({"error": {"code": "401", "message": f"no such key {KEY}"}}, 403))
    with client_for(gateway) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="prod-chat", **ASK)
    assert KEY not in str(caught.value)
