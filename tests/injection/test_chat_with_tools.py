"""OpenAI's Chat Completions with injected tools: the SDK in front, an MCP server behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from gateway_process import GatewayProcess
from imitation_provider import ScriptedProvider, answer, cut, stream
from last_request import LastRequest
from openai.lib.streaming.chat import ChatCompletionStreamState
from round_answers import Call, completion, completion_chunks

ADD: Call = ("call_1", "bmcp_sdk_add", {"a": 2, "b": 3})
OWN = {"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}
QUESTION: dict[str, Any] = {
    "model": "gpt-x",
    "messages": [{"role": "user", "content": "2+3?"}],
}
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


class Gpt(LastRequest):
    streamed = staticmethod(completion_chunks)
    blocking = staticmethod(completion)

    def __init__(self, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
        super().__init__(gateway, provider)
        self.chunks: list[Any] = []
        self.sdk = openai.OpenAI(
            base_url=f"{gateway.url}/openai/v1", api_key=gateway.key(), max_retries=0, timeout=30
        )

    def ask(self, streaming: bool, usage: bool = True, **more: Any) -> Any:
        if not streaming:
            raw = self.sdk.chat.completions.with_raw_response.create(**{**QUESTION, **more})
            self.id = raw.headers["x-ai-gateway-interception-id"]
            return raw.parse()
        options = {"stream_options": {"include_usage": True}} if usage else {}
        opened = self.sdk.chat.completions.with_raw_response.create(
            **{**QUESTION, **options, **more}, stream=True
        )
        self.id = opened.headers["x-ai-gateway-interception-id"]
        state = ChatCompletionStreamState()
        self.chunks = []
        for chunk in opened.parse():
            self.chunks.append(chunk)
            state.handle_chunk(chunk)
        return state.current_completion_snapshot


@pytest.fixture
def gpt(tooled_gateway: GatewayProcess, rounds_provider: ScriptedProvider) -> Iterator[Gpt]:
    made = Gpt(tooled_gateway, rounds_provider)
    yield made
    made.sdk.close()


@both
def test_a_called_tool_is_run_and_the_client_sees_one_completion(gpt: Gpt, streaming: bool) -> None:
    gpt.plan(streaming, {"text": "Let me see.", "calls": [ADD]}, {"text": "It is 5."})
    whole = gpt.ask(streaming)
    (choice,) = whole.choices
    assert choice.message.content == ("Let me see.It is 5." if streaming else "It is 5.")
    assert choice.message.role == "assistant"
    assert not choice.message.tool_calls
    assert choice.finish_reason == "stop"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (20, 10)
    assert whole.usage.total_tokens == 30
    if streaming:
        assert {chunk.id for chunk in gpt.chunks} == {"chatcmpl-1"}
        assert {chunk.created for chunk in gpt.chunks} == {1001}
        assert sum(chunk.usage is not None for chunk in gpt.chunks) == 1
    first, second = gpt.sent
    assert first["parallel_tool_calls"] is False
    names = [tool["function"]["name"] for tool in first["tools"]]
    assert names == sorted(names)
    said, result = second["messages"][-2:]
    assert said["content"] == "Let me see."
    assert [call["id"] for call in said["tool_calls"]] == ["call_1"]
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"a": 2, "b": 3}
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert json.loads(result["content"])["content"][0]["text"] == "5"


@both
def test_a_completion_is_recorded_once(gpt: Gpt, streaming: bool, mcp_url: str) -> None:
    gpt.plan(streaming, {"calls": [ADD]}, {"text": "It is 5."})
    gpt.ask(streaming, usage=False)
    assert not any(chunk.usage for chunk in gpt.chunks), "the client did not ask"
    records = gpt.records
    assert records["error_type"] is None
    assert [prompt["prompt"] for prompt in records["user_prompts"]] == ["2+3?"]
    (tool,) = records["tool_usages"]
    assert (tool["tool"], tool["server_url"], tool["injected"]) == ("add", mcp_url, 1)
    assert (tool["tool_call_id"], tool["invocation_error"]) == ("call_1", None)
    assert [each["output_tokens"] for each in records["token_usages"]] == [5, 5]


@both
def test_each_call_of_a_completion_is_run(gpt: Gpt, streaming: bool) -> None:
    calls: list[Call] = [
        ADD,
        ("call_2", "bmcp_sdk_add", {"a": 4, "b": 5}),
        ("call_3", "bmcp_sdk_broken", {}),
    ]
    gpt.plan(streaming, {"calls": calls}, {"text": "Done."})
    gpt.ask(streaming)
    said, *results = gpt.sent[1]["messages"][-4:]
    assert [call["id"] for call in said["tool_calls"]] == ["call_1", "call_2", "call_3"]
    assert [each["tool_call_id"] for each in results] == ["call_1", "call_2", "call_3"]
    assert json.loads(results[2]["content"])["isError"] is True
    assert [bool(each["invocation_error"]) for each in gpt.records["tool_usages"]] == [
        False,
        False,
        True,
    ]


@both
def test_the_clients_own_functions_are_the_clients(gpt: Gpt, streaming: bool) -> None:
    own: Call = ("call_9", "mine", {"x": 1})
    gpt.plan(streaming, {"text": "Both.", "calls": [ADD, own]})
    whole = gpt.ask(streaming, tools=[OWN])
    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name) == ("call_9", "mine")
    assert json.loads(call.function.arguments) == {"x": 1}
    assert gpt.sent[0]["tools"][0] == OWN
    tools = {each["tool"]: each["injected"] for each in gpt.records["tool_usages"]}
    assert tools == {"add": 1, "mine": 0}


@both
def test_the_limit_ends_with_a_completion(gpt: Gpt, streaming: bool) -> None:
    rounds = [{"calls": [(f"call_{n}", "bmcp_sdk_add", {"a": n, "b": 1})]} for n in range(3)]
    gpt.plan(streaming, *rounds, {"text": "Enough."})
    assert gpt.ask(streaming).choices[0].message.content == "Enough."
    assert [one.get("tool_choice") for one in gpt.sent] == [None] * 3 + ["none"]


@both
def test_a_completion_that_calls_beyond_the_limit_just_stops(gpt: Gpt, streaming: bool) -> None:
    rounds = [{"calls": [(f"call_{n}", "bmcp_sdk_add", {"a": n, "b": 1})]} for n in range(4)]
    gpt.plan(streaming, *rounds)
    (choice,) = gpt.ask(streaming).choices
    assert (choice.finish_reason, bool(choice.message.tool_calls)) == ("stop", False)


def test_requests_for_several_choices_get_no_tools(gpt: Gpt) -> None:
    gpt.plan(False, {"text": "hi"})
    gpt.ask(False, n=2)
    assert "tools" not in gpt.sent[0]


def test_a_second_completion_that_breaks_off_never_looks_complete(gpt: Gpt) -> None:
    gpt.provider.play(stream(completion_chunks("Let me see.", [ADD])))
    gpt.provider.play(cut(completion_chunks("It is", number=2)[:2]))
    with pytest.raises(openai.APIError):
        gpt.ask(True)


def test_a_refused_second_completion_is_an_error(gpt: Gpt) -> None:
    gpt.provider.play(stream(completion_chunks("Let me see.", [ADD])))
    gpt.provider.play(answer({"error": {"message": "too long", "type": "bad"}}, 400))
    with pytest.raises(openai.APIError, match="too long"):
        gpt.ask(True)
