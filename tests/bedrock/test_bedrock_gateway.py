"""Bedrock behind a real gateway: signed requests out, Anthropic's API for the client."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import requests
from aws_imitation import (
    aws_error,
    bedrock_stream,
    chunk_frame,
    exception_frame,
    signature_problem,
)
from gateway_process import GatewayProcess, Upstream
from imitation_provider import (
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Tell,
    WaitFor,
    answer,
)

ACCESS_KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "aws-secret-of-the-gateway-0123456789"
NOBODY = "http://127.0.0.1:1"
MODEL = "global.anthropic.claude-opus-4-5-20251101-v1:0"
# No real model: the SDK warns of those that their maker is about to withdraw.
ASK: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 4000,
    "messages": [{"role": "user", "content": "Good morning."}],
}
BETAS = {"anthropic-beta": "effort-2025-11-24,unknown-2026-01-01"}

START = {
    "type": "message_start",
    "message": {
        "id": "msg_bdrk_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 4},
    },
}
TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Good morning to you."},
    },
    {"type": "content_block_stop", "index": 0},
]
END = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 10},
    },
    {"type": "message_stop"},
]
BODY = {
    **START["message"],
    "content": [{"type": "text", "text": "Good morning to you."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 10},
}


def aws(url: str, name: str, **fields: str) -> Upstream:
    """A Bedrock provider at ``url``."""
    extra = {
        "BEDROCK_BASE_URL": url,
        "BEDROCK_REGION": "us-west-2",
        "BEDROCK_ACCESS_KEY": ACCESS_KEY,
        "BEDROCK_ACCESS_KEY_SECRET": SECRET,
        "BEDROCK_MODEL": MODEL,
        "BEDROCK_SMALL_FAST_MODEL": "modrock",
        **fields,
    }
    return Upstream("bedrock", url, name, key="", extra={k: v for k, v in extra.items() if v})


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def bedrock_gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    upstreams = [
        aws(provider.url, "aws"),
        aws(f"{provider.url}/anthropic", "mantle", BEDROCK_PROTOCOL="mantle"),
        aws(provider.url, "chain", BEDROCK_ACCESS_KEY="", BEDROCK_ACCESS_KEY_SECRET=""),
        Upstream("anthropic", provider.url, "claude"),
        Upstream("anthropic", NOBODY, "away", extra={"FALLBACK": "aws-list"}),
        aws(provider.url, "aws-list", MODELS=f"claude-x = {MODEL}"),
        aws(NOBODY, "down", FALLBACK="claude"),
        aws(NOBODY, "nobody"),
        aws(NOBODY, "in-vain", FALLBACK="nobody"),
    ]
    # Whoever runs the tests may have credentials.
    environ = {name: "" for name in os.environ if name.startswith("AWS_")}
    environ |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    with GatewayProcess(
        tmp_path_factory.mktemp("gw"),
        upstreams,
        ["--worker-class", request.param, "--verbose"],
        environ=environ,
    ) as gateway:
        gateway.allowed_errors.append("cannot sign requests")
        yield gateway
        text = gateway.log_file.read_text() + gateway.stderr()
        assert SECRET not in text


@pytest.fixture
def claude(bedrock_gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=f"{bedrock_gateway.url}/aws", api_key=bedrock_gateway.key(), max_retries=0
    ) as client:
        yield client


def checked(request: ReceivedRequest, service: str = "bedrock") -> dict[str, Any]:
    """The request's body, once AWS would have accepted it."""
    problem = signature_problem(request, SECRET, region="us-west-2", service=service)
    assert problem is None, problem
    assert request.header("X-Api-Key") is None
    document: dict[str, Any] = request.json()
    return document


def last_id(gateway: GatewayProcess) -> str:
    rows = gateway.rows("SELECT id FROM interceptions ORDER BY started_at DESC LIMIT 1")
    found: str = rows[0]["id"]
    return found


def tokens(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(row["input_tokens"], row["output_tokens"]) for row in found["token_usages"]]


# -- invoke


def test_a_streamed_message(
    claude: anthropic.Anthropic, bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(bedrock_stream([START, *TEXT, *END]))
    thinking = {"type": "adaptive"}
    more = {"thinking": thinking, "extra_headers": BETAS, "extra_body": {"metadata": {"a": "b"}}}
    with claude.messages.stream(**ASK, **more) as stream:
        events = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.content[0].text == "Good morning to you."  # type: ignore[union-attr]
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    asked = provider.requests[-1]
    assert asked.target == (
        "/model/global.anthropic.claude-opus-4-5-20251101-v1%3A0/invoke-with-response-stream"
    )
    assert checked(asked) == {
        "max_tokens": 4000,
        "messages": ASK["messages"],
        "thinking": {"type": "enabled", "budget_tokens": 3200},
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["effort-2025-11-24"],
    }
    assert asked.header("Anthropic-Beta") is None
    assert bedrock_gateway.key() not in repr(asked.headers)
    found = bedrock_gateway.records(last_id(bedrock_gateway))
    assert (found["model"], found["provider"], found["provider_name"]) == (MODEL, "bedrock", "aws")
    assert (found["credential_kind"], found["credential_hint"]) == ("centralized", "AKIA...MPLE")
    assert tokens(found) == [(10, 10)]
    assert [row["prompt"] for row in found["user_prompts"]] == ["Good morning."]
    assert found["error_type"] is None


def test_the_answer_looks_like_anthropics(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(bedrock_stream([START, *TEXT, *END]))
    got = ask(bedrock_gateway, stream=True)
    assert got.headers["Content-Type"] == "text/event-stream"
    assert "Content-Length" not in got.headers
    assert got.headers["x-amzn-RequestId"] == "r-1"
    assert got.text.count("event: ") == 6
    assert got.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')


def ask(gateway: GatewayProcess, name: str = "aws", **changes: Any) -> requests.Response:
    return requests.post(
        f"{gateway.url}/{name}/v1/messages?beta=true",
        json={**ASK, **changes},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )


def test_a_blocking_message(
    claude: anthropic.Anthropic, bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(BODY))
    message = claude.messages.create(**ASK)
    assert message.usage.output_tokens == 10
    asked = provider.requests[-1]
    assert asked.target.endswith("/invoke")
    assert checked(asked).keys() == {"max_tokens", "messages", "anthropic_version"}
    assert tokens(bedrock_gateway.records(last_id(bedrock_gateway))) == [(10, 10)]


def test_a_haiku_is_the_small_model(
    claude: anthropic.Anthropic, bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(BODY))
    claude.messages.create(**{**ASK, "model": "claude-haiku-4-5"})
    assert provider.requests[-1].target == "/model/modrock/invoke"
    assert bedrock_gateway.records(last_id(bedrock_gateway))["model"] == "modrock"


def test_an_encoded_body_is_sent_plain(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(BODY))
    got = requests.post(
        f"{bedrock_gateway.url}/aws/v1/messages",
        data=gzip.compress(json.dumps(ASK).encode()),
        headers={"X-Api-Key": bedrock_gateway.key(), "Content-Encoding": "gzip"},
        timeout=30,
    )
    assert got.status_code == 200
    asked = provider.requests[-1]
    assert checked(asked)["messages"] == ASK["messages"]
    assert asked.header("Content-Encoding") is None
    assert asked.header("Content-Type") == "application/json"


def test_users_keys_of_their_own_never_travel_to_aws(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(BODY))
    got = requests.post(
        f"{bedrock_gateway.url}/aws/v1/messages",
        json=ASK,
        headers={
            "X-Coder-AI-Governance-Token": bedrock_gateway.key(),
            "Authorization": "Bearer sk-ant-oat-users-own",
        },
        timeout=30,
    )
    assert got.status_code == 200
    checked(provider.requests[-1])
    assert "users-own" not in repr(provider.requests[-1].headers)


# -- what goes wrong


def test_an_error_of_aws_reaches_the_sdk_in_its_shape(
    claude: anthropic.Anthropic, bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(aws_error(400, "ValidationException", "max_tokens: too large"))
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(**ASK)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: too large"},
    }
    found = bedrock_gateway.records(last_id(bedrock_gateway))
    assert (found["error_type"], found["error_message"]) == ("bad_request", "max_tokens: too large")


def test_an_exception_inside_a_stream_reaches_the_sdk(
    claude: anthropic.Anthropic, bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(bedrock_stream([START, exception_frame("throttlingException", "slow down")]))
    with (
        pytest.raises(anthropic.APIError, match="slow down"),
        claude.messages.stream(**ASK) as stream,
    ):
        stream.until_done()
    found = bedrock_gateway.records(last_id(bedrock_gateway))
    assert found["error_type"] == "rate_limited"
    assert tokens(found) == [(10, 4)]


@pytest.mark.parametrize("how", ["reset", "damage", "half a frame"])
def test_a_stream_that_breaks_never_ends_well(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider, how: str
) -> None:
    never = threading.Event()
    bad = bytearray(chunk_frame(TEXT[0]))
    bad[-1] ^= 1
    match how:
        case "reset":
            provider.play(bedrock_stream([START, Reset()], end=False))
        case "damage":
            # The upstream stays open: it is the gateway that gives up.
            provider.play(bedrock_stream([START, bytes(bad), WaitFor(never)], end=False))
        case _:
            provider.play(bedrock_stream([START, chunk_frame(TEXT[0])[:50]]))
    received, interception = read_to_the_cut(bedrock_gateway)
    assert received.count(b"event: error\n") == 1
    assert received.endswith(b"\n\n")
    never.set()
    assert bedrock_gateway.records(interception)["error_type"] == "server_error"


def read_to_the_cut(gateway: GatewayProcess) -> tuple[bytes, str]:
    """What came of a stream before its connection broke, and its interception's id."""
    received = b""
    with requests.post(
        f"{gateway.url}/aws/v1/messages",
        json={**ASK, "stream": True},
        headers={"X-Api-Key": gateway.key()},
        stream=True,
        timeout=30,
    ) as got:
        try:
            for piece in got.iter_content(None):
                received += piece
        except requests.exceptions.ChunkedEncodingError:
            return received, got.headers["X-AI-Gateway-Interception-Id"]
    raise AssertionError(f"the stream ended well: {received!r}")


def test_the_usage_of_a_client_that_left_is_recorded(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    go_on, there = threading.Event(), threading.Event()
    provider.play(bedrock_stream([START, Tell(there), WaitFor(go_on), *TEXT, *END]))
    got = requests.post(
        f"{bedrock_gateway.url}/aws/v1/messages",
        json={**ASK, "stream": True},
        headers={"X-Api-Key": bedrock_gateway.key()},
        stream=True,
        timeout=30,
    )
    assert next(got.iter_content(None)).startswith(b"event: message_start")
    got.close()
    go_on.set()
    found = bedrock_gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert sum(row["output_tokens"] for row in found["token_usages"]) == 10


def test_without_credentials_the_answer_says_so(bedrock_gateway: GatewayProcess) -> None:
    got = ask(bedrock_gateway, "chain")
    assert got.status_code == 500
    assert got.json()["error"]["message"].startswith(
        "create anthropic client: no AWS credentials found: "
    )
    found = bedrock_gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["error_type"] == "unauthorized"
    assert found["credential_hint"] in ("", "<aws chain>")


# -- mantle and other routes


def test_mantle_is_anthropics_api_with_a_signature(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(BODY))
    got = ask(bedrock_gateway, "mantle")
    assert got.status_code == 200
    asked = provider.requests[-1]
    assert asked.target == "/anthropic/v1/messages?beta=true"
    assert checked(asked, "bedrock-mantle") == ASK
    found = bedrock_gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["model"] == "claude-x"
    assert tokens(found) == [(10, 10)]


def test_other_routes_are_signed_for_mantle_and_unknown_to_invoke(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    key = {"X-Api-Key": bedrock_gateway.key()}
    provider.play(answer({"data": []}))
    got = requests.get(f"{bedrock_gateway.url}/mantle/v1/models", headers=key, timeout=30)
    assert got.status_code == 200
    asked = provider.requests[-1]
    assert asked.target == "/anthropic/v1/models"
    problem = signature_problem(asked, SECRET, region="us-west-2", service="bedrock-mantle")
    assert problem is None, problem
    got = requests.get(f"{bedrock_gateway.url}/aws/v1/models", headers=key, timeout=30)
    assert got.status_code == 404
    assert got.json()["error"]["type"] == "not_found_error"


# -- falling back


def test_bedrock_falls_back_on_anthropic(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    # Nothing listens where the first one is.
    provider.play(answer({**BODY, "model": ASK["model"]}))
    got = ask(bedrock_gateway, "down")
    assert got.status_code == 200
    asked = provider.requests[-1]
    assert asked.target == "/v1/messages?beta=true"
    assert asked.header("X-Api-Key") == "sk-upstream-secret-key"
    assert asked.header("Authorization") is None
    assert asked.json() == ASK
    found = bedrock_gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["provider_name"] == "claude"
    assert tokens(found) == [(10, 10)]
    # The record has Bedrock's one model as the one asked for: who answered must be told.
    rows = [found, *found["token_usages"]]
    assert [json.loads(row["metadata"])["provider_model"] for row in rows] == [ASK["model"]] * 2


def test_anthropic_falls_back_on_bedrock(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(bedrock_stream([START, *TEXT, *END]))
    got = ask(bedrock_gateway, "away", stream=True)
    assert got.text.endswith('data: {"type":"message_stop"}\n\n')
    asked = provider.requests[-1]
    assert asked.target.startswith("/model/global.anthropic")
    assert checked(asked)["messages"] == ASK["messages"]
    found = bedrock_gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert (found["provider_name"], found["model"]) == ("aws-list", "claude-x")
    models = {json.loads(row["metadata"])["provider_model"] for row in found["token_usages"]}
    # What the answer calls its model counts more than what was asked for.
    assert models == {"claude-opus-4-5"}
    assert tokens(found) == [(10, 10)]


def test_a_users_own_key_falls_back_on_nobody(
    bedrock_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = len(provider.requests)
    got = requests.post(
        f"{bedrock_gateway.url}/away/v1/messages",
        json=ASK,
        headers={
            "X-Coder-AI-Governance-Token": bedrock_gateway.key(),
            "X-Api-Key": "sk-ant-users-own",
        },
        timeout=30,
    )
    assert got.status_code == 502
    assert len(provider.requests) == before


def test_when_everybody_is_away_the_last_refusal_counts(bedrock_gateway: GatewayProcess) -> None:
    got = ask(bedrock_gateway, "in-vain")
    assert got.status_code == 502
    assert got.json()["type"] == "error"
