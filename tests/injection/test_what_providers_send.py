"""What real providers put into answers with calls: the rounds keep it and count it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from round_answers import Call, message_parts

from aigateway.actors.interception import open_interception
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.injection import Encodings, inject
from aigateway.actors.interception.opening import with_tools
from aigateway.actors.values.records import PromptUsage, TokenUsage, ToolUsage
from aigateway.actors.values.tools import Tool, ToolResult, ToolSet

SCHEMA = b'{"type":"object","properties":{}}'
TOOLS = ToolSet((Tool("bmcp_s_add", "add", "s", "http://mcp/", "Add.", SCHEMA),))
ADD: Call = ("call_1", "bmcp_s_add", {"a": 1})
NOW = 1_700_000_000.0


def opened(api: str, max_rounds: int = 9, **request: Any) -> InjectedInterception:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **request}
    plain = open_interception(api, id="int-1", body=json.dumps(body).encode())
    loop = with_tools(plain, TOOLS, Encodings(), max_rounds=max_rounds)
    assert isinstance(loop, InjectedInterception)
    return loop


def play(loop: InjectedInterception, *events: bytes) -> bytes:
    """One round as a stream; its calls are answered with 5."""
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    out = b"".join(loop.receive_data(event, NOW) for event in events) + loop.receive_end(NOW)
    return out + _answered(loop)


def play_whole(loop: InjectedInterception, answer: dict[str, Any]) -> dict[str, Any]:
    """One round as a blocking answer."""
    loop.begin_answer(200, [("Content-Type", "application/json")])
    loop.receive_data(json.dumps(answer).encode(), NOW)
    loop.receive_end(NOW)
    _answered(loop)
    shown: dict[str, Any] = json.loads(loop.answer_body) if loop.answer_body else {}
    return shown


def _answered(loop: InjectedInterception) -> bytes:
    if not loop.calls:
        return b""
    five = b'[{"type":"text","text":"5"}]'
    results = [ToolResult(tool="add", server_url="http://mcp/", content=five)] * len(loop.calls)
    return loop.answer(results, NOW)


def data_of(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


# -- Anthropic's Messages


def event(kind: str, /, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: Any) -> bytes:
    return event("message_start", message={"id": "msg_1", "content": [], "usage": usage})


def block(index: int, begun: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=begun),
        *[event("content_block_delta", index=index, delta=delta) for delta in deltas],
        event("content_block_stop", index=index),
    ]


def end(stop_reason: str, *, usage: dict[str, Any], **delta: Any) -> list[bytes]:
    return [
        event("message_delta", delta={"stop_reason": stop_reason, **delta}, usage=usage),
        event("message_stop"),
    ]


def call_block(index: int, *pieces: str) -> list[bytes]:
    begun = {"type": "tool_use", "id": f"toolu_{index}", "name": "bmcp_s_add", "input": {}}
    return block(index, begun, *[{"type": "input_json_delta", "partial_json": p} for p in pieces])


def test_usage_that_is_known_at_the_end_counts_for_all_rounds() -> None:
    # A search's results are input: the last event's counts are those of the whole message.
    searched = {"web_search_requests": 2, "web_fetch_requests": 0}
    loop = opened("messages", stream=True)
    play(
        loop,
        start(input_tokens=100, cache_read_input_tokens=7, output_tokens=1),
        *call_block(0, "{}"),
        *end(
            "tool_use",
            usage={"input_tokens": 900, "output_tokens": 10, "server_tool_use": searched},
        ),
    )
    shown = play(
        loop,
        start(input_tokens=50, cache_read_input_tokens=3, output_tokens=1),
        *end("end_turn", usage={"output_tokens": 4, "output_tokens_details": None}),
    )
    (usage,) = [each["usage"] for each in data_of(shown) if each["type"] == "message_delta"]
    assert usage["input_tokens"] == 950
    assert usage["cache_read_input_tokens"] == 10
    assert usage["output_tokens"] == 10 + 4
    assert usage["server_tool_use"] == searched


def test_each_count_of_a_round_is_a_running_total() -> None:
    loop = opened("messages", stream=True)
    play(
        loop,
        start(input_tokens=100, cache_read_input_tokens=7, output_tokens=4),
        *call_block(0, "{}"),
        *end("tool_use", usage={"output_tokens": 20, "cache_read_input_tokens": 5})[:-1],
        *end("tool_use", usage={"output_tokens": 15, "input_tokens": 90}),
    )
    shown = play(loop, start(input_tokens=50), *end("end_turn", usage={"output_tokens": 3}))
    usages = [each["usage"] for each in data_of(shown) if each["type"] == "message_delta"]
    assert [usages[-1]["input_tokens"], usages[-1]["cache_read_input_tokens"]] == [140, 5]
    rows = [each for each in loop.take_records() if isinstance(each, TokenUsage)]
    assert [(r.input_tokens, r.output_tokens, r.cache_read_input_tokens) for r in rows] == [
        (90, 15, 5),
        (50, 3, 0),
    ]
    assert usages[-1]["output_tokens"] == sum(r.output_tokens for r in rows)
    assert usages[-1]["input_tokens"] == sum(r.input_tokens for r in rows)


@pytest.mark.parametrize("streaming", [True, False])
def test_the_calls_that_all_rounds_were_billed_for_are_in_the_last_usage(streaming: bool) -> None:
    def usage(compacted: int, sampled: int) -> dict[str, Any]:
        return {
            "input_tokens": sampled,
            "output_tokens": 2,
            "iterations": [
                {"type": "compaction", "input_tokens": compacted, "output_tokens": 1},
                {"type": "message", "input_tokens": sampled, "output_tokens": 2},
            ],
        }

    loop = opened("messages", stream=streaming)
    if streaming:
        play(loop, start(), *call_block(0, "{}"), *end("tool_use", usage=usage(500, 50)))
        shown = play(loop, start(), *end("end_turn", usage=usage(600, 60)))
        (told,) = [each["usage"] for each in data_of(shown) if each["type"] == "message_delta"]
    else:
        call = {"type": "tool_use", "id": "toolu_1", "name": "bmcp_s_add", "input": {}}
        one = {"id": "msg_1", "content": [call], "stop_reason": "tool_use", "usage": usage(500, 50)}
        play_whole(loop, one)
        two = {"id": "msg_2", "content": [], "stop_reason": "end_turn", "usage": usage(600, 60)}
        told = play_whole(loop, two)["usage"]
    assert [each["input_tokens"] for each in told["iterations"]] == [500, 50, 600, 60]
    assert told["input_tokens"] == 110
    rows = [each for each in loop.take_records() if isinstance(each, TokenUsage)]
    assert [row.input_tokens for row in rows] == [500, 50, 600, 60]


def test_usage_of_blocking_rounds_is_added_up() -> None:
    loop = opened("messages")
    tool_use = {"type": "tool_use", "id": "toolu_1", "name": "bmcp_s_add", "input": {}}
    one: dict[str, Any] = {
        "id": "msg_1",
        "content": [tool_use],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 2,
            "cache_creation": {"ephemeral_5m_input_tokens": 4},
            "output_tokens_details": {"thinking_tokens": 1},
        },
    }
    play_whole(loop, one)
    two = {**one, "content": [], "stop_reason": "end_turn"}
    two["usage"] = {**one["usage"], "output_tokens_details": None}
    assert play_whole(loop, two)["usage"] == {
        "input_tokens": 20,
        "output_tokens": 4,
        "cache_creation": {"ephemeral_5m_input_tokens": 8},
        "output_tokens_details": {"thinking_tokens": 1},
    }


def test_counts_that_the_last_message_leaves_out_or_nobody_knows_are_added_up_too() -> None:
    loop = opened("messages")
    called = {"type": "tool_use", "id": "toolu_1", "name": "bmcp_s_add", "input": {}}
    first = {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 7, "new": {"a": 1}}
    play_whole(loop, {"content": [called], "stop_reason": "tool_use", "usage": first})
    last = {"input_tokens": 6, "output_tokens": 1, "new": {"a": 2}}
    words = {"type": "text", "text": "5"}
    shown = play_whole(loop, {"content": [words], "stop_reason": "end_turn", "usage": last})
    assert shown["usage"] == {
        "input_tokens": 11,
        "output_tokens": 4,
        "cache_read_input_tokens": 7,
        "new": {"a": 3},
    }


def test_who_spoke_is_told_with_the_prompt_of_the_first_round() -> None:
    headers = [("User-Agent", "claude-cli/2.1.197"), ("X-Claude-Code-Agent-Id", "a1")]
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Count."}]}
    plain = open_interception("messages", id="1", body=json.dumps(body).encode(), headers=headers)
    loop = with_tools(plain, TOOLS, Encodings(), max_rounds=9)
    assert isinstance(loop, InjectedInterception)
    play(loop, start(), *end("end_turn", usage={"output_tokens": 1}))
    told = [each for each in loop.take_records() if isinstance(each, PromptUsage)]
    assert [(each.prompt, each.metadata) for each in told] == [("Count.", {"prompt_kind": "agent"})]


def test_a_message_is_given_back_as_it_was_said() -> None:
    citation = {"type": "char_location", "cited_text": "x"}
    found = {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"url": "u"}]}
    hidden = {"type": "redacted_thinking", "data": "abc"}
    compaction = {"type": "compaction", "content": None, "encrypted_content": None}
    begun = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    loop = opened("messages", stream=True)
    play(
        loop,
        start(input_tokens=1),
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm "},
            {"type": "thinking_delta", "thinking": "\U0001f914"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *block(1, hidden),
        *block(
            2,
            compaction,
            {"type": "compaction_delta", "content": "All ", "encrypted_content": None},
            {"type": "compaction_delta", "content": "so far.", "encrypted_content": "e1"},
        ),
        *block(3, begun, {"type": "input_json_delta", "partial_json": '{"query": "q"}'}),
        *block(4, found),
        *block(
            5,
            {"type": "text", "text": "", "citations": []},
            {"type": "text_delta", "text": "So it is."},
            {"type": "citations_delta", "citation": citation},
        ),
        *block(6, {"type": "text", "text": ""}),
        *call_block(7, "", '{"a"', ": 1}"),
        *end("tool_use", usage={"output_tokens": 1}),
    )
    said = json.loads(loop.upstream_body())["messages"][-2]
    assert said["role"] == "assistant"
    assert said["content"] == [
        {"type": "thinking", "thinking": "Hm \U0001f914", "signature": "c2ln"},
        hidden,
        {"type": "compaction", "content": "All so far.", "encrypted_content": "e1"},
        {**begun, "input": {"query": "q"}},
        found,
        {"type": "text", "text": "So it is.", "citations": [citation]},
        # The empty text is left out: the provider would not take it.
        {"type": "tool_use", "id": "toolu_7", "name": "bmcp_s_add", "input": {"a": 1}},
    ]


@pytest.mark.parametrize("place", ["start", "delta"])
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, "cntr_1"),
        ({"container": None}, "cntr_1"),
        ({"container": "cntr_0"}, "cntr_0"),
        ({"container": {"skills": []}}, {"id": "cntr_1", "skills": []}),
    ],
)
def test_code_goes_on_in_its_container(place: str, asked: dict[str, Any], wanted: Any) -> None:
    container = {"id": "cntr_1", "expires_at": "2027-01-01T00:00:00Z"}
    loop = opened("messages", stream=True, **asked)
    opening = start(input_tokens=1)
    last = end("tool_use", usage={"output_tokens": 1})
    if place == "start":
        message = {"id": "msg_1", "content": [], "usage": {}, "container": container}
        opening = event("message_start", message=message)
    else:
        last = end("tool_use", usage={"output_tokens": 1}, container=container)
    play(loop, opening, *call_block(0, "{}"), *last)
    assert json.loads(loop.upstream_body())["container"] == wanted


def test_arguments_that_are_no_json_are_an_error_for_the_model() -> None:
    loop = opened("messages", stream=True)
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    events = [start(input_tokens=1), *call_block(0, '{"owner": adm'), *end("tool_use", usage={})]
    shown = b"".join(loop.receive_data(one, NOW) for one in events) + loop.receive_end(NOW)
    assert b"bmcp_" not in shown
    (call,) = loop.calls
    assert call.arguments == '{"owner": adm'
    loop.answer([ToolResult(tool="add", is_error=True, transport_error="no JSON object")], NOW)
    assert loop.goes_on
    said, result = json.loads(loop.upstream_body())["messages"][-2:]
    # The provider wants an object, whatever the model wrote.
    assert said["content"][0]["input"] == {}
    assert result["content"][0]["is_error"] is True
    (tool,) = [each for each in loop.take_records() if isinstance(each, ToolUsage)]
    assert json.loads(tool.input) == '{"owner": adm'
    assert tool.invocation_error == "no JSON object"


@pytest.mark.parametrize("stopped", [True, False], ids=["block-stop", "no-block-stop"])
@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
def test_a_call_that_was_cut_off_is_not_run(stopped: bool, reason: str) -> None:
    loop = opened("messages", stream=True)
    call = call_block(1, '{"owner": "adm')
    shown = play(
        loop,
        start(input_tokens=1),
        *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I will"}),
        *(call if stopped else call[:-1]),
        *end(reason, usage={"output_tokens": 1}),
    )
    assert not loop.goes_on
    kinds = [each["type"] for each in data_of(shown)]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == 1
    assert data_of(shown)[-2]["delta"]["stop_reason"] == reason
    (tool,) = [each for each in loop.take_records() if isinstance(each, ToolUsage)]
    assert (tool.tool, json.loads(tool.input), tool.injected) == ("add", '{"owner": "adm', True)
    assert tool.invocation_error is not None


def test_a_paused_turn_is_the_clients_to_go_on_with() -> None:
    begun = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    events = [
        start(input_tokens=1),
        *block(0, begun, {"type": "input_json_delta", "partial_json": "{}"}),
        *end("pause_turn", usage={"output_tokens": 1}),
    ]
    loop = opened("messages", stream=True)
    assert play(loop, *events) == b"".join(events)
    assert not loop.goes_on


def test_a_provider_that_says_the_turn_ended_gets_the_results_of_its_calls() -> None:
    # Some that imitate the API do not know the reason tool_use.
    loop = opened("messages", stream=True)
    play(loop, *itertools.chain.from_iterable(message_parts([ADD], stop="end_turn")))
    assert loop.goes_on


# -- OpenAI's Chat Completions


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    document = {"id": "c_1", "object": "chat.completion.chunk", "choices": [*choices], **more}
    return f"data: {json.dumps(document)}\n\n".encode()


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": reason}


def part(index: int, id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {**({"name": name} if name else {}), "arguments": arguments}
    return {"index": index, **({"id": id} if id else {}), "function": function}


DONE = b"data: [DONE]\n\n"


def chat(parts: Sequence[dict[str, Any]]) -> tuple[InjectedInterception, list[dict[str, Any]]]:
    loop = opened("chat-completions", stream=True)
    chunks = [chunk(delta(tool_calls=[each])) for each in parts]
    shown = play(loop, *chunks, chunk(delta("tool_calls")), DONE)
    return loop, data_of(shown)


def test_a_name_in_each_part_of_a_call_makes_no_new_call() -> None:
    _loop, shown = chat(
        [
            part(0, "call_1", "mine", '{"x"'),
            part(0, "call_1", "mine", ": 1"),
            part(0, "", "mine", "}"),
        ]
    )
    given = [call for each in shown for call in each["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["index"] for call in given] == [0, 0, 0]
    loop, shown = chat(
        [part(3, "call_2", "bmcp_s_add", '{"x"'), part(3, "call_2", "bmcp_s_add", ":1}")]
    )
    assert shown == []
    (said,) = json.loads(loop.upstream_body())["messages"][-2]["tool_calls"]
    assert (said["id"], said["function"]["arguments"]) == ("call_2", '{"x":1}')


def test_calls_that_are_all_numbered_0_are_told_apart() -> None:
    loop, shown = chat(
        [
            part(0, "call_1", "bmcp_s_add", "{}"),
            part(0, "call_2", "mine", "{}"),
            part(0, "call_3", "bmcp_s_add", "{}"),
            part(0, "call_4", "mine", "{}"),
        ]
    )
    given = [call for each in shown for call in each["choices"][0]["delta"].get("tool_calls", [])]
    assert [(call["id"], call["index"]) for call in given] == [("call_2", 0), ("call_4", 1)]
    tools = [each for each in loop.take_records() if isinstance(each, ToolUsage)]
    assert {(each.tool_call_id, each.injected) for each in tools} == {
        ("call_1", True),
        ("call_2", False),
        ("call_3", True),
        ("call_4", False),
    }


def test_a_completion_is_given_back_with_its_reasoning() -> None:
    loop = opened("chat-completions", stream=True)
    details = [{"type": "reasoning.text", "text": "Hm", "index": 0}, {"signature": "s"}]
    signed = {**part(0, "call_1", "bmcp_s_add", "{}"), "extra_content": {"google": {"s": "sig"}}}
    play(
        loop,
        chunk(delta(role="assistant", content="", reasoning_content=None, refusal=None)),
        chunk(delta(reasoning_content="First ", reasoning_details=details[:1])),
        chunk(delta(reasoning_content="add.", reasoning_details=details[1:])),
        chunk(delta(content="Let me")),
        chunk(delta(content=" see.", tool_calls=[signed])),
        chunk(delta("tool_calls")),
        DONE,
    )
    said = json.loads(loop.upstream_body())["messages"][-2]
    (call,) = said.pop("tool_calls")
    assert said == {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "First add.",
        "reasoning_details": details,
    }
    assert call["extra_content"] == {"google": {"s": "sig"}}


def test_usage_on_every_chunk_is_a_running_total() -> None:
    def usage(tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}

    loop = opened("chat-completions", stream=True, stream_options={"include_usage": True})
    called = part(0, "call_1", "bmcp_s_add", "{}")
    play(
        loop,
        chunk(delta(role="assistant", content="I"), usage=usage(10)),
        chunk(delta(tool_calls=[called]), usage=usage(20)),
        chunk(delta("tool_calls"), usage=usage(30)),
        DONE,
    )
    shown = play(
        loop,
        chunk(delta(content="Go"), usage=usage(10)),
        chunk(delta(content="od"), usage=usage(20)),
        chunk(delta("stop"), usage=usage(30)),
        DONE,
    )
    assert [each["usage"]["completion_tokens"] for each in data_of(shown)] == [40, 50, 60]
    assert [each["usage"]["prompt_tokens"] for each in data_of(shown)] == [10, 10, 10]
    tokens = [each for each in loop.take_records() if isinstance(each, TokenUsage)]
    assert [each.output_tokens for each in tokens] == [30, 30]


# -- many tools


@pytest.mark.parametrize(("own", "fit"), [(0, 128), (100, 28), (127, 1), (128, 0), (130, 0)])
@pytest.mark.parametrize("api", ["chat-completions", "responses"])
def test_openai_gets_no_more_tools_than_it_takes(api: str, own: int, fit: int) -> None:
    many = ToolSet(
        tuple(Tool(f"bmcp_s_{n:03}", f"{n}", "s", "http://mcp/", "", SCHEMA) for n in range(200))
    )
    mine = [{"type": "function", "name": f"mine_{n}"} for n in range(own)]
    body = json.dumps({"model": "m", "tools": mine}).encode()
    made = inject(api, body, many, Encodings())
    if made is None:
        assert fit == 0
        return
    assert list(made.tools) == [f"bmcp_s_{n:03}" for n in range(fit)]
    assert len(json.loads(made.body)["tools"]) == own + fit
    # Anthropic has no such limit.
    unlimited = inject("messages", body, many, Encodings())
    assert unlimited is not None
    assert len(unlimited.tools) == 200
