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

from aigateway.actors.providers.interception import Outcome


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
        ("", ""),
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
        (21, 3, "msg_imag1"),
        (0, 40, "msg_imag1"),
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


def test_the_start_of_a_message_counts_everything_and_its_deltas_only_output() -> None:
    start = message_start(
        input_tokens=5,
        output_tokens=2,
        cache_read_input_tokens=700,
        cache_creation_input_tokens=80,
        cache_creation={"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 50},
        server_tool_use={"web_search_requests": 0},
        service_tier="priority",
    )
    delta = message_delta(33, input_tokens=5, cache_read_input_tokens=700)
    first, second = stream(start, text_block(0, "x"), delta, MESSAGE_STOP).tokens
    assert first.input_tokens == 5
    assert first.output_tokens == 2
    assert first.cache_read_input_tokens == 700
    assert first.cache_write_input_tokens == 80
    assert first.extra_token_types == {
        "web_search_requests": 0,
        "cache_ephemeral_1h_input": 50,
        "cache_ephemeral_5m_input": 30,
    }
    assert first.metadata == {"service_tier": "priority"}
    assert (second.input_tokens, second.output_tokens) == (0, 33)
    assert (second.cache_read_input_tokens, second.cache_write_input_tokens) == (0, 0)
    assert second.extra_token_types == {}
    assert second.metadata == {}


def test_searches_of_the_provider_are_counted_when_they_are_told() -> None:
    delta = message_delta(9, server_tool_use={"web_search_requests": 2})
    _first, second = stream(message_start(), delta, MESSAGE_STOP).tokens
    assert second.extra_token_types == {"web_search_requests": 2}


def test_input_that_came_after_the_start_is_counted_once() -> None:
    # As after a search of the web: each delta tells the total so far.
    tokens = stream(
        message_start(input_tokens=5, cache_read_input_tokens=700),
        message_delta(4, None, input_tokens=90, cache_read_input_tokens=700),
        message_delta(9, input_tokens=2000, cache_creation_input_tokens=30),
        MESSAGE_STOP,
    ).tokens
    assert [each.input_tokens for each in tokens] == [5, 85, 1910]
    assert [each.cache_read_input_tokens for each in tokens] == [700, 0, 0]
    assert [each.cache_write_input_tokens for each in tokens] == [0, 0, 30]


def test_input_that_only_the_end_tells_is_counted() -> None:
    start = event("message_start", message={"id": "m"})
    (end,) = stream(start, message_delta(9, input_tokens=12), MESSAGE_STOP).tokens
    assert (end.input_tokens, end.output_tokens) == (12, 9)


def test_each_message_delta_is_a_record() -> None:
    tokens = stream(message_start(), message_delta(4, None), message_delta(9), MESSAGE_STOP).tokens
    assert [each.output_tokens for each in tokens] == [3, 4, 9]


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
    first, _second = stream(message_start(**usage), message_delta(), MESSAGE_STOP).tokens
    assert (first.input_tokens, first.output_tokens) == counted


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


def test_only_thinking_and_client_tools_are_recorded() -> None:
    result = stream(
        message_start(),
        block(0, {"type": "redacted_thinking", "data": "xx"}),
        block(1, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
        block(2, {"type": "web_search_tool_result", "content": []}),
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
    assert [t.output_tokens for t in result.tokens] == [3, 40]
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


def test_a_second_message_in_a_stream_counts_too() -> None:
    result = stream(message_start(), text_block(0, "x"), MESSAGES_STREAM)
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(21, 3), (21, 3), (0, 40)]
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}, {}, {}]


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


def test_usage_is_complete_once_the_message_has_a_stop_reason() -> None:
    result = stream(message_start(), message_delta(12), end="cut")
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [(3, {}), (12, {})]
    result = stream(message_start(), message_delta(12, None), end="cut")
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}] * 2


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
