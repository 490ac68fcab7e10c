"""The reference server "everything" behind a gateway, the SDKs in front of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer, stream
from mcp_everything_server import address, everything
from round_answers import (
    Call,
    completion_chunks,
    message_stream,
    response,
)

SUM: Call = ("call_1", "bmcp_all_get-sum", {"a": 2, "b": 3})
# It tells of its progress while it runs.
LONG: Call = (
    "call_2",
    "bmcp_all_trigger-long-running-operation",
    {"duration": 0.2, "steps": 2},
)
ASKED: Any = [{"role": "user", "content": "2+3?"}]
FIVE = "The sum of 2 and 3 is 5."
OVER = "Long running operation completed"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, rounds_provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("everything")
    config = folder / "gateway.yaml"
    upstreams = [
        Upstream("anthropic", rounds_provider.url),
        Upstream("openai", rounds_provider.url),
    ]
    with ExitStack() as stack:
        url = address(stack.enter_context(everything()))
        config.write_text(f"ai_gateway:\n  mcp_servers:\n    - {{id: all, url: '{url}'}}\n")
        yield stack.enter_context(GatewayProcess(folder, upstreams, ["--config", str(config)]))


def test_claude_uses_it(gateway: GatewayProcess, rounds_provider: ScriptedProvider) -> None:
    rounds_provider.play(stream(message_stream("Let me see.", [SUM, LONG])))
    rounds_provider.play(stream(message_stream("It is 5.", number=2)))
    with (
        anthropic.Anthropic(
            base_url=f"{gateway.url}/anthropic", api_key=gateway.key(), max_retries=0
        ) as client,
        client.messages.stream(model="claude-x", max_tokens=9, messages=ASKED) as running,
    ):
        assert running.get_final_text() == "Let me see.It is 5."
    results = rounds_provider.requests[-1].json()["messages"][-1]["content"]
    assert [each["is_error"] for each in results] == [False, False]
    texts = [each["content"][0]["text"] for each in results]
    assert texts[0] == FIVE
    assert texts[1].startswith(OVER)


def test_gpt_uses_it(gateway: GatewayProcess, rounds_provider: ScriptedProvider) -> None:
    rounds_provider.play(stream(completion_chunks("", [SUM, LONG])))
    rounds_provider.play(stream(completion_chunks("It is 5.", number=2)))
    rounds_provider.play(answer(response("", [SUM])))
    rounds_provider.play(answer(response("It is 5.", number=2)))
    with openai.OpenAI(
        base_url=f"{gateway.url}/openai/v1", api_key=gateway.key(), max_retries=0
    ) as client:
        chunks = list(client.chat.completions.create(model="gpt-x", messages=ASKED, stream=True))
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert said == "It is 5."
        told = [
            json.loads(each["content"])
            for each in rounds_provider.requests[-1].json()["messages"][-2:]
        ]
        assert told[0]["content"][0]["text"] == FIVE
        assert told[1]["content"][0]["text"].startswith(OVER)
        assert client.responses.create(model="gpt-x", input="2+3?").output_text == "It is 5."
    result = json.loads(rounds_provider.requests[-1].json()["input"][-1]["output"])
    assert result["content"] == [{"type": "text", "text": FIVE}]
