"""A conversation with thinking and tools that Anthropic begins, Bedrock goes on with, and ends
at Anthropic again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from aws_imitation import aws_gate, bedrock_stream
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, error, event, stream

ACCESS_KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "aws-secret-of-the-gateway-0123456789"
MODEL = "claude-sonnet-4-5"
PROFILE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}


def turn(number: int, model: str) -> list[dict[str, Any]]:
    """A model's turn: a signed thought, a text and a call of a tool."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    blocks = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [
                {"type": "thinking_delta", "thinking": f"thought {number}"},
                {"type": "signature_delta", "signature": f"s\u00efgned-{number}=="},
            ],
        ),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": f"text {number}"}]),
        (
            {"type": "tool_use", "id": f"toolu_{number}", "name": "look", "input": {}},
            [{"type": "input_json_delta", "partial_json": '{"n": 1}'}],
        ),
    ]
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    return [*events, {"type": "message_stop"}]


def assistant(number: int) -> dict[str, Any]:
    """The same turn as the client sends it back."""
    return {
        "role": "assistant",
        "content": [
            {
                "type": "thinking",
                "thinking": f"thought {number}",
                "signature": f"s\u00efgned-{number}==",
            },
            {"type": "text", "text": f"text {number}"},
            {"type": "tool_use", "id": f"toolu_{number}", "name": "look", "input": {"n": 1}},
        ],
    }


def result(number: int) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "seen"}
    return {"role": "user", "content": [block]}


class Both:
    """Anthropic, which may be told to fail, and AWS."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.number = 0

    def at_anthropic(self, request: ReceivedRequest) -> Steps:
        self.asked.append(("anthropic", request.body))
        self.number += 1
        return stream([event(each, each["type"]) for each in turn(self.number, MODEL)])

    def at_aws(self, request: ReceivedRequest) -> Steps:
        self.asked.append((request.target, request.body))
        self.number += 1
        return bedrock_stream(turn(self.number, MODEL))


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.fixture
def anthropic(both: Both) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=both.at_anthropic) as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Any, both: Both, anthropic: ScriptedProvider) -> Iterator[GatewayProcess]:
    gate = aws_gate(both.at_aws, secrets={ACCESS_KEY: SECRET})
    with ScriptedProvider(otherwise=gate) as aws:
        extra = {
            "BEDROCK_BASE_URL": aws.url,
            "BEDROCK_REGION": "us-west-2",
            "BEDROCK_ACCESS_KEY": ACCESS_KEY,
            "BEDROCK_ACCESS_KEY_SECRET": SECRET,
        }
        upstreams = [
            Upstream("anthropic", anthropic.url, "claude", "sk-ant", {"FALLBACK": "aws"}),
            Upstream("bedrock", "", "aws", key="", extra=extra),
        ]
        environ = {name: "" for name in os.environ if name.startswith("AWS_")}
        with GatewayProcess(tmp_path, upstreams, environ=environ) as gateway:
            yield gateway


def say(gateway: GatewayProcess, messages: list[dict[str, Any]], model: str = MODEL) -> str:
    """One turn of the client; returns the interception's id."""
    got = requests.post(
        f"{gateway.url}/claude/v1/messages",
        json={
            "model": model,
            "max_tokens": 4000,
            "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "tools": [{**TOOL, "eager_input_streaming": True}],
            "messages": messages,
            "metadata": {"user_id": "somebody"},
        },
        headers={"X-Api-Key": gateway.key(), "anthropic-beta": "interleaved-thinking-2025-05-14"},
        timeout=30,
    )
    assert got.status_code == 200, got.text
    assert got.text.endswith('data: {"type":"message_stop"}\n\n')
    return got.headers["X-AI-Gateway-Interception-Id"]


def test_the_model_stays_the_same_and_the_conversation_goes_on(
    gateway: GatewayProcess, both: Both, anthropic: ScriptedProvider
) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Look."}]
    first = say(gateway, messages)
    messages += [assistant(1), result(1)]
    anthropic.play(error(429, retry_after="1"))
    second = say(gateway, messages)
    messages += [assistant(2), result(2)]
    # Its only key rests for a second; then Anthropic is asked again.
    third = ""
    while not third or both.asked[-1][0] != "anthropic":
        third = say(gateway, messages)
    asked = [where for where, _ in both.asked]
    path = f"/model/{PROFILE.replace(':', '%3A')}/invoke-with-response-stream"
    assert asked[:2] == ["anthropic", path]
    assert set(asked[2:-1]) <= {path}
    # What the two got differs in what it must, and in no byte of what was said.
    said = json.dumps(messages[:3]).encode()
    assert b'"messages": ' + said in both.asked[1][1]
    at_aws = json.loads(both.asked[1][1])
    assert at_aws["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert at_aws["tools"] == [TOOL]
    assert set(at_aws["anthropic_beta"]) == {
        "interleaved-thinking-2025-05-14",
        "fine-grained-tool-streaming-2025-05-14",
    }
    assert not {"model", "stream", "metadata"} & at_aws.keys()
    last = json.loads(both.asked[-1][1])
    assert (last["model"], last["messages"]) == (MODEL, messages)
    for interception, provider in ((first, None), (second, "aws"), (third, None)):
        found = gateway.records(interception)
        assert (found["model"], found["error_type"]) == (MODEL, None)
        assert found["provider_name"] == (provider or "claude")
        models = {
            json.loads(row["metadata"]).get("provider_model") for row in found["token_usages"]
        }
        assert models == ({PROFILE} if provider else {None})
        assert [row["tool"] for row in found["tool_usages"]] == ["look"]
        assert len(found["model_thoughts"]) == 1


def test_a_model_that_bedrock_does_not_have_is_not_replaced_by_another(
    gateway: GatewayProcess, both: Both, anthropic: ScriptedProvider
) -> None:
    anthropic.play(error(429, retry_after="60"))
    got = requests.post(
        f"{gateway.url}/claude/v1/messages",
        json={"model": "claude-opus-9", "max_tokens": 9, "messages": []},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )
    assert got.status_code == 429
    assert both.asked == []
