"""OpenAI's Responses with injected tools: the SDK in front, an MCP server behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from gateway_process import GatewayProcess, wait_until
from imitation_provider import ScriptedProvider, answer, cut, stream
from last_request import LastRequest
from round_answers import Call, response, response_events

ADD: Call = ("call_1", "bmcp_sdk_add", {"a": 2, "b": 3})
OWN = {"type": "function", "name": "mine", "parameters": {"type": "object"}, "strict": False}
QUESTION: dict[str, Any] = {"model": "gpt-x", "input": "2+3?"}
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


class Codex(LastRequest):
    streamed = staticmethod(response_events)
    blocking = staticmethod(response)

    def __init__(self, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
        super().__init__(gateway, provider)
        self.events: list[Any] = []
        self.sdk = openai.OpenAI(
            base_url=f"{gateway.url}/openai/v1", api_key=gateway.key(), max_retries=0, timeout=30
        )

    def ask(self, streaming: bool, **more: Any) -> Any:
        if not streaming:
            raw = self.sdk.responses.with_raw_response.create(**{**QUESTION, **more})
            self.id = raw.headers["x-ai-gateway-interception-id"]
            return raw.parse()
        with self.sdk.responses.stream(**{**QUESTION, **more}) as running:
            self.id = running._raw_stream.response.headers["x-ai-gateway-interception-id"]
            self.events = list(running)
            return running.get_final_response()


@pytest.fixture
def codex(tooled_gateway: GatewayProcess, rounds_provider: ScriptedProvider) -> Iterator[Codex]:
    made = Codex(tooled_gateway, rounds_provider)
    yield made
    made.sdk.close()


@both
def test_a_called_tool_is_run_and_the_client_sees_one_response(
    codex: Codex, streaming: bool
) -> None:
    codex.plan(streaming, {"text": "Let me see.", "calls": [ADD]}, {"text": "It is 5."})
    whole = codex.ask(streaming)
    assert whole.output_text == ("Let me see.It is 5." if streaming else "It is 5.")
    assert whole.id == ("resp_1" if streaming else "resp_2")
    assert {item.type for item in whole.output} == {"message"}
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (20, 10)
    first, second = codex.sent
    assert first["parallel_tool_calls"] is False
    names = [tool["name"] for tool in first["tools"]]
    assert names == sorted(names)
    question, said, call, result = second["input"]
    assert question == {"role": "user", "content": "2+3?"}
    assert said["content"][0]["text"] == "Let me see."
    assert (call["call_id"], json.loads(call["arguments"])) == ("call_1", {"a": 2, "b": 3})
    assert (result["type"], result["call_id"]) == ("function_call_output", "call_1")
    assert json.loads(result["output"])["content"][0]["text"] == "5"


def test_events_and_items_are_numbered_through(codex: Codex) -> None:
    codex.plan(True, {"text": "Let me see.", "calls": [ADD]}, {"text": "It is 5."})
    codex.ask(True)
    numbers = [event.sequence_number for event in codex.events]
    assert numbers == list(range(len(numbers)))
    places = [e.output_index for e in codex.events if e.type == "response.output_item.added"]
    assert places == [0, 1]
    kinds = [event.type for event in codex.events]
    assert kinds.count("response.created") == kinds.count("response.completed") == 1
    assert not any("function_call" in kind for kind in kinds)


@both
def test_a_response_is_recorded_once(codex: Codex, streaming: bool, mcp_url: str) -> None:
    codex.plan(streaming, {"calls": [ADD]}, {"text": "It is 5."})
    codex.ask(streaming)
    records = codex.records
    assert records["error_type"] is None
    assert [prompt["prompt"] for prompt in records["user_prompts"]] == ["2+3?"]
    (tool,) = records["tool_usages"]
    assert (tool["tool"], tool["server_url"], tool["injected"]) == ("add", mcp_url, 1)
    assert (tool["tool_call_id"], tool["invocation_error"]) == ("call_1", None)
    assert [each["output_tokens"] for each in records["token_usages"]] == [5, 5]


@both
def test_each_call_of_a_response_is_run(codex: Codex, streaming: bool) -> None:
    calls: list[Call] = [
        ADD,
        ("call_2", "bmcp_sdk_add", {"a": 4, "b": 5}),
        ("call_3", "bmcp_sdk_broken", {}),
    ]
    codex.plan(streaming, {"calls": calls}, {"text": "Done."})
    codex.ask(streaming, input=[{"role": "user", "content": "go"}])
    results = codex.sent[1]["input"][-3:]
    assert [each["call_id"] for each in results] == ["call_1", "call_2", "call_3"]
    assert json.loads(results[2]["output"])["isError"] is True
    errors = [bool(each["invocation_error"]) for each in codex.records["tool_usages"]]
    assert errors == [False, False, True]


@both
def test_function_calls_of_the_client_are_the_clients(codex: Codex, streaming: bool) -> None:
    own: Call = ("call_9", "mine", {"x": 1})
    codex.plan(streaming, {"text": "Both.", "calls": [ADD, own]})
    whole = codex.ask(streaming, tools=[OWN])
    assert [item.type for item in whole.output] == ["message", "function_call"]
    assert whole.output[1].name == "mine"
    tools = {each["tool"]: each["injected"] for each in codex.records["tool_usages"]}
    assert tools == {"add": 1, "mine": 0}


@both
def test_the_limit_ends_with_a_response(codex: Codex, streaming: bool) -> None:
    rounds = [{"calls": [(f"call_{n}", "bmcp_sdk_add", {"a": n, "b": 1})]} for n in range(3)]
    codex.plan(streaming, *rounds, {"text": "Enough."})
    assert codex.ask(streaming).output_text == "Enough."
    assert [one.get("tool_choice") for one in codex.sent] == [None] * 3 + ["none"]


def test_with_a_conversation_only_results_are_sent(codex: Codex) -> None:
    codex.plan(False, {"calls": [ADD]}, {"text": "It is 5."})
    codex.ask(False, conversation="conv_1")
    assert [item["type"] for item in codex.sent[1]["input"]] == ["function_call_output"]


def test_a_second_response_that_breaks_off_never_looks_complete(codex: Codex) -> None:
    codex.provider.play(stream(response_events("Let me see.", [ADD])))
    codex.provider.play(cut(response_events("It is", number=2)[:5]))
    with pytest.raises((openai.APIError, RuntimeError)):
        codex.ask(True)


def test_a_refused_second_response_is_an_error(codex: Codex) -> None:
    codex.provider.play(stream(response_events("Let me see.", [ADD])))
    codex.provider.play(answer({"error": {"message": "too long", "type": "bad"}}, 400))
    with pytest.raises(openai.APIError, match="too long"):
        codex.ask(True)


def test_a_compaction_is_recorded_and_gets_no_tools(codex: Codex) -> None:
    usage = {"input_tokens": 200_000, "output_tokens": 900, "total_tokens": 200_900}
    output = [{"type": "compaction", "id": "cmp_1", "encrypted_content": "abc"}]
    told = {"id": "resp_7", "object": "response.compaction", "output": output, "usage": usage}
    codex.provider.play(answer(told))
    body = b'{"model": "gpt-x",\n "input": [{"role": "user", "content": "2+3?"}]}'
    raw = requests.post(
        f"{codex.gateway.url}/openai/v1/responses/compact",
        data=body,
        headers={"Authorization": f"Bearer {codex.gateway.key()}"},
        timeout=30,
    )
    assert raw.json() == told
    request = codex.provider.requests[-1]
    assert request.target.endswith("/responses/compact")
    assert request.body == body
    codex.id = raw.headers["x-ai-gateway-interception-id"]
    (tokens,) = codex.records["token_usages"]
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (200_000, 900)
    assert json.loads(tokens["metadata"])["iteration"] == "compaction"
    (prompt,) = codex.records["user_prompts"]
    assert json.loads(prompt["metadata"]) == {"prompt_kind": "compaction"}


def test_a_websocket_is_refused_while_tools_are_injected(tooled_gateway: GatewayProcess) -> None:
    """Over HTTP, on which clients go on at 426, there are tools."""
    answer = requests.get(
        f"{tooled_gateway.url}/openai/v1/responses",
        headers={
            "Authorization": f"Bearer {tooled_gateway.key()}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
        timeout=30,
    )
    assert answer.status_code == 426
    wait_until(
        lambda: any(
            line.get("fields", {}).get("rule") == "tools are injected for this user"
            for line in tooled_gateway.logs()
        ),
        "it is logged",
    )
