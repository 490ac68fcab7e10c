"""The real SDKs through a real gateway, against the same calls without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import requests
from gateway_process import GatewayProcess
from imitation_provider import ScriptedProvider

PROMPT = "tell me about angels on pins"


@pytest.fixture
def claude(any_gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    url = f"{any_gateway.url}/anthropic"
    with anthropic.Anthropic(base_url=url, api_key=any_gateway.key(), max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(any_gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    url = f"{any_gateway.url}/openai/v1"
    with openai.OpenAI(base_url=url, api_key=any_gateway.key(), max_retries=0) as client:
        yield client


@pytest.fixture
def direct_claude(provider: ScriptedProvider) -> Iterator[anthropic.Anthropic]:
    """The same without a gateway."""
    with anthropic.Anthropic(base_url=provider.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def direct_gpt(provider: ScriptedProvider) -> Iterator[openai.OpenAI]:
    """The same without a gateway."""
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def _ask(**more: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-5",
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": PROMPT}],
        **more,
    }


def test_a_message_is_the_same_as_without_the_gateway(
    claude: anthropic.Anthropic, direct_claude: anthropic.Anthropic
) -> None:
    assert claude.messages.create(**_ask()) == direct_claude.messages.create(**_ask())


def test_a_streamed_message_with_thinking_is_the_same_as_without_the_gateway(
    claude: anthropic.Anthropic, direct_claude: anthropic.Anthropic
) -> None:
    ask = _ask(thinking={"type": "enabled", "budget_tokens": 1024})
    events = []
    for client in (claude, direct_claude):
        with client.messages.stream(**ask) as stream:
            events.append([event.model_dump() for event in stream])
    assert events[0] == events[1]
    assert len(events[0]) > 10


def test_a_streamed_chat_is_the_same_as_without_the_gateway(
    gpt: openai.OpenAI, direct_gpt: openai.OpenAI
) -> None:
    ask = {"model": "gpt-4.1", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    through, without = (
        [chunk.model_dump() for chunk in client.chat.completions.create(**ask)]
        for client in (gpt, direct_gpt)
    )
    for chunk in (*through, *without):
        # The gateway asks for usage, so the provider says in each chunk that there is none yet.
        chunk.pop("usage", None)
    assert through == without


TOOL = {
    "name": "add",
    "description": "Add two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


def test_a_streamed_tool_call_is_the_same_as_without_the_gateway(
    claude: anthropic.Anthropic, any_gateway: GatewayProcess, direct_claude: anthropic.Anthropic
) -> None:
    tool = {"name": "add", "input_schema": TOOL["parameters"]}
    ask = _ask(
        tools=[tool], messages=[{"role": "user", "content": "use the tool add with 3 and 5"}]
    )
    seen = []
    for client in (claude, direct_claude):
        with client.messages.stream(**ask) as stream:
            seen.append(([event.model_dump() for event in stream], stream.get_final_message()))
            answer = stream.response
        if client is claude:
            interception = answer.headers["x-ai-gateway-interception-id"]
    assert seen[0] == seen[1]
    (call,) = [block for block in seen[0][1].content if block.type == "tool_use"]
    (found,) = any_gateway.records(interception)["tool_usages"]
    assert (found["tool"], found["tool_call_id"]) == ("add", call.id)
    assert json.loads(found["input"]) == call.input


def test_a_streamed_chat_tool_call_is_the_same_as_without_the_gateway(
    gpt: openai.OpenAI, direct_gpt: openai.OpenAI
) -> None:
    ask: Any = {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": "use the tool add twice, with 3 and 5"}],
        "tools": [{"type": "function", "function": TOOL}],
        "stream_options": {"include_usage": True},
    }
    finals = []
    for client in (gpt, direct_gpt):
        with client.chat.completions.stream(**ask) as stream:
            stream.until_done()
            finals.append(stream.get_final_completion().model_dump())
    assert finals[0] == finals[1]
    assert finals[0]["choices"][0]["message"]["tool_calls"]
    assert finals[0]["usage"]["total_tokens"]


@pytest.mark.parametrize("prompt", [PROMPT, "use the tool add with 3 and 5"])
def test_a_response_is_the_same_as_without_the_gateway(
    gpt: openai.OpenAI, any_gateway: GatewayProcess, direct_gpt: openai.OpenAI, prompt: str
) -> None:
    ask: Any = {
        "model": "gpt-5",
        "input": prompt,
        "tools": [{"type": "function", "strict": False, **TOOL}],
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    assert gpt.responses.create(**ask) == direct_gpt.responses.create(**ask)
    seen = []
    for client in (gpt, direct_gpt):
        with client.responses.stream(**ask) as stream:
            seen.append(list(stream))
    assert seen[0] == seen[1]
    raw = gpt.responses.with_raw_response.create(**ask)
    response = raw.parse()
    found = any_gateway.records(raw.headers["x-ai-gateway-interception-id"])
    assert [row["prompt"] for row in found["user_prompts"]] == [prompt]
    assert response.usage is not None
    assert (
        sum(row["output_tokens"] for row in found["token_usages"]) == response.usage.output_tokens
    )
    calls = [item for item in response.output if item.type == "function_call"]
    assert [row["tool_call_id"] for row in found["tool_usages"]] == [item.call_id for item in calls]


def test_a_message_leaves_its_records(
    claude: anthropic.Anthropic, any_gateway: GatewayProcess
) -> None:
    answer = claude.messages.with_raw_response.create(
        **_ask(thinking={"type": "enabled", "budget_tokens": 1024})
    )
    message = answer.parse()
    found = any_gateway.records(answer.headers["x-ai-gateway-interception-id"])
    assert (found["username"], found["provider"], found["model"]) == (
        "alice",
        "anthropic",
        "claude-sonnet-5",
    )
    assert found["error_type"] is None
    assert [row["prompt"] for row in found["user_prompts"]] == [PROMPT]
    (tokens,) = found["token_usages"]
    assert tokens["msg_id"] == message.id
    assert tokens["input_tokens"] == message.usage.input_tokens
    assert tokens["output_tokens"] == message.usage.output_tokens
    thinking = [block.thinking for block in message.content if block.type == "thinking"]
    assert [row["content"] for row in found["model_thoughts"]] == thinking


def test_the_provider_never_sees_the_users_key(
    gpt: openai.OpenAI, any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gpt.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": PROMPT}])
    seen = provider.requests[-1]
    text = repr(seen.headers) + repr(seen.body)
    assert any_gateway.key() not in text
    assert ("Authorization", "Bearer sk-upstream-secret-key") in seen.headers


def test_models_are_passed_through(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert [model.id for model in gpt.models.list()]
    assert [model.id for model in claude.models.list()]


@pytest.mark.parametrize("prefix", ["", "/api/v2/aibridge", "/api/v2/ai-gateway"])
def test_the_routes_have_aliases(any_gateway: GatewayProcess, prefix: str) -> None:
    answer = requests.get(
        f"{any_gateway.url}{prefix}/anthropic/v1/models",
        headers={"X-Api-Key": any_gateway.key()},
        timeout=10,
    )
    assert answer.status_code == 200
