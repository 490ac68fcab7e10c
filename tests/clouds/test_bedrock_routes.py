"""Clients that speak Bedrock's own API, through a real gateway that signs for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import botocore.session
import pytest
import requests
import trustme
from aws_imitation import FRAMES, aws_error, bedrock_stream, chunk_frame
from bedrock_stub import ACCESS_KEY, CONVERSATION, CONVERSED, SECRET, BedrockStub
from claude_code import USER, models_asked_by_claude_code
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import Close, Reset, ScriptedProvider, stream
from node_clients import run_node

MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc"
PROMPT = "tell me about angels on pins"
ASK: dict[str, Any] = {"max_tokens": 2000, "messages": [{"role": "user", "content": PROMPT}]}
NAMED = "x-ai-gateway-interception-id"
CONVERSE = {"messages": [{"role": "user", "content": [{"text": PROMPT}]}]}


@pytest.fixture(scope="module")
def stub() -> BedrockStub:
    return BedrockStub()


@pytest.fixture(scope="module")
def aws(stub: BedrockStub) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=stub) as provider:
        yield provider


def upstream(aws: ScriptedProvider, name: str, **extra: str) -> Upstream:
    fields = {
        "BEDROCK_BASE_URL": aws.url,
        "BEDROCK_REGION": "us-west-2",
        "BEDROCK_ACCESS_KEY": ACCESS_KEY,
        "BEDROCK_ACCESS_KEY_SECRET": SECRET,
    }
    return Upstream("bedrock", aws.url, name=name, key="", extra={**fields, **extra})


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    aws: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    """``aws``; ``listed``, with names of its own; ``unsigned``, whose secret is wrong; ``first``,
    which falls back on ``aws`` and ``claude``."""

    upstreams = [
        upstream(aws, "aws"),
        upstream(aws, "listed", MODELS=f"sonnet = {MODEL}, behind = {ARN}"),
        upstream(aws, "unsigned", BEDROCK_ACCESS_KEY_SECRET="wrong"),
        upstream(aws, "first", FALLBACK="claude,aws"),
        Upstream("anthropic", aws.url, name="claude"),
    ]
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, ["--worker-class", request.param]) as gateway:
        yield gateway


def client_for(gateway: GatewayProcess, name: str = "aws") -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(
        api_key=gateway.key(),
        base_url=f"{gateway.url}/{name}",
        aws_region="us-west-2",
        max_retries=0,
    )


def post(gateway: GatewayProcess, path: str, body: Any, name: str = "aws") -> requests.Response:
    return requests.post(
        f"{gateway.url}/{name}/model/{path}",
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {gateway.key()}", "Content-Type": "application/json"},
        timeout=10,
    )


def test_anthropics_client_for_bedrock_asks_the_model_it_names(
    gateway: GatewayProcess, aws: ScriptedProvider, stub: BedrockStub
) -> None:
    with client_for(gateway) as client:
        raw = client.messages.with_raw_response.create(model=MODEL, **ASK)
    assert stub.models[-1] == MODEL
    assert gateway.key() not in str(aws.requests[-1].headers)
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert (found["model"], found["provider"]) == (MODEL, "bedrock")
    assert found["user_prompts"][0]["prompt"] == PROMPT
    usage = raw.parse().usage
    (used,) = found["token_usages"]
    assert (used["input_tokens"], used["output_tokens"]) == (
        usage.input_tokens,
        usage.output_tokens,
    )
    assert used["cost_nano_usd"] > 0


def test_a_stream_is_relayed_frame_by_frame_and_recorded(
    gateway: GatewayProcess, stub: BedrockStub
) -> None:
    tool = {"name": "add", "input_schema": {"type": "object", "properties": {}}}
    ask = {**ASK, "messages": [{"role": "user", "content": "use the tool add with 3 and 5"}]}
    with (
        client_for(gateway) as client,
        client.messages.stream(model=MODEL, tools=[tool], **ask) as answer,
    ):
        message = answer.get_final_message()
        headers = answer.response.headers
    assert headers["content-type"] == FRAMES
    found = gateway.records(headers["x-ai-gateway-interception-id"])
    (used,) = found["token_usages"]
    assert used["output_tokens"] == message.usage.output_tokens
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert [row["tool_call_id"] for row in found["tool_usages"]] == [call.id]
    assert found["error_type"] is None


def test_bytes_go_to_aws_and_come_back_as_they_were(
    gateway: GatewayProcess, aws: ScriptedProvider
) -> None:
    body = (
        b'{ "anthropic_version" : "bedrock-2023-05-31","max_tokens":1.6e1, '
        b'"anthropic_beta":["new"],'
        b' "thinking":{"type":"adaptive"}, "messages":[{"role":"user","content":"caf\\u00e9"}]}'
    )
    events = [
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}},
    ]
    aws.play(bedrock_stream(events))
    answered = post(gateway, f"{MODEL}/invoke-with-response-stream", body)
    assert aws.requests[-1].body == body
    assert answered.content == b"".join(map(chunk_frame, events))
    assert answered.headers["x-amzn-requestid"] == "r-1"
    (used,) = gateway.records(answered.headers["x-ai-gateway-interception-id"])["token_usages"]
    assert (used["input_tokens"], used["output_tokens"]) == (3, 5)


def test_a_list_of_models_holds_for_bedrocks_own_api(
    gateway: GatewayProcess, stub: BedrockStub
) -> None:
    with client_for(gateway, "listed") as client:
        raw = client.messages.with_raw_response.create(model="sonnet", **ASK)
        assert stub.models[-1] == MODEL
        client.messages.create(model="behind", **ASK)
        assert stub.models[-1] == ARN
        with pytest.raises(anthropic.NotFoundError, match="has no model"):
            client.messages.create(model=MODEL, **ASK)
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert (found["model"], found["token_usages"][0]["cost_nano_usd"] > 0) == ("sonnet", True)


def test_an_arn_is_asked_for_as_it_is(gateway: GatewayProcess, stub: BedrockStub) -> None:
    with client_for(gateway) as client:
        client.messages.create(model=ARN, **ASK)
    assert stub.models[-1] == ARN


def test_what_aws_refuses_reaches_its_client_as_aws_says_it(
    gateway: GatewayProcess, aws: ScriptedProvider
) -> None:
    aws.play(aws_error(400, "ValidationException", "max_tokens: too large"))
    answered = post(gateway, f"{MODEL}/invoke", {"anthropic_version": "x", **ASK})
    assert (answered.status_code, answered.json()) == (400, {"message": "max_tokens: too large"})
    assert answered.headers["x-amzn-errortype"].startswith("ValidationException")
    found = gateway.records(answered.headers["x-ai-gateway-interception-id"])
    assert found["error_message"] == "max_tokens: too large"


def test_a_stream_that_breaks_off_ends_with_an_exception_and_no_clean_end(
    gateway: GatewayProcess, aws: ScriptedProvider
) -> None:
    start = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}}
    aws.play([*bedrock_stream([start], end=False), Reset()])
    with client_for(gateway) as client, pytest.raises(anthropic.APIError) as caught:
        for _event in client.messages.create(model=MODEL, stream=True, **ASK):
            pass
    assert "internalServerException" in str(caught.value) or "500" in str(caught.value)


def test_a_cut_inside_a_frame_stays_a_cut(gateway: GatewayProcess, aws: ScriptedProvider) -> None:
    half = chunk_frame({"type": "message_start", "message": {"id": "m"}})[:40]
    aws.play([*stream([half], content_type=FRAMES, end=False), Close()])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(gateway, f"{MODEL}/invoke-with-response-stream", ASK)


def test_converse_is_passed_with_its_usage_recorded(
    gateway: GatewayProcess, stub: BedrockStub
) -> None:
    whole = post(gateway, "amazon.nova-pro-v1%3A0/converse", CONVERSE)
    streamed = post(gateway, "amazon.nova-pro-v1%3A0/converse-stream", CONVERSE)
    assert whole.json() == CONVERSATION
    assert streamed.content == b"".join(CONVERSED)
    assert stub.models[-2:] == ["amazon.nova-pro-v1:0"] * 2
    for answered in (whole, streamed):
        found = gateway.records(answered.headers["x-ai-gateway-interception-id"])
        assert found["model"] == "amazon.nova-pro-v1:0"
        assert found["user_prompts"][0]["prompt"] == PROMPT
        (used,) = found["token_usages"]
        counts = ("input_tokens", "output_tokens", "cache_read_input_tokens")
        assert [used[name] for name in counts] == [11, 7, 2]
        assert (used["cache_write_input_tokens"], found["error_type"]) == (1, None)


def test_a_converse_stream_without_its_last_event_is_a_cut(
    gateway: GatewayProcess, aws: ScriptedProvider
) -> None:
    aws.play([*stream(CONVERSED[:3], content_type=FRAMES, end=False), Close()])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(gateway, f"{MODEL}/converse-stream", CONVERSE)


def test_tokens_are_counted_in_bedrocks_own_form(gateway: GatewayProcess) -> None:
    answered = post(gateway, f"{MODEL}/count-tokens", {"input": {"converse": CONVERSE}})
    assert (answered.status_code, answered.json()) == (200, {"inputTokens": 42})


def test_only_another_bedrock_stands_in(
    gateway: GatewayProcess, aws: ScriptedProvider, stub: BedrockStub
) -> None:
    aws.play(aws_error(503, "ServiceUnavailableException", "later"))
    with client_for(gateway, "first") as client:
        raw = client.messages.with_raw_response.create(model=MODEL, **ASK)
    assert stub.models[-1] == MODEL
    found = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert json.loads(found["token_usages"][0]["metadata"])["provider_name"] == "aws"


@pytest.mark.parametrize(
    "path",
    [
        f"{MODEL}/invoke/",
        f"{MODEL}/async-invoke",
        f"{MODEL}",
        "amazon.titan-embed-text-v2%3A0/invoke",
        "us.meta.llama3-3-70b-instruct-v1%3A0/invoke",
        "a%5Cb/invoke",
        "/invoke",
        "a%252Fb/invoke",
    ],
)
def test_other_paths_below_a_model_are_not_served(gateway: GatewayProcess, path: str) -> None:
    answered = post(gateway, path, ASK)
    assert (answered.status_code, "route not supported" in answered.text) == (404, True)


def test_a_wrong_key_gets_in_nowhere(gateway: GatewayProcess, aws: ScriptedProvider) -> None:
    asked = len(aws.requests)
    answered = requests.post(
        f"{gateway.url}/aws/model/{MODEL}/invoke",
        json=ASK,
        headers={"Authorization": "Bearer wrong"},
        timeout=10,
    )
    assert answered.status_code == 403
    assert len(aws.requests) == asked


def test_anthropics_client_for_node_works(gateway: GatewayProcess) -> None:
    told = run_node(
        """
        import AnthropicBedrock from "@anthropic-ai/bedrock-sdk";
        const client = new AnthropicBedrock({
            apiKey: process.env.AWS_BEARER_TOKEN_BEDROCK,
            baseURL: process.env.BASE,
            awsRegion: "us-west-2",
            maxRetries: 0,
        });
        const ask = { model: process.env.MODEL, max_tokens: 2000,
            messages: [{ role: "user", content: "tell me about angels on pins" }] };
        const whole = await client.messages.create(ask);
        const stream = await client.messages.create({ ...ask, stream: true });
        let text = "";
        for await (const event of stream)
            if (event.type === "content_block_delta") text += event.delta.text ?? "";
        console.log(JSON.stringify({ whole: whole.content.at(-1).text, text }));
        """,
        {
            "BASE": f"{gateway.url}/aws",
            "AWS_BEARER_TOKEN_BEDROCK": gateway.key(),
            "MODEL": MODEL,
        },
    )
    assert told["whole"] == told["text"] != ""


def test_what_the_gateway_refuses_is_told_as_aws_does(gateway: GatewayProcess) -> None:
    told = {"Authorization": f"Bearer {gateway.key()}"}
    for path, headers, status, said in (
        (f"aws/model/{MODEL}/converse", {"Authorization": "Bearer wrong"}, 403, "unauthorized"),
        (f"aws/model/{MODEL}/invoke", {}, 400, "no authentication key"),
        ("aws/model/amazon.nova-lite-v1:0/invoke", told, 404, "route not supported"),
        (f"listed/model/{MODEL}/converse", told, 404, "has no model"),
        (f"listed/model/{MODEL}/invoke", told, 404, "has no model"),
        (f"listed/model/{MODEL}/count-tokens", told, 404, "has no model"),
        (f"unsigned/model/{MODEL}/converse-stream", told, 502, "credential"),
        (f"unsigned/model/{MODEL}/invoke-with-response-stream", told, 502, "credential"),
        (f"unsigned/model/{MODEL}/count-tokens", told, 502, "credential"),
    ):
        body = (
            CONVERSE if "converse" in path else {"anthropic_version": "bedrock-2023-05-31", **ASK}
        )
        answered = requests.post(f"{gateway.url}/{path}", json=body, headers=headers, timeout=10)
        assert answered.status_code == status, (path, answered.text)
        assert list(answered.json()) == ["message"], (path, answered.text)
        assert said in answered.json()["message"]


def test_awss_client_for_python_works_over_tls(
    tmp_path: Path, aws: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ["--tls-cert-file", str(tmp_path / "tls.crt")]
    options += ["--tls-key-file", str(tmp_path / "tls.key")]
    gateway = GatewayProcess(tmp_path / "gw", [upstream(aws, "aws")], options)
    gateway.start(ready=False)
    try:
        address = gateway.url.replace("http://", "https://")
        ready = partial(requests.get, f"{address}/readyz", verify=str(tmp_path / "ca.pem"))
        wait_until(lambda: ready(timeout=10).ok, "it serves")
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"{address}/aws")
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", gateway.key())
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        client = botocore.session.get_session().create_client("bedrock-runtime")
        told = client.converse(modelId=MODEL, messages=CONVERSE["messages"])
        assert told["output"] == CONVERSATION["output"]
        events = client.converse_stream(modelId=MODEL, messages=CONVERSE["messages"])["stream"]
        assert [next(iter(event)) for event in events][-1] == "metadata"
        body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK})
        asked = client.invoke_model(modelId=MODEL, body=body)
        assert json.loads(asked["body"].read())["type"] == "message"
        assert PROMPT in str(gateway.records(asked["ResponseMetadata"]["HTTPHeaders"][NAMED]))
        client.close()
        gateway.stop()
    finally:
        gateway.kill()


def test_claude_code_works_over_bedrocks_routes(gateway: GatewayProcess, tmp_path: Path) -> None:
    asked = models_asked_by_claude_code(
        gateway,
        tmp_path,
        PROMPT,
        MODEL,
        {
            "CLAUDE_CODE_USE_BEDROCK": "1",
            "ANTHROPIC_BEDROCK_BASE_URL": f"{gateway.url}/aws",
            "AWS_BEARER_TOKEN_BEDROCK": gateway.key(USER),
            "AWS_REGION": "us-west-2",
        },
    )
    # Some of its requests only name the SDK in it.
    assert "Claude Code" in {client for client, _ in asked}
    assert MODEL in {model for _, model in asked}
