from __future__ import annotations

import json
from typing import Any

import pytest
from interception_answers import (
    MESSAGE_STOP,
    MESSAGES_BODY,
    MESSAGES_REQUEST,
    MESSAGES_STREAM,
    PING,
    block,
    message_delta,
    message_start,
    text_block,
    thinking_block,
    tool_block,
)
from interception_driver import JSON, Exchange, begin, event, exchange, finish, open_one

from aigateway.actors.interception import Outcome


def stream(*events: bytes, end: str = "framed", **request: Any) -> Exchange:
    result = exchange("messages", {**MESSAGES_REQUEST, **request}, b"".join(events), end=end)
    if end == "framed":
        assert result.client.startswith(b"".join(events))
    return result


def blocking(**answer: Any) -> Exchange:
    body = json.dumps({**MESSAGES_BODY, **answer}).encode()
    result = exchange("messages", {"model": "m", "messages": []}, body, content_type=JSON)
    assert result.client == body
    return result


# -- requests


@pytest.mark.parametrize(
    ("body", "model", "streaming"),
    [
        ({"model": "claude-x", "stream": True}, "claude-x", True),
        ({"model": "claude-x", "stream": False}, "claude-x", False),
        ({"model": "claude-x", "stream": "true"}, "claude-x", False),
        ({"model": 5, "stream": 1}, "", False),
        ({}, "", False),
        ([], "", False),
        ("text", "", False),
    ],
)
def test_model_and_stream_are_read_strictly(body: Any, model: str, streaming: bool) -> None:
    interception = open_one("messages", body)
    assert interception.model == model
    assert interception.streaming is streaming
    assert interception.refusal is None
    assert interception.upstream_body() == json.dumps(body).encode()


def prompt_of(messages: Any) -> str | None:
    result = stream(MESSAGES_STREAM, messages=messages)
    assert len(result.prompts) <= 1
    return result.prompts[0].prompt if result.prompts else None


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("hello", "hello"),
        # A blank text is none.
        ("", None),
        (" \n", None),
        ([{"type": "text", "text": " "}], None),
        ([{"type": "text", "text": "question"}, {"type": "text", "text": ""}], "question"),
        ([{"type": "text", "text": "question"}, {"type": "text", "text": "\n"}], "question"),
        ([{"type": "text", "text": "context"}, {"type": "text", "text": "question"}], "question"),
        (
            [
                {"type": "text", "text": "question"},
                {"type": "image", "source": {}},
                {"type": "tool_result", "tool_use_id": "t"},
            ],
            "question",
        ),
        ([{"type": "text", "text": "said"}, {"type": "text", "text": 5}], "said"),
        ([{"type": "tool_result", "tool_use_id": "t", "content": "x"}], None),
        ([], None),
        (["text"], None),
        (None, None),
        (7, None),
        ({"type": "text", "text": "no list"}, None),
    ],
)
def test_the_prompt_is_the_last_text_of_the_last_user_message(
    content: Any, prompt: str | None
) -> None:
    assert prompt_of([{"role": "user", "content": content}]) == prompt


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        {},
        ["hello"],
        [{"content": "hello"}],
        [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "{"}],
        [{"role": ["user"], "content": "hello"}],
    ],
)
def test_without_a_last_word_of_the_user_there_is_no_prompt(messages: Any) -> None:
    assert prompt_of(messages) is None


@pytest.mark.parametrize(
    ("last", "call"),
    [
        ({"role": "user", "content": "x"}, None),
        ({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}, "a"),
        (
            {
                "content": [
                    {"type": "tool_result", "tool_use_id": "a"},
                    {"type": "tool_result", "tool_use_id": "b"},
                    {"type": "tool_result", "tool_use_id": ""},
                    {"type": "tool_result", "tool_use_id": 5},
                    {"type": "text", "text": "x", "tool_use_id": "c"},
                ]
            },
            "b",
        ),
        ({}, None),
    ],
)
def test_the_correlating_call_is_the_last_one_answered(last: Any, call: str | None) -> None:
    before = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "old"}]}
    interception = open_one("messages", {"messages": [before, last]})
    assert interception.correlating_tool_call_id == call


REMINDER = {"type": "text", "text": "<system-reminder>\nToday is a day.\n</system-reminder>"}
NOTE = {"role": "system", "content": "Available agent types:\n- any"}


def as_claude_code(*messages: dict[str, Any], **headers: str) -> Exchange:
    """An exchange with what Claude Code 2.1.197 sends, in short."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    request = {
        "model": "claude-imaginary-1",
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.000;"},
            {"type": "text", "text": "You are an agent."},
        ],
        "messages": list(messages),
        "stream": True,
    }
    agent = ("User-Agent", "claude-cli/2.1.197 (external, sdk-cli)")
    interception = begin(open_one("messages", request, headers=[agent, *named]))
    return finish(interception, interception.receive_data(MESSAGES_STREAM, 1.0))


def test_the_first_prompt_of_a_session_is_the_persons() -> None:
    typed = {"type": "text", "text": "Make a file."}
    result = as_claude_code({"role": "user", "content": [REMINDER, typed]}, NOTE)
    assert [(p.prompt, p.metadata) for p in result.prompts] == [
        ("Make a file.", {"prompt_kind": "user"})
    ]


def test_a_subagents_task_is_told_from_what_somebody_typed() -> None:
    task = {"role": "user", "content": [REMINDER, {"type": "text", "text": "Count the files."}]}
    result = as_claude_code(task, NOTE, X_Claude_Code_Agent_Id="a7e")
    assert [(p.prompt, p.metadata) for p in result.prompts] == [
        ("Count the files.", {"prompt_kind": "agent"})
    ]


@pytest.mark.parametrize("behind", [[], [NOTE], [NOTE, NOTE]])
def test_results_of_tools_are_correlated_and_no_prompt(behind: list[dict[str, Any]]) -> None:
    result = as_claude_code(
        {"role": "user", "content": [REMINDER, {"type": "text", "text": "Make a file."}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "done"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "done"},
                REMINDER,
            ],
        },
        *behind,
    )
    assert result.prompts == []
    assert result.interception.correlating_tool_call_id == "t2"


# -- streams


def test_a_whole_stream_is_recorded() -> None:
    result = stream(MESSAGES_STREAM)
    assert result.client == MESSAGES_STREAM
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome()
    assert [(p.msg_id, p.prompt) for p in result.prompts] == [
        ("msg_imag1", "What is the weather in Ghent?")
    ]
    assert [(t.content, t.metadata) for t in result.thoughts] == [
        ("They ask about Ghent.", {"source": "thinking"})
    ]
    assert [(t.msg_id, t.tool, t.tool_call_id, t.input, t.injected) for t in result.tools] == [
        ("msg_imag1", "weather", "toolu_1", '{"city": "Ghent"}', False)
    ]
    assert [(t.input_tokens, t.output_tokens, t.msg_id) for t in result.tokens] == [
        (21, 40, "msg_imag1")
    ]
    assert {each.interception_id for each in result.records} == {"int-1"}


def test_records_are_taken_once() -> None:
    result = stream(MESSAGES_STREAM)
    assert result.records
    assert result.interception.take_records() == []
    result.interception.receive_lost_client(1.0)
    assert result.interception.receive_end(1.0) == b""
    assert result.interception.receive_cut("late", 1.0) == b""
    assert result.interception.receive_data(b"late", 1.0) == b"late"
    assert result.interception.take_records() == []
    assert result.outcome == Outcome()


@pytest.mark.parametrize("streaming", [True, False])
def test_all_that_a_usage_tells_is_in_one_record(streaming: bool) -> None:
    told = {
        "input_tokens": 5,
        "output_tokens": 33,
        "cache_read_input_tokens": 700,
        "cache_creation_input_tokens": 80,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 50},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        "output_tokens_details": {"thinking_tokens": 11},
        "service_tier": "priority",
        "speed": "fast",
        "inference_geo": "eu",
    }
    if streaming:
        # Some of it in the start, most of it only in the end.
        start = message_start(input_tokens=5, output_tokens=2, cache_read_input_tokens=None)
        (found,) = stream(start, message_delta(**told), MESSAGE_STOP).tokens
    else:
        (found,) = blocking(usage=told).tokens
    assert (found.input_tokens, found.output_tokens) == (5, 33)
    assert (found.cache_read_input_tokens, found.cache_write_input_tokens) == (700, 80)
    assert found.extra_token_types == {
        "web_search_requests": 2,
        "web_fetch_requests": 1,
        "cache_ephemeral_1h_input": 50,
        "cache_ephemeral_5m_input": 30,
        "output_thinking": 11,
    }
    assert found.metadata == {"service_tier": "priority", "speed": "fast", "inference_geo": "eu"}


@pytest.mark.parametrize(
    ("start", "deltas", "counted"),
    [
        ({"input_tokens": 9, "output_tokens": 4}, [20, 47], (9, 47, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 1}, [15], (9, 15, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 30}, [12], (9, 12, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 30}, [0], (9, 0, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 30}, [], (9, 30, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 3}, [None], (9, 3, 0, 0)),
        (
            {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 700},
            [
                {"output_tokens": 4, "input_tokens": 90},
                {"output_tokens": 9, "input_tokens": 60, "cache_creation_input_tokens": 30},
            ],
            (60, 9, 700, 30),
        ),
        (
            {"input_tokens": 5, "cache_read_input_tokens": 700, "cache_creation_input_tokens": 8},
            [{"output_tokens": 9, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 3}],
            (5, 9, 0, 3),
        ),
        (None, [{"output_tokens": 9, "input_tokens": 12}], (12, 9, 0, 0)),
    ],
)
def test_each_usage_is_a_running_total_and_the_last_one_counts(
    start: Any, deltas: list[Any], counted: tuple[int, ...]
) -> None:
    first = event("message_start", message={"id": "m", **({"usage": start} if start else {})})
    told = [each if isinstance(each, dict) else {"output_tokens": each} for each in deltas]
    events = [event("message_delta", delta={}, usage=each) for each in told]
    (found,) = stream(first, *events, MESSAGE_STOP).tokens
    assert (
        found.input_tokens,
        found.output_tokens,
        found.cache_read_input_tokens,
        found.cache_write_input_tokens,
    ) == counted


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"input_tokens": "7", "output_tokens": None}, (0, 0)),
        ({"input_tokens": -4, "output_tokens": 2.0}, (0, 2)),
        ({"cache_creation": 5, "server_tool_use": [], "service_tier": 3}, (0, 0)),
    ],
)
def test_odd_usage_is_read_as_far_as_it_makes_sense(
    usage: dict[str, Any], counted: tuple[int, int]
) -> None:
    no_usage = event("message_delta", delta={"stop_reason": "end_turn"}, usage=7)
    (found,) = stream(message_start(**usage), no_usage, MESSAGE_STOP).tokens
    assert (found.input_tokens, found.output_tokens) == counted


def test_a_message_without_usage_has_no_start_record() -> None:
    start = event("message_start", message={"id": "m"})
    no_usage = event("message_delta", delta={"stop_reason": "end_turn"})
    assert stream(start, no_usage, MESSAGE_STOP).tokens == []


def test_tools_without_arguments_have_those_of_their_start() -> None:
    given = {"type": "tool_use", "id": "t2", "name": "b", "input": {"x": 1.50}}
    result = stream(
        message_start(),
        tool_block(0, "t1", "a", "", " "),
        block(1, given),
        block(2, {"type": "tool_use", "id": "t3", "name": "c"}),
        message_delta(),
        MESSAGE_STOP,
    )
    assert [(t.tool, t.input) for t in result.tools] == [
        ("a", "{}"),
        ("b", '{"x":1.5}'),
        ("c", "{}"),
    ]


def test_parallel_blocks_are_told_apart_by_their_index() -> None:
    result = stream(
        message_start(),
        tool_block(0, "t1", "a", '{"x":', stop=False),
        tool_block(1, "t2", "b", '{"y":2}', stop=False),
        event("content_block_delta", index=0, delta={"partial_json": "1}"}),
        event("content_block_delta", index=9, delta={"partial_json": "nobody's"}),
        event("content_block_stop", index=1),
        event("content_block_stop", index=0),
        event("content_block_stop", index=0),
        message_delta(),
        MESSAGE_STOP,
    )
    assert [(t.tool, t.input) for t in result.tools] == [("b", '{"y":2}'), ("a", '{"x":1}')]


def test_a_call_cut_short_by_max_tokens_is_recorded_as_text() -> None:
    result = stream(
        message_start(),
        tool_block(0, "t1", "a", '{"path": "/t', stop=False),
        message_delta(reason="max_tokens"),
        MESSAGE_STOP,
    )
    assert [json.loads(t.input) for t in result.tools] == ['{"path": "/t']


def test_a_block_that_begins_anew_ends_the_one_before() -> None:
    result = stream(
        message_start(),
        thinking_block(0, "one", stop=False),
        thinking_block(0, "two"),
        message_delta(),
        MESSAGE_STOP,
    )
    assert [t.content for t in result.thoughts] == ["one", "two"]


def test_of_other_blocks_nothing_is_recorded() -> None:
    result = stream(
        message_start(),
        block(0, {"type": "redacted_thinking", "data": "xx"}),
        block(1, {"type": "web_search_tool_result", "content": []}),
        block(2, {"type": "of_the_future", "id": "f", "name": "unheard_of"}),
        block(3, {"type": "thinking", "thinking": ""}),
        block(4, {"type": "thinking", "thinking": "at once"}),
        block(5, {"type": "tool_use", "id": "", "name": "nameless"}),
        message_delta(),
        MESSAGE_STOP,
    )
    assert [t.content for t in result.thoughts] == ["at once"]
    assert result.tools == []


def test_unknown_events_and_pings_pass() -> None:
    odd = event("content_block_highlight", index=0) + b"event: x\ndata: {broken\n\n" + PING
    result = stream(message_start(), odd, message_delta(), odd, MESSAGE_STOP, odd)
    assert result.client.count(odd) == 3
    assert result.outcome == Outcome()


def test_events_without_a_name_are_known_by_their_type() -> None:
    nameless = b"".join(
        line + b"\n" for line in MESSAGES_STREAM.splitlines() if not line.startswith(b"event:")
    )
    result = stream(nameless)
    assert [t.output_tokens for t in result.tokens] == [40]
    assert len(result.tools) == len(result.thoughts) == 1


@pytest.mark.parametrize("garbage", [b"null", b"[]", b"5", b'"x"', b"{", b'{"index":{}}'])
@pytest.mark.parametrize(
    "name",
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
    ],
)
def test_garbage_in_an_event_disturbs_nothing(name: str, garbage: bytes) -> None:
    odd = f"event: {name}\ndata: ".encode() + garbage + b"\n\n"
    result = stream(MESSAGES_STREAM, odd)
    assert result.client == MESSAGES_STREAM + odd
    assert result.outcome.error_type is None
    before = stream(odd, MESSAGES_STREAM)
    assert [t.tool for t in before.tools] == ["weather"]


def test_a_second_message_in_a_stream_is_a_second_call() -> None:
    other = event("message_start", message={"id": "msg_0", "usage": {"input_tokens": 7}})
    result = stream(other, text_block(0, "x"), MESSAGES_STREAM)
    assert [(t.msg_id, t.input_tokens, t.output_tokens) for t in result.tokens] == [
        ("msg_0", 7, 0),
        ("msg_imag1", 21, 40),
    ]
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}, {}]


def test_a_start_that_comes_twice_counts_once() -> None:
    result = stream(message_start(), message_start(), text_block(0, "x"), MESSAGES_STREAM)
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(21, 40)]


SERVER_TOOLS: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "Ghent"}},
    {"type": "server_tool_use", "id": "srv_2", "name": "web_fetch", "input": {"url": "http://x"}},
    {"type": "server_tool_use", "id": "srv_3", "name": "bash_code_execution", "input": {}},
    {"type": "server_tool_use", "id": "srv_4", "name": "tool_search_tool_regex", "input": {"a": 1}},
    {
        "type": "mcp_tool_use",
        "id": "mcp_1",
        "name": "issue",
        "server_name": "tracker",
        "input": {"n": 4},
    },
]


@pytest.mark.parametrize("streaming", [True, False])
def test_tools_that_the_provider_calls_are_recorded(streaming: bool) -> None:
    if streaming:
        blocks = [
            block(
                number,
                {**each, "input": {}},
                {"type": "input_json_delta", "partial_json": json.dumps(each["input"])[:5]},
                {"type": "input_json_delta", "partial_json": json.dumps(each["input"])[5:]},
            )
            for number, each in enumerate(SERVER_TOOLS)
        ]
        result = stream(message_start(), *blocks, message_delta(), MESSAGE_STOP)
    else:
        result = blocking(content=SERVER_TOOLS)
    assert [(t.tool, t.tool_call_id, json.loads(t.input)) for t in result.tools] == [
        (each["name"], each["id"], each["input"]) for each in SERVER_TOOLS
    ]
    assert [t.metadata for t in result.tools] == [
        *[{"type": "server_tool_use"}] * 4,
        {"type": "mcp_tool_use", "server_name": "tracker"},
    ]
    assert not any(t.injected for t in result.tools)


# -- several billed calls in one answer


def counts(tokens: Any) -> list[tuple[Any, ...]]:
    return [
        (t.metadata.get("iteration"), t.input_tokens, t.output_tokens, t.cache_read_input_tokens)
        for t in tokens
    ]


def answered(streaming: bool, usage: Any, reason: str = "end_turn", **answer: Any) -> Exchange:
    if not streaming:
        return blocking(usage=usage, stop_reason=reason, **answer)
    start = event("message_start", message={"id": "m", "model": "claude-imaginary-1", "usage": {}})
    content = [block(number, each) for number, each in enumerate(answer.pop("content", []))]
    end = event("message_delta", delta={"stop_reason": reason, **answer}, usage=usage)
    return stream(start, *content, end, MESSAGE_STOP)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_compaction_is_a_call_of_its_own(streaming: bool) -> None:
    usage = {
        "input_tokens": 23000,
        "output_tokens": 1000,
        "service_tier": "standard",
        "iterations": [
            {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500},
            {"type": "message", "input_tokens": 23000, "output_tokens": 1000},
        ],
    }
    found = answered(streaming, usage).tokens
    assert counts(found) == [("compaction", 180000, 3500, 0), ("message", 23000, 1000, 0)]
    assert [t.metadata["service_tier"] for t in found] == ["standard", "standard"]


@pytest.mark.parametrize("streaming", [True, False])
def test_an_advisor_is_recorded_with_its_model(streaming: bool) -> None:
    # The counts at the top know the input of the first sampling only.
    usage = {
        "input_tokens": 410,
        "output_tokens": 530,
        "iterations": [
            {"type": "message", "input_tokens": 410, "output_tokens": 90},
            {
                "type": "advisor_message",
                "model": "claude-wise-1",
                "input_tokens": 820,
                "output_tokens": 1600,
            },
            {
                "type": "message",
                "input_tokens": 1350,
                "output_tokens": 440,
                "cache_read_input_tokens": 410,
            },
        ],
    }
    found = answered(streaming, usage).tokens
    assert counts(found) == [
        ("message", 410, 90, 0),
        ("advisor_message", 820, 1600, 0),
        ("message", 1350, 440, 410),
    ]
    assert [t.metadata.get("provider_model") for t in found] == [None, "claude-wise-1", None]


def test_a_list_without_what_was_sampled_goes_beside_the_counts() -> None:
    advisor = {"type": "advisor_message", "input_tokens": 820, "output_tokens": 16}
    usage = {"input_tokens": 410, "output_tokens": 530, "iterations": [advisor]}
    assert counts(answered(True, usage).tokens) == [
        ("advisor_message", 820, 16, 0),
        (None, 410, 530, 0),
    ]


def test_the_last_total_counts_where_the_list_is_older() -> None:
    listed = [
        {"type": "message", "input_tokens": 5, "output_tokens": 7},
        {"type": "message", "input_tokens": 6, "output_tokens": 1},
    ]
    start = message_start(input_tokens=5, output_tokens=7, iterations=listed)
    found = stream(start, message_delta(20), MESSAGE_STOP).tokens
    assert counts(found) == [("message", 5, 7, 0), ("message", 6, 13, 0)]


def test_the_last_total_of_an_only_call_counts_downwards_too() -> None:
    listed = [{"type": "message", "input_tokens": 5, "output_tokens": 20}]
    start = message_start(input_tokens=5, output_tokens=20, iterations=listed)
    found = stream(start, message_delta(12), MESSAGE_STOP).tokens
    assert counts(found) == [("message", 5, 12, 0)]


@pytest.mark.parametrize("odd", [7, "x", None, [], [7, None, {}], [{"input_tokens": 3}]])
def test_odd_iterations_leave_the_counts(odd: Any) -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "iterations": odd}
    assert counts(answered(False, usage).tokens) == [(None, 5, 7, 0)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("category", "billed"), [("cyber", False), (None, False), ("bio", True)])
def test_who_declines_before_writing_is_billed_for_some_categories_only(
    streaming: bool, category: str | None, billed: bool
) -> None:
    handed_over = {
        "type": "fallback",
        "from": {"model": "claude-imaginary-1"},
        "to": {"model": "claude-stand-in-1"},
        "trigger": {"type": "refusal", "category": category},
    }
    usage = {
        "input_tokens": 412,
        "output_tokens": 264,
        "iterations": [
            {
                "type": "message",
                "model": "claude-imaginary-1",
                "input_tokens": 535,
                "output_tokens": 0,
            },
            {
                "type": "fallback_message",
                "model": "claude-stand-in-1",
                "input_tokens": 412,
                "output_tokens": 264,
            },
        ],
    }
    result = answered(streaming, usage, content=[handed_over], model="claude-stand-in-1")
    first, second = result.tokens
    assert counts([second]) == [("fallback_message", 412, 264, 0)]
    assert second.metadata["provider_model"] == "claude-stand-in-1"
    assert counts([first]) == [("message", 535 if billed else 0, 0, 0)]
    assert first.metadata.get("not_billed") == (None if billed else {"input_tokens": 535})
    assert result.outcome.metadata["provider_model"] == "claude-stand-in-1"


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("written", [0, 5])
def test_a_refusal_is_told_and_billed_if_something_was_written(
    streaming: bool, written: int
) -> None:
    details = {"type": "refusal", "category": "cyber"}
    usage = {"input_tokens": 412, "output_tokens": written}
    result = answered(streaming, usage, "refusal", stop_details=details, content=[])
    (found,) = result.tokens
    assert (found.input_tokens, found.output_tokens) == ((412, 5) if written else (0, 0))
    assert ("not_billed" in found.metadata) is not bool(written)
    assert found.metadata["stop_reason"] == "refusal"
    assert result.outcome == Outcome(
        metadata={"stop_reason": "refusal", "refusal_category": "cyber"}
    )


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("reason", "told"),
    [
        *[(each, each) for each in ("max_tokens", "pause_turn", "model_context_window_exceeded")],
        *[(each, None) for each in ("end_turn", "tool_use", "stop_sequence")],
    ],
)
def test_why_an_answer_stopped_is_told_unless_the_model_was_done(
    streaming: bool, reason: str, told: str | None
) -> None:
    result = answered(streaming, {"output_tokens": 1}, reason)
    assert result.outcome == Outcome(metadata={"stop_reason": told} if told else {})
    assert result.tokens[0].metadata.get("stop_reason") == told


@pytest.mark.parametrize("streaming", [True, False])
def test_who_answered_is_recorded_if_it_is_another_model_than_asked(streaming: bool) -> None:
    for model, told in (("claude-imaginary-1", None), ("claude-imaginary-2", "claude-imaginary-2")):
        if streaming:
            usage = {"output_tokens": 1}
            start = event("message_start", message={"id": "m", "model": model, "usage": usage})
            result = stream(start, message_delta(), MESSAGE_STOP)
        else:
            body = json.dumps({**MESSAGES_BODY, "model": model}).encode()
            result = exchange("messages", MESSAGES_REQUEST, body, content_type=JSON)
        assert result.outcome.metadata.get("provider_model") == told
        assert result.tokens[0].metadata.get("provider_model") == told


# -- ends


def test_a_reason_to_stop_and_a_framed_end_make_a_whole_answer() -> None:
    events = (
        message_start(),
        tool_block(0, "t1", "a", '{"x":1}', stop=False),
        message_delta(9, "max_tokens"),
    )
    result = stream(*events)
    assert result.client == b"".join(events)
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome.error_type is None
    assert [t.tool for t in result.tools] == ["a"]
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [
        (9, {"stop_reason": "max_tokens"})
    ]


@pytest.mark.parametrize(
    ("last", "end"),
    [(message_delta(9), "unframed"), (message_delta(9), "cut"), (message_delta(9, None), "framed")],
)
def test_without_both_it_is_a_cut(last: bytes, end: str) -> None:
    result = exchange("messages", MESSAGES_REQUEST, message_start() + last, end=end)
    assert result.client.startswith(message_start() + last + b"event: error\n")
    assert result.interception.cut
    assert result.outcome.error_type == "server_error"


def test_an_error_behind_half_an_answer_leaves_what_was_known() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    result = stream(message_start(), text_block(0, "x"), message_delta(7, None), error)
    assert [(t.input_tokens, t.output_tokens, t.metadata) for t in result.tokens] == [
        (21, 7, {"usage_complete": False})
    ]
    assert result.outcome.error_type == "overloaded"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            {"type": "overloaded_error", "message": "Overloaded"},
            Outcome("overloaded", "Overloaded"),
        ),
        ({"type": "api_error", "message": "Broken"}, Outcome("server_error", "Broken")),
        ("odd", Outcome("unknown", "odd")),
        (None, Outcome("unknown", "The AI provider reported an error")),
    ],
)
def test_an_error_event_ends_the_stream_as_the_upstream_did(error: Any, outcome: Outcome) -> None:
    events = message_start() + thinking_block(0, "hm") + text_block(1, "x")
    result = stream(events, event("error", error=error))
    assert result.client == events + event("error", error=error)
    assert result.outcome == outcome
    assert not result.interception.cut
    assert not result.interception.complete
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [
        (3, {"usage_complete": False})
    ]
    assert len(result.thoughts) == len(result.prompts) == 1


def test_an_error_in_the_shape_of_openais_apis_is_recorded() -> None:
    events = message_start() + text_block(0, "x")
    error = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    result = stream(events, error)
    assert result.client == events + error
    assert result.outcome == Outcome("server_error", "out of memory")


# -- streams that end too early


@pytest.mark.parametrize("end", ["framed", "unframed", "cut", "left"])
def test_what_was_finished_before_a_cut_is_recorded(end: str) -> None:
    events = (
        message_start()
        + thinking_block(0, "first thought")
        + tool_block(1, "t1", "a", "{}")
        + tool_block(2, "t2", "b", '{"half":', stop=False)
    )
    result = stream(events, end=end)
    assert [t.content for t in result.thoughts] == ["first thought"]
    assert [t.tool for t in result.tools] == ["a"]
    assert [(t.input_tokens, t.output_tokens, t.metadata) for t in result.tokens] == [
        (21, 3, {"usage_complete": False})
    ]
    assert result.interception.cut
    assert not result.interception.complete
    assert result.outcome.error_type == ("unknown" if end == "left" else "server_error")


@pytest.mark.parametrize("end", ["framed", "unframed", "cut", "left"])
def test_a_thought_in_whose_middle_the_answer_broke_off_is_recorded_as_cut_short(end: str) -> None:
    result = stream(message_start(), thinking_block(0, "half a tho", stop=False), end=end)
    assert [(t.content, t.metadata) for t in result.thoughts] == [
        ("half a tho", {"source": "thinking", "truncated": True})
    ]
    assert result.interception.cut


def test_usage_is_complete_once_the_message_has_a_stop_reason() -> None:
    result = stream(message_start(), message_delta(12), end="cut")
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [(12, {})]
    result = stream(message_start(), message_delta(12, None), end="cut")
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}]


def test_a_cut_before_any_usage_says_that_usage_is_missing() -> None:
    result = stream(PING, end="cut")
    assert [(t.input_tokens, t.output_tokens, t.metadata) for t in result.tokens] == [
        (0, 0, {"usage_complete": False})
    ]
    assert [p.msg_id for p in result.prompts] == [""]


@pytest.mark.parametrize(
    ("error_type", "name"),
    [
        ("server_error", "api_error"),
        ("timeout", "timeout_error"),
        ("overloaded", "overloaded_error"),
        ("rate_limited", "rate_limit_error"),
        ("unknown", "api_error"),
    ],
)
def test_a_cut_is_told_in_an_error_event(error_type: str, name: str) -> None:
    interception = begin(open_one("messages", MESSAGES_REQUEST))
    interception.receive_data(message_start(), 1.0)
    told = interception.receive_cut('the "line" broke', 2.0, error_type=error_type)
    error = {"type": name, "message": 'the "line" broke'}
    assert told == event("error", error=error)
    assert interception.outcome() == Outcome(error_type, 'the "line" broke')


# -- blocking answers


def test_a_whole_answer_is_recorded() -> None:
    request = {**MESSAGES_REQUEST, "stream": False}
    body = json.dumps(MESSAGES_BODY, indent=2).encode()
    result = exchange("messages", request, body, content_type=JSON)
    assert result.client == body
    assert result.interception.complete
    assert result.outcome == Outcome()
    assert [(p.msg_id, p.prompt) for p in result.prompts] == [
        ("msg_imag1", "What is the weather in Ghent?")
    ]
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(21, 43)]
    assert set(result.tokens[0].extra_token_types) == {
        "web_search_requests",
        "cache_ephemeral_1h_input",
        "cache_ephemeral_5m_input",
    }
    assert [t.content for t in result.thoughts] == ["They ask about Ghent."]
    assert [(t.tool, t.tool_call_id, json.loads(t.input)) for t in result.tools] == [
        ("weather", "toolu_1", {"city": "Ghent"})
    ]
    # The input is the very text of the answer.
    assert result.tools[0].input.encode() in body


@pytest.mark.parametrize(
    "answer",
    [
        {"id": 5, "content": None, "usage": None},
        {"content": {}, "usage": []},
        {"content": [None, 5, "x", {}, {"type": 5}, {"type": "tool_use"}, {"type": "thinking"}]},
    ],
)
def test_odd_answers_are_read_as_far_as_they_make_sense(answer: dict[str, Any]) -> None:
    result = blocking(**answer)
    assert len(result.tokens) == 1
    assert result.tools == result.thoughts == []
    assert result.outcome == Outcome()


def test_a_call_without_arguments_has_empty_ones() -> None:
    result = blocking(content=[{"type": "tool_use", "id": "t"}])
    assert [(t.tool, t.input) for t in result.tools] == [("", "{}")]


def test_an_error_with_status_200_is_an_error() -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    body = json.dumps({"type": "error", "error": error}).encode()
    result = exchange("messages", {"messages": []}, body, content_type=JSON)
    assert result.client == body
    assert result.outcome == Outcome("rate_limited", "slow down")
    assert result.records == []


def test_a_failed_blocking_request_records_no_prompt_but_a_failed_stream_does() -> None:
    for streaming, prompts in ((False, 0), (True, 1)):
        request = {**MESSAGES_REQUEST, "stream": streaming}
        result = exchange("messages", request, b"{}", content_type=JSON, status=429)
        assert len(result.prompts) == prompts
        assert result.outcome.error_type == "rate_limited"
        lost = finish(open_one("messages", request), end="cut")
        assert len(lost.prompts) == prompts
        assert lost.tokens == []
