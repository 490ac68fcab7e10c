"""Anthropic's API with injected tools: the SDK in front, an MCP server behind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import requests
from gateway_process import GatewayProcess, wait_until
from imitation_provider import ScriptedProvider, WaitFor, answer, cut, stream
from last_request import LastRequest
from round_answers import Call, message, message_stream

ADD: Call = ("toolu_1", "bmcp_sdk_add", {"a": 2, "b": 3})
QUESTION: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "2+3?"}],
}
OWN = {"name": "mine", "description": "", "input_schema": {"type": "object"}}


@pytest.fixture
def provider(rounds_provider: ScriptedProvider) -> ScriptedProvider:
    return rounds_provider


class Claude(LastRequest):
    streamed = staticmethod(message_stream)
    blocking = staticmethod(message)

    def __init__(self, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
        super().__init__(gateway, provider)
        self.sdk = anthropic.Anthropic(
            base_url=f"{gateway.url}/anthropic", api_key=gateway.key(), max_retries=0, timeout=30
        )

    def ask(self, streaming: bool, **more: Any) -> anthropic.types.Message:
        if streaming:
            with self.sdk.messages.stream(**{**QUESTION, **more}) as running:
                whole = running.get_final_message()
                self.id = running.response.headers["x-ai-gateway-interception-id"]
            return whole
        raw = self.sdk.messages.with_raw_response.create(**{**QUESTION, **more})
        self.id = raw.headers["x-ai-gateway-interception-id"]
        return raw.parse()


@pytest.fixture
def claude(tooled_gateway: GatewayProcess, provider: ScriptedProvider) -> Iterator[Claude]:
    made = Claude(tooled_gateway, provider)
    yield made
    made.sdk.close()


both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


@both
def test_a_called_tool_is_run_and_the_client_sees_one_answer(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    claude.plan(streaming, {"text": "Let me see.", "calls": [ADD]}, {"text": "It is 5."})
    whole = claude.ask(streaming)
    texts = [block.text for block in whole.content if block.type == "text"]
    assert texts == (["Let me see.", "It is 5."] if streaming else ["It is 5."])
    assert whole.stop_reason == "end_turn"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (20, 10)
    first, second = claude.sent
    names = [tool["name"] for tool in first["tools"]]
    assert names == sorted(names)
    assert "bmcp_sdk_add" in names
    assert "bmcp_sdk_where" not in names
    assert first["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert second["tools"] == first["tools"]
    said, results = second["messages"][-2:]
    assert [block["type"] for block in said["content"]] == ["text", "tool_use"]
    assert said["content"][1]["input"] == {"a": 2, "b": 3}
    (result,) = results["content"]
    assert (result["tool_use_id"], result["is_error"]) == ("toolu_1", False)
    assert result["content"] == [{"type": "text", "text": "5"}]


@both
def test_all_is_recorded_once(
    claude: Claude, provider: ScriptedProvider, streaming: bool, mcp_url: str
) -> None:
    claude.plan(streaming, {"calls": [ADD]}, {"text": "It is 5."})
    claude.ask(streaming)
    records = claude.records
    assert records["error_type"] is None
    assert [prompt["prompt"] for prompt in records["user_prompts"]] == ["2+3?"]
    (tool,) = records["tool_usages"]
    assert (tool["tool"], tool["server_url"], tool["injected"]) == ("add", mcp_url, 1)
    assert (tool["tool_call_id"], tool["msg_id"]) == ("toolu_1", "msg_1")
    assert json.loads(tool["input"]) == {"a": 2, "b": 3}
    assert tool["invocation_error"] is None
    tokens = records["token_usages"]
    assert sum(each["input_tokens"] for each in tokens) == 20
    assert sum(each["output_tokens"] for each in tokens) == 10
    assert {each["msg_id"] for each in tokens} == {"msg_1", "msg_2"}


@both
def test_every_call_of_an_answer_is_run(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    calls: list[Call] = [
        ADD,
        ("toolu_2", "bmcp_sdk_add", {"a": 4, "b": 5}),
        ("toolu_3", "bmcp_sdk_broken", {}),
    ]
    claude.plan(streaming, {"calls": calls}, {"text": "Done."})
    assert claude.ask(streaming).stop_reason == "end_turn"
    results = claude.sent[1]["messages"][-1]["content"]
    assert [each["tool_use_id"] for each in results] == ["toolu_1", "toolu_2", "toolu_3"]
    assert [each["is_error"] for each in results] == [False, False, True]
    assert [each["content"][0]["text"] for each in results[:2]] == ["5", "9"]
    tools = claude.records["tool_usages"]
    assert [each["tool_call_id"] for each in tools] == ["toolu_1", "toolu_2", "toolu_3"]
    assert tools[2]["invocation_error"]


def test_independent_calls_run_at_the_same_time(claude: Claude, provider: ScriptedProvider) -> None:
    calls: list[Call] = [(f"toolu_{n}", "bmcp_sdk_slow", {"seconds": 1.5}) for n in range(4)]
    claude.plan(True, {"calls": calls}, {"text": "Done."})
    began = time.monotonic()
    claude.ask(True)
    assert time.monotonic() - began < 5


@both
def test_the_clients_own_calls_are_the_clients(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    own: Call = ("toolu_9", "mine", {"x": 1})
    claude.plan(streaming, {"text": "Both.", "calls": [ADD, own]})
    whole = claude.ask(streaming, tools=[OWN])
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert (whole.content[1].name, whole.content[1].input) == ("mine", {"x": 1})
    assert whole.stop_reason == "tool_use"
    assert len(claude.sent) == 1
    assert claude.sent[0]["tools"][-1] == OWN
    tools = {each["tool"]: each["injected"] for each in claude.records["tool_usages"]}
    assert tools == {"add": 1, "mine": 0}


@both
def test_the_limit_ends_with_an_answer(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    rounds = [{"calls": [(f"toolu_{n}", "bmcp_sdk_add", {"a": n, "b": 1})]} for n in range(3)]
    claude.plan(streaming, *rounds, {"text": "Enough."})
    whole = claude.ask(streaming)
    assert whole.content[0].text == "Enough."
    assert [one["tool_choice"]["type"] for one in claude.sent] == ["auto"] * 3 + ["none"]


@both
def test_a_model_that_calls_beyond_the_limit_is_stopped(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    rounds = [{"calls": [(f"toolu_{n}", "bmcp_sdk_add", {"a": n, "b": 1})]} for n in range(4)]
    claude.plan(streaming, *rounds)
    whole = claude.ask(streaming)
    assert (whole.content, whole.stop_reason) == ([], "end_turn")
    errors = [each["invocation_error"] for each in claude.records["tool_usages"]]
    assert errors[:3] == [None] * 3
    assert "limit" in errors[3]


def test_text_streams_through_before_the_tool_is_run(
    claude: Claude, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    events = message_stream("Let me see.", [ADD])
    provider.play(stream([*events[:4], WaitFor(gate), *events[4:]]))
    provider.play(stream(message_stream("5.", number=2)))
    with claude.sdk.messages.stream(**QUESTION) as running:
        for event in running:
            if event.type == "text":
                gate.set()
        assert gate.is_set()
        assert running.get_final_text() == "Let me see.5."


def test_pings_come_while_a_tool_runs(
    claude: Claude, tooled_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    slow: Call = ("toolu_1", "bmcp_sdk_slow", {"seconds": 1.5})
    claude.plan(True, {"calls": [slow]}, {"text": "Done."})
    body = requests.post(
        f"{tooled_gateway.url}/anthropic/v1/messages",
        json={**QUESTION, "stream": True},
        headers={"X-Api-Key": tooled_gateway.key(), "Accept-Encoding": "gzip"},
        timeout=30,
    ).text
    assert body.count("event: ping\n") >= 2
    assert "bmcp_" not in body
    assert body.count("event: message_start\n") == body.count("event: message_stop\n") == 1


def test_a_refused_continuation_is_an_error_event(
    claude: Claude, provider: ScriptedProvider
) -> None:
    provider.play(stream(message_stream("Let me see.", [ADD])))
    provider.play(
        answer(
            {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}},
            400,
        )
    )
    with pytest.raises(anthropic.APIError, match="too long"):
        claude.ask(True)
    last = claude.gateway.rows("SELECT id FROM interceptions ORDER BY started_at DESC LIMIT 1")
    assert claude.gateway.records(last[0]["id"])["error_message"] == "too long"


def test_a_refused_continuation_is_the_answer_to_a_blocking_client(
    claude: Claude, provider: ScriptedProvider
) -> None:
    provider.play(answer(message("", [ADD])))
    provider.play(
        answer(
            {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}},
            400,
        )
    )
    with pytest.raises(anthropic.BadRequestError, match="too long"):
        claude.ask(False)


def test_a_continuation_that_breaks_off_never_looks_complete(
    claude: Claude, provider: ScriptedProvider
) -> None:
    provider.play(stream(message_stream("Let me see.", [ADD])))
    provider.play(cut(message_stream("It is", number=2)[:3]))
    with pytest.raises(anthropic.APIError):
        claude.ask(True)


def test_a_client_that_leaves_ends_the_loop_after_the_running_call(
    claude: Claude, tooled_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    slow: Call = ("toolu_1", "bmcp_sdk_slow", {"seconds": 2})
    seen = len(provider.requests)
    claude.plan(True, {"text": "Hold on.", "calls": [slow]})
    with requests.post(
        f"{tooled_gateway.url}/anthropic/v1/messages",
        json={**QUESTION, "stream": True},
        headers={"X-Api-Key": tooled_gateway.key()},
        stream=True,
        timeout=30,
    ) as running:
        interception = running.headers["X-AI-Gateway-Interception-Id"]
        for line in running.iter_lines():
            if b"ping" in line:
                break
    records = tooled_gateway.records(interception)
    assert [each["tool"] for each in records["tool_usages"]] == ["slow"]
    assert "left" in records["error_message"]
    assert len(provider.requests) == seen + 1


def test_a_blocking_client_that_leaves_ends_the_loop_too(
    claude: Claude, tooled_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    slow: Call = ("toolu_1", "bmcp_sdk_slow", {"seconds": 2})
    seen = len(provider.requests)
    claude.plan(False, {"calls": [slow]})
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{tooled_gateway.url}/anthropic/v1/messages",
            json=QUESTION,
            headers={"X-Api-Key": tooled_gateway.key()},
            timeout=1,
        )
    (last,) = tooled_gateway.rows(
        "SELECT id FROM interceptions ORDER BY started_at DESC, rowid DESC LIMIT 1"
    )
    records = tooled_gateway.records(last["id"])
    assert [each["tool"] for each in records["tool_usages"]] == ["slow"]
    assert "left" in records["error_message"]
    assert len(provider.requests) == seen + 1


def test_calls_of_an_answer_that_nobody_waits_for_are_not_run(
    tooled_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    events = message_stream("Hold on.", [ADD])
    provider.play(stream([*events[:4], WaitFor(gate), *events[4:]]))
    seen = len(provider.requests)
    with requests.post(
        f"{tooled_gateway.url}/anthropic/v1/messages",
        json={**QUESTION, "stream": True},
        headers={"X-Api-Key": tooled_gateway.key()},
        stream=True,
        timeout=30,
    ) as running:
        interception = running.headers["X-AI-Gateway-Interception-Id"]
        for line in running.iter_lines():
            if b"ping" in line:
                break
    wait_until(
        lambda: any(interception in json.dumps(line) for line in tooled_gateway.logs()),
        "the gateway noticed",
    )
    gate.set()
    records = tooled_gateway.records(interception)
    (tool,) = records["tool_usages"]
    assert "left" in tool["invocation_error"]
    assert len(provider.requests) == seen + 1


@both
def test_an_error_of_the_first_round_passes_as_it_is(
    claude: Claude, provider: ScriptedProvider, streaming: bool
) -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    provider.play(answer(error, 400))
    raw = requests.post(
        f"{claude.gateway.url}/anthropic/v1/messages",
        json={**QUESTION, "stream": streaming},
        headers={"X-Api-Key": claude.gateway.key()},
        timeout=30,
    )
    assert (raw.status_code, raw.json()) == (400, error)


def test_small_fast_models_get_no_tools(claude: Claude, provider: ScriptedProvider) -> None:
    claude.plan(False, {"text": "hi"})
    claude.ask(False, model="claude-haiku-4-5")
    assert "tools" not in claude.sent[0]


def test_the_tools_actor_may_be_restarted(claude: Claude, provider: ScriptedProvider) -> None:
    claude.plan(True, {"calls": [ADD]}, {"text": "It is 5."})
    claude.ask(True)
    options = ["--runtime-dir", str(claude.gateway.runtime_dir)]
    done = claude.gateway.command("actors", *options, "restart", "mcp")
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: "mcp" in claude.gateway.command("actors", *options).stdout,
        "the actor is back",
    )
    claude.plan(True, {"calls": [ADD]}, {"text": "It is 5."})
    assert claude.ask(True).content[0].text == "It is 5."
