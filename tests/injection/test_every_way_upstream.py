"""Tools are offered and run whoever answers: AWS, GitHub, with a user's own key, a stand-in."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import anthropic
import brotli
import openai
import pytest
import requests
import zstandard
from aws_imitation import aws_error, bedrock_stream, exception_frame, signature_problem
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, answer, error, stream
from mcp_scripted_server import ScriptedServer, tool
from round_answers import (
    Call,
    completion,
    completion_chunks,
    message,
    message_stream,
    response,
)

from aigateway.actors.providers.request import Refused
from aigateway.http.request.injection import Rounds

SECRET = "aws-secret-of-the-gateway-0123456789"
GITHUB = "tid=githubtokenofalice0123456789"
ECHO: Call = ("call_1", "bmcp_s_echo", {"n": 1})
ASKED: Any = [{"role": "user", "content": "hi"}]
QUESTION: dict[str, Any] = {"model": "claude-x", "max_tokens": 100, "messages": ASKED}
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("echo")) as server:
        yield server


@pytest.fixture(scope="module")
def second_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    rounds_provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    server: ScriptedServer,
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("ways")
    config = folder / "gateway.yaml"
    config.write_text(f"ai_gateway:\n  mcp_servers:\n    - {{id: s, url: '{server.url}'}}\n")
    url = rounds_provider.url
    aws = {
        "BEDROCK_REGION": "us-west-2",
        "BEDROCK_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE",
        "BEDROCK_ACCESS_KEY_SECRET": SECRET,
        "BEDROCK_MODEL": "eu.anthropic.claude-sonnet-4-6",
        "BEDROCK_SMALL_FAST_MODEL": "eu.anthropic.claude-haiku-4-5",
        "BEDROCK_BASE_URL": second_provider.url,
    }
    upstreams = [
        Upstream("anthropic", url, "first", "sk-first", {"FALLBACK": "second"}),
        Upstream("anthropic", second_provider.url, "second", "sk-second"),
        Upstream("anthropic", url, "or-aws", "sk-or-aws", {"FALLBACK": "aws-list"}),
        Upstream("bedrock", second_provider.url, "aws", key="", extra=aws),
        Upstream(
            "bedrock",
            second_provider.url,
            "aws-list",
            key="",
            extra={**aws, "MODELS": "claude-x = eu.anthropic.claude-sonnet-4-6"},
        ),
        Upstream("copilot", url, key=""),
        Upstream("openai", url),
        Upstream("anthropic", url),
    ]
    environ = {name: "" for name in os.environ if name.startswith("AWS_")}
    environ |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    with GatewayProcess(folder, upstreams, ["--config", str(config)], environ=environ) as gateway:
        yield gateway


def ask(
    gateway: GatewayProcess, provider: str, streaming: bool
) -> tuple[anthropic.types.Message, dict[str, Any]]:
    """What Anthropic's SDK gets from a provider of the gateway, and the records."""
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/{provider}", api_key=gateway.key(), max_retries=0
    ) as client:
        if streaming:
            with client.messages.stream(**QUESTION) as running:
                whole: Any = running.get_final_message()
                id = running.response.headers["x-ai-gateway-interception-id"]
        else:
            raw = client.messages.with_raw_response.create(**QUESTION)
            whole, id = raw.parse(), raw.headers["x-ai-gateway-interception-id"]
    return whole, gateway.records(id)


def results_of(request: ReceivedRequest) -> list[str]:
    """What the model is told of its calls in a Messages request."""
    return [
        part["text"]
        for block in request.json()["messages"][-1]["content"]
        for part in block["content"]
    ]


def check_records(records: dict[str, Any], server: ScriptedServer) -> None:
    (used,) = records["tool_usages"]
    assert (used["tool"], used["injected"], used["server_url"]) == ("echo", 1, server.url)
    assert used["invocation_error"] is None
    assert sum(each["output_tokens"] for each in records["token_usages"]) == 10
    assert records["error_type"] is None


def data_of(events: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(event.split(b"data: ", 1)[1]) for event in events]


# -- Bedrock


@both
def test_a_model_at_aws_uses_tools(
    gateway: GatewayProcess,
    second_provider: ScriptedProvider,
    server: ScriptedServer,
    streaming: bool,
) -> None:
    seen = len(second_provider.requests)
    for number, one in enumerate(({"text": "Wait.", "calls": [ECHO]}, {"text": "Done."}), 1):
        if streaming:
            second_provider.play(bedrock_stream(data_of(message_stream(**one, number=number))))
        else:
            second_provider.play(answer(message(**one, number=number)))
    whole, records = ask(gateway, "aws", streaming)
    texts = [block.text for block in whole.content if block.type == "text"]
    assert texts == (["Wait.", "Done."] if streaming else ["Done."])
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 10)
    first, second = second_provider.requests[seen:]
    for request in (first, second):
        assert signature_problem(request, SECRET, region="us-west-2", service="bedrock") is None
        assert [each["name"] for each in request.json()["tools"]] == ["bmcp_s_echo"]
        assert "stream" not in request.json()
    assert results_of(second) == ['{"n": 1}']
    check_records(records, server)


def test_a_second_answer_of_aws_that_breaks_off_is_an_error_event(
    gateway: GatewayProcess, second_provider: ScriptedProvider
) -> None:
    second_provider.play(bedrock_stream(data_of(message_stream("Wait.", [ECHO]))))
    broken = [*data_of(message_stream("Do", number=2)[:3])]
    frames: Any = [*broken, exception_frame("throttlingException", "Too many requests")]
    second_provider.play(bedrock_stream(frames))
    with pytest.raises(anthropic.APIStatusError, match="Too many requests"):
        ask(gateway, "aws", True)


def test_a_second_request_that_aws_refuses_is_an_error_event(
    gateway: GatewayProcess, second_provider: ScriptedProvider
) -> None:
    second_provider.play(bedrock_stream(data_of(message_stream("Wait.", [ECHO]))))
    second_provider.play(aws_error(400, "ValidationException", "too long"))
    with pytest.raises(anthropic.APIStatusError, match="too long"):
        ask(gateway, "aws", True)


# -- another provider in the middle


@both
def test_a_fallback_that_answered_the_first_round_answers_the_others(
    gateway: GatewayProcess,
    rounds_provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    server: ScriptedServer,
    streaming: bool,
) -> None:
    seen = len(second_provider.requests)
    name = ("first", "or-aws")[streaming]
    one, two = {"text": "Wait.", "calls": [ECHO]}, {"text": "Done.", "number": 2}
    rounds_provider.play(error(503))
    for each in (one, two):
        if streaming:
            second_provider.play(bedrock_stream(data_of(message_stream(**each))))
        else:
            second_provider.play(answer(message(**each)))
    asked = len(rounds_provider.requests)
    whole, records = ask(gateway, name, streaming)
    assert whole.content[-1].text == "Done."  # type: ignore[union-attr]
    assert len(rounds_provider.requests) == asked + 1
    requests = second_provider.requests[seen:]
    assert len(requests) == 2
    assert results_of(requests[1]) == ['{"n": 1}']
    for request in requests:
        if streaming:
            assert signature_problem(request, SECRET, region="us-west-2", service="bedrock") is None
        else:
            assert request.header("X-Api-Key") == "sk-second"
    assert records["provider_name"] == ("aws-list" if streaming else "second")
    check_records(records, server)


@both
def test_no_other_provider_is_asked_to_go_on_with_an_answer(
    gateway: GatewayProcess,
    rounds_provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    streaming: bool,
) -> None:
    """It would get ids and signatures of the first one."""
    seen = len(second_provider.requests)
    first = {"text": "Wait.", "calls": [ECHO]}
    rounds_provider.play(stream(message_stream(**first)) if streaming else answer(message(**first)))
    rounds_provider.play(error(503))
    with pytest.raises(anthropic.APIStatusError, match="scripted 503") as failed:
        ask(gateway, ("first", "or-aws")[streaming], streaming)
    if not streaming:
        assert failed.value.status_code == 503
    assert second_provider.requests[seen:] == []


def test_a_provider_that_has_been_removed_between_two_rounds_is_not_replaced() -> None:
    nobody = SimpleNamespace(provider_of=lambda _opened: None)
    before = SimpleNamespace(provider_name="first")
    result = Rounds.send(cast(Any, SimpleNamespace(upstream=nobody)), cast(Any, before))
    assert result == Refused(503, "the provider first is not there any more")


# -- the user's own credentials


@pytest.mark.parametrize(
    ("api", "streaming"),
    [("chat", True), ("chat", False), ("responses", False), ("messages", False)],
)
def test_copilots_models_use_tools_with_the_users_token(
    gateway: GatewayProcess,
    rounds_provider: ScriptedProvider,
    server: ScriptedServer,
    api: str,
    streaming: bool,
) -> None:
    made: Any = {"chat": completion, "responses": response, "messages": message}[api]
    if streaming:
        rounds_provider.play(stream(completion_chunks("", [ECHO])))
        rounds_provider.play(stream(completion_chunks("Done.", number=2)))
    else:
        rounds_provider.play(answer(made("", [ECHO])))
        rounds_provider.play(answer(made("Done.", number=2)))
    seen = len(rounds_provider.requests)
    path = {"chat": "/chat/completions", "responses": "/responses", "messages": "/v1/messages"}
    asked = {"model": "x", "stream": streaming, "max_tokens": 9, "messages": ASKED, "input": ASKED}
    got = requests.post(
        f"{gateway.url}/copilot{path[api]}",
        json=asked,
        headers={
            "X-Coder-AI-Governance-Token": gateway.key(),
            "Authorization": f"Bearer {GITHUB}",
        },
        timeout=30,
    )
    assert "Don" in got.text
    assert "bmcp_" not in got.text
    requested = rounds_provider.requests[seen:]
    assert len(requested) == 2
    for request in requested:
        assert request.header("Authorization") == f"Bearer {GITHUB}"
        assert request.header("X-Coder-AI-Governance-Token") is None
    records = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert (records["credential_kind"], records["provider"]) == ("byok", "copilot")
    check_records(records, server)


def test_a_users_own_key_is_used_in_every_round(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, server: ScriptedServer
) -> None:
    rounds_provider.play(answer(completion("", [ECHO])))
    rounds_provider.play(answer(completion("Done.", number=2)))
    seen = len(rounds_provider.requests)
    with openai.OpenAI(
        base_url=f"{gateway.url}/openai/v1",
        api_key="sk-users-own-key-0123456789",
        default_headers={"X-Coder-AI-Governance-Token": gateway.key()},
        max_retries=0,
    ) as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-x", messages=ASKED)
    assert raw.parse().choices[0].message.content == "Done."
    sent = {request.header("Authorization") for request in rounds_provider.requests[seen:]}
    assert sent == {"Bearer sk-users-own-key-0123456789"}
    records = gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert records["credential_kind"] == "byok"
    check_records(records, server)


# -- bodies with a content coding


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_encoded_requests_are_offered_tools(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, coding: str
) -> None:
    pack = {
        "gzip": gzip.compress,
        "br": brotli.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }[coding]
    unpack = {
        "gzip": gzip.decompress,
        "br": brotli.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }[coding]
    # An answer that comes encoded although nobody asked for that is understood too.
    rounds_provider.play(stream(message_stream("", [ECHO]), encoding=coding))
    rounds_provider.play(stream(message_stream("Done.", number=2), encoding=coding))
    seen = len(rounds_provider.requests)
    got = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        data=pack(json.dumps({**QUESTION, "stream": True}).encode()),
        headers={
            "X-Api-Key": gateway.key(),
            "Content-Encoding": coding,
            "Content-Type": "application/json",
            "Accept-Encoding": coding,
        },
        timeout=30,
    )
    assert "Content-Encoding" not in got.headers
    assert "bmcp_" not in got.text
    assert "Don" in got.text
    for request in rounds_provider.requests[seen:]:
        assert request.header("Content-Encoding") == coding
        assert request.header("Accept-Encoding") in (None, "identity")
        assert json.loads(unpack(request.body))["tools"][0]["name"] == "bmcp_s_echo"


# -- requests that are offered none


def test_a_small_fast_model_does_not_even_wait_for_tools(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, server: ScriptedServer
) -> None:
    seen = len(server.seen)
    rounds_provider.play(answer(message("hi")))
    got = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={**QUESTION, "model": "claude-haiku-4-5"},
        headers={"X-Api-Key": gateway.key("new-here")},
        timeout=30,
    )
    assert got.status_code == 200
    assert "tools" not in rounds_provider.requests[-1].json()
    assert len(server.seen) == seen, "this user's tools were never looked up"
