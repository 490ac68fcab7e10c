"""Rounds of the Responses API with streams that are not as the documentation has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigateway.actors.interception import open_interception
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.injection import Encodings
from aigateway.actors.interception.opening import with_tools
from aigateway.actors.values.records import (
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)
from aigateway.actors.values.tools import Tool, ToolResult, ToolSet

TOOLS = ToolSet((Tool("bmcp_s_add", "add", "s", "http://mcp/", "Add.", b'{"type":"object"}'),))
CODEX = [("User-Agent", "codex_exec/0.171.0"), ("X-Openai-Subagent", "review")]
NOW = 1_700_000_000.0
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "bmcp_s_add",
    "arguments": '{"a":1}',
}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Five."}],
}
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


class Rounds:
    """A request with an injected tool, and what came of its rounds."""

    def __init__(self, *, streaming: bool = True) -> None:
        body = {"model": "m", "stream": streaming, "input": [{"role": "user", "content": "2+3?"}]}
        plain = open_interception(
            "responses", id="int-1", body=json.dumps(body).encode(), headers=CODEX
        )
        loop = with_tools(plain, TOOLS, Encodings(), max_rounds=9)
        assert isinstance(loop, InjectedInterception)
        self.loop = loop
        self.streaming = streaming
        self.shown = b""
        self.run = 0
        self.records: list[UsageRecord] = []

    def play(self, answer: bytes) -> Rounds:
        """One answer; its calls are answered with 5."""
        loop = self.loop
        kind = "text/event-stream" if self.streaming else "application/json"
        loop.begin_answer(200, [("Content-Type", kind)])
        self.shown += loop.receive_data(answer, NOW) + loop.receive_end(NOW)
        self.records += loop.take_records()
        if loop.calls:
            self.run += len(loop.calls)
            five = ToolResult(
                tool="add", server_url="http://mcp/", content=b'[{"type":"text","text":"5"}]'
            )
            self.shown += loop.answer([five] * len(loop.calls), NOW)
            self.records += loop.take_records()
        return self

    def answer(self, number: int, *output: dict[str, Any], **fields: Any) -> Rounds:
        """One answer with these items, as the documentation has it."""
        whole = response(number, *output, **fields)
        if not self.streaming:
            return self.play(json.dumps(whole).encode())
        return self.play(created(number) + items(*output) + event("completed", response=whole))

    @property
    def tools(self) -> list[ToolUsage]:
        return [each for each in self.records if isinstance(each, ToolUsage)]

    @property
    def tokens(self) -> list[TokenUsage]:
        return [each for each in self.records if isinstance(each, TokenUsage)]

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.shown.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line[6:]) for line in lines]


def event(kind: str, **fields: Any) -> bytes:
    kind = f"response.{kind}"
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def response(number: int, *output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10 * number, "output_tokens": number}
    known = {"id": f"resp_{number}", "status": "completed", "usage": usage, "model": "m"}
    return {**known, "output": list(output), **fields}


def created(number: int) -> bytes:
    return event("created", response=response(number, status="in_progress", usage=None))


def items(*output: dict[str, Any], added: bool = True) -> bytes:
    events = []
    for place, item in enumerate(output):
        if added:
            events.append(event("output_item.added", output_index=place, item=item))
        events.append(event("output_item.done", output_index=place, item=item))
    return b"".join(events)


def is_answered(rounds: Rounds) -> None:
    """The call was run once, and the client saw one response without it."""
    assert rounds.run == 1
    assert [(tool.tool, tool.input, tool.injected) for tool in rounds.tools] == [
        ("add", '{"a":1}', True)
    ]
    assert b"bmcp_s_add" not in rounds.shown
    (last,) = [each for each in rounds.events if "output" in each.get("response", {})][-1:]
    assert [item["id"] for item in last["response"]["output"]] == ["msg_1"]
    assert last["response"]["usage"]["input_tokens"] == 30
    assert [tokens.input_tokens for tokens in rounds.tokens] == [10, 20]


def test_items_that_nobody_announced_are_hidden_too() -> None:
    first = created(1) + items(CALL, added=False) + event("completed", response=response(1, CALL))
    is_answered(Rounds().play(first).answer(2, MESSAGE))


def test_a_call_that_only_the_last_event_tells_is_run() -> None:
    first = created(1) + event("completed", response=response(1, CALL))
    is_answered(Rounds().play(first).answer(2, MESSAGE))


def test_names_without_data_change_nothing() -> None:
    first = created(1) + items(CALL) + event("completed", response=response(1, CALL))
    rounds = Rounds().play(first.replace(b"\ndata: ", b"\n\ndata: ")).answer(2, MESSAGE)
    is_answered(rounds)


def test_data_without_names_is_edited_like_events() -> None:
    first = created(1) + items(CALL) + event("completed", response=response(1, CALL))
    nameless = b"".join(
        line for line in first.splitlines(keepends=True) if not line.startswith(b"event:")
    )
    is_answered(Rounds().play(nameless).answer(2, MESSAGE))


@pytest.mark.parametrize("last", ["done", "finished"])
def test_other_last_events_end_a_round(last: str) -> None:
    first = created(1) + items(CALL) + event(last, response=response(1, CALL))
    is_answered(Rounds().play(first).answer(2, MESSAGE))


@both
def test_a_name_in_a_namespace_is_the_clients(streaming: bool) -> None:
    own = {**CALL, "namespace": "mcp__own"}
    rounds = Rounds(streaming=streaming).answer(1, own)
    assert rounds.run == 0
    assert [(t.tool, t.injected) for t in rounds.tools] == [("mcp__own__bmcp_s_add", False)]


@both
def test_calls_without_an_id_are_run_once(streaming: bool) -> None:
    nameless = {**CALL, "call_id": "", "id": ""}
    rounds = Rounds(streaming=streaming).answer(1, nameless).answer(2, MESSAGE)
    assert rounds.run == 1


@both
def test_calls_of_one_tool_are_each_run(streaming: bool) -> None:
    again = {**CALL, "id": "fc_2", "call_id": "call_2", "arguments": '{"a":2}'}
    rounds = Rounds(streaming=streaming).answer(1, CALL, again).answer(2, MESSAGE)
    assert [(t.tool_call_id, t.input) for t in rounds.tools] == [
        ("call_1", '{"a":1}'),
        ("call_2", '{"a":2}'),
    ]


@both
def test_a_search_for_tools_by_the_client_ends_the_loop(streaming: bool) -> None:
    search = {"type": "tool_search_call", "id": "ts_1", "call_id": "call_9", "execution": "client"}
    rounds = Rounds(streaming=streaming).answer(1, CALL, {**search, "arguments": {"query": "x"}})
    assert not rounds.loop.goes_on
    assert {t.tool: t.injected for t in rounds.tools} == {"tool_search_call": False, "add": True}
    on = Rounds(streaming=streaming).answer(1, CALL, {**search, "execution": "server"})
    assert on.loop.goes_on


@both
def test_each_round_has_its_own_row(streaming: bool) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "content": [{"text": "Add them."}]}
    rounds = Rounds(streaming=streaming)
    rounds.answer(1, thought, CALL, model="m-2026", service_tier="flex").answer(2, MESSAGE)
    assert [each.metadata for each in rounds.tokens] == [
        {"provider_model": "m-2026", "service_tier": "flex"},
        {},
    ]
    thoughts = [each.content for each in rounds.records if isinstance(each, ModelThought)]
    assert thoughts == ["Add them."]
    assert rounds.loop.outcome().metadata == {}


def test_a_client_sees_the_sum_of_running_totals() -> None:
    so_far = response(1, status="in_progress", usage={"input_tokens": 10, "output_tokens": 1})
    bare = response(1, CALL, usage={"output_tokens": 3})
    progress = event("in_progress", response=so_far)
    rounds = Rounds().play(created(1) + progress + items(CALL) + event("completed", response=bare))
    rounds.answer(2, MESSAGE)
    usage = rounds.events[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (10 + 20, 3 + 2)
    assert [(t.input_tokens, t.output_tokens) for t in rounds.tokens] == [(10, 3), (20, 2)]


@both
def test_a_call_whose_arguments_never_came_has_none(streaming: bool) -> None:
    bare = {name: value for name, value in CALL.items() if name != "arguments"}
    rounds = Rounds(streaming=streaming).answer(1, bare).answer(2, MESSAGE)
    assert rounds.run == 1
    assert [tool.input for tool in rounds.tools] == ["null"]


@both
def test_who_spoke_is_recorded_with_tools_too(streaming: bool) -> None:
    rounds = Rounds(streaming=streaming).answer(1, CALL).answer(2, MESSAGE)
    prompts = [each for each in rounds.records if isinstance(each, PromptUsage)]
    assert [(each.prompt, each.metadata) for each in prompts] == [
        ("2+3?", {"prompt_kind": "agent"})
    ]
