from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from interception_answers import (
    CHAT_BODY,
    CHAT_REQUEST,
    CHAT_STREAM,
    CHAT_TEXT,
    CHAT_USAGE,
    DONE,
    USAGE_CHUNK,
    call_delta,
    chat_chunk,
)
from interception_driver import JSON, NOW, Exchange, begin, chunk, exchange, finish, open_one

from aigateway.actors.interception import Outcome

ASKED = {"stream_options": {"include_usage": True}}


def stream(*events: bytes, end: str = "framed", **request: Any) -> Exchange:
    return exchange("chat-completions", {**CHAT_REQUEST, **request}, b"".join(events), end=end)


def blocking(answer: dict[str, Any]) -> Exchange:
    body = json.dumps(answer).encode()
    request = {**CHAT_REQUEST, "stream": False}
    result = exchange("chat-completions", request, body, content_type=JSON)
    assert result.client == body
    return result


# -- requests


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (
            b'{ "stream" : true, "n":1e0 }',
            b'{"stream_options":{"include_usage":true}, "stream" : true, "n":1e0 }',
        ),
        (
            b'{"stream":"T","stream_options":null}',
            b'{"stream":"T","stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":1,"stream_options":{}}',
            b'{"stream":1,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage": false , "x":1.0}}',
            b'{"stream":true,"stream_options":{"include_usage": true , "x":1.0}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":null}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":true},"stream_options":{"x":1}}',
            b'{"stream":true,"stream_options":{"include_usage":true},'
            b'"stream_options":{"include_usage":true,"x":1}}',
        ),
    ],
)
def test_usage_is_asked_for_where_the_client_did_not(body: bytes, sent: bytes) -> None:
    interception = open_one("chat-completions", body)
    assert interception.streaming
    assert interception.upstream_body() == sent


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":"yes"}}',
        b'{"stream":true,"stream_options":7}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":false}',
        b'{"stream":"yes"}',
        b"{}",
        b" [1e400]",
        b"true",
    ],
)
def test_other_requests_leave_as_they_came(body: bytes) -> None:
    assert open_one("chat-completions", body).upstream_body() == body


def test_an_encoded_request_is_edited_and_encoded_again() -> None:
    body = gzip.compress(b'{"model":"m","stream":true}')
    interception = open_one("chat-completions", body, content_encoding="gzip")
    assert interception.model == "m"
    assert gzip.decompress(interception.upstream_body()) == (
        b'{"stream_options":{"include_usage":true},"model":"m","stream":true}'
    )


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("hello", "hello"),
        ("", None),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, "x"], "a"),
        # A blank text is none.
        ([{"type": "text", "text": ""}], None),
        (" \n", None),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": ""}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": " \n"}], "a"),
        ([{"type": "text", "text": 5}], None),
        ([], None),
        (None, None),
    ],
)
def test_the_prompt_is_the_last_text_of_the_last_user_message(
    content: Any, prompt: str | None
) -> None:
    result = stream(CHAT_STREAM, messages=[{"role": "user", "content": content}])
    assert [p.prompt for p in result.prompts] == ([] if prompt is None else [prompt])


@pytest.mark.parametrize("messages", [None, [], [{"role": "tool", "content": "x"}], 5, ["x"]])
def test_without_a_last_word_of_the_user_there_is_no_prompt(messages: Any) -> None:
    assert stream(CHAT_STREAM, messages=messages).prompts == []


@pytest.mark.parametrize(
    ("last", "call"),
    [
        ({"role": "tool", "tool_call_id": "call_7"}, "call_7"),
        ({"role": "tool"}, ""),
        ({"role": "tool", "tool_call_id": 7}, ""),
        ({"role": "user", "tool_call_id": "call_7"}, None),
    ],
)
def test_the_correlating_call_is_the_last_one_answered(last: Any, call: str | None) -> None:
    interception = open_one("chat-completions", {"messages": [{"role": "tool"}, last]})
    assert interception.correlating_tool_call_id == call


# -- streams


def test_a_whole_stream_is_recorded() -> None:
    result = stream(CHAT_STREAM, **ASKED)
    assert result.client == CHAT_STREAM
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome()
    assert [(p.msg_id, p.prompt) for p in result.prompts] == [
        ("chatcmpl-imag1", "What is the weather in Ghent?")
    ]
    assert [(t.msg_id, t.tool, t.tool_call_id, t.input) for t in result.tools] == [
        ("chatcmpl-imag1", "weather", "call_1", '{"city":"Ghent"}')
    ]
    (tokens,) = result.tokens
    assert (tokens.input_tokens, tokens.output_tokens) == (20, 12)
    assert (tokens.cache_read_input_tokens, tokens.cache_write_input_tokens) == (10, 0)
    assert tokens.extra_token_types == {
        "prompt_audio": 1,
        "completion_reasoning": 2,
        "completion_audio": 3,
        "completion_accepted_prediction": 4,
        "completion_rejected_prediction": 5,
    }
    assert tokens.metadata == {}
    assert result.thoughts == []


@pytest.mark.parametrize("step", [1, 3, 64, 100_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_usage_chunk_is_kept_from_a_client_that_did_not_ask(step: int, end: str) -> None:
    sent = (CHAT_TEXT + b": note\n" + USAGE_CHUNK + DONE).replace(b"\n", end.encode())
    reads = [sent[at : at + step] for at in range(0, len(sent), step)]
    result = exchange("chat-completions", CHAT_REQUEST, reads)
    assert result.client == (CHAT_TEXT + b": note\n" + DONE).replace(b"\n", end.encode())
    assert [t.output_tokens for t in result.tokens] == [12]


def test_the_rest_of_a_read_with_the_usage_chunk_passes() -> None:
    interception = begin(open_one("chat-completions", CHAT_REQUEST))
    passed = interception.receive_data(CHAT_TEXT[:-5], NOW)
    passed += interception.receive_data(CHAT_TEXT[-5:] + USAGE_CHUNK + b"data: [DO", NOW)
    assert passed == CHAT_TEXT
    assert interception.receive_data(b"NE]\n\n", NOW) == DONE


def test_usage_with_a_choice_is_the_clients() -> None:
    last = chat_chunk({"content": "."}, "stop", usage=CHAT_USAGE)
    result = stream(CHAT_TEXT, last, DONE)
    assert result.client == CHAT_TEXT + last + DONE
    assert [t.output_tokens for t in result.tokens] == [12]


def test_an_empty_chunk_without_usage_is_the_clients() -> None:
    filtered = chunk(id="", choices=[], prompt_filter_results=[], usage=None)
    result = stream(filtered, CHAT_STREAM)
    assert result.client == filtered + CHAT_TEXT + DONE
    assert [p.msg_id for p in result.prompts] == ["chatcmpl-imag1"]


def test_a_usage_chunk_too_long_to_hold_is_not_kept_from_the_client() -> None:
    long = chunk(id="x", choices=[], usage=CHAT_USAGE, padding="x" * 70_000)
    for reads in ([long], [long[:69_000], long[69_000:]]):
        result = exchange("chat-completions", CHAT_REQUEST, [CHAT_TEXT, *reads, DONE])
        assert result.client == CHAT_TEXT + long + DONE
        assert [t.output_tokens for t in result.tokens] == [12]


def test_a_usage_chunk_behind_a_long_event_is_kept_from_the_client() -> None:
    long = chat_chunk({"content": "x" * 100_000})
    sent = long + USAGE_CHUNK + DONE
    reads = [sent[at : at + 16_384] for at in range(0, len(sent), 16_384)]
    result = exchange("chat-completions", CHAT_REQUEST, [CHAT_TEXT, *reads])
    assert result.client == CHAT_TEXT + long + DONE


def test_a_usage_chunk_that_no_blank_line_ends_is_kept_from_the_client() -> None:
    result = stream(CHAT_TEXT, USAGE_CHUNK.rstrip(b"\n"))
    assert result.client == CHAT_TEXT
    assert [t.output_tokens for t in result.tokens] == [12]
    assert result.interception.complete


def test_of_running_totals_the_last_counts() -> None:
    result = stream(
        chat_chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": 1}),
        chat_chunk({"content": "b"}, usage={"prompt_tokens": 5, "completion_tokens": 2}),
        chat_chunk(finish="stop"),
        DONE,
    )
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(5, 2)]


def test_usage_of_nothing_is_no_record() -> None:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0}
    result = stream(chat_chunk({"content": "a"}, "stop", usage=nothing), DONE)
    assert result.tokens == []
    assert stream(CHAT_TEXT, DONE).tokens == []


def test_more_cached_than_given_is_no_negative_input() -> None:
    odd = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
    (tokens,) = stream(chat_chunk(finish="stop", usage=odd), DONE).tokens
    assert (tokens.input_tokens, tokens.cache_read_input_tokens) == (0, 5)


def test_every_call_of_every_choice_is_recorded() -> None:
    result = stream(
        chat_chunk(call_delta(0, "a", "first", '{"x":')),
        chat_chunk(call_delta(0, "d", "other", ""), index=1),
        chat_chunk(call_delta(0, None, None, "1}")),
        chat_chunk(call_delta(3, "b", "second", "")),
        chat_chunk(call_delta(3, None, None, "{}")),
        chat_chunk(call_delta(4, "c", "third", "{}")),
        chat_chunk(finish="tool_calls", index=1),
        chat_chunk(finish="tool_calls"),
        DONE,
        n=2,
    )
    assert [(t.tool_call_id, t.tool, t.input) for t in result.tools] == [
        ("d", "other", "null"),
        ("a", "first", '{"x":1}'),
        ("b", "second", "{}"),
        ("c", "third", "{}"),
    ]


def test_two_calls_in_one_chunk_are_both_recorded() -> None:
    both = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": " [1] "}},
    ]
    result = stream(chat_chunk({"tool_calls": both}), DONE)
    assert [(t.tool_call_id, t.input) for t in result.tools] == [("a", "{}"), ("b", "[1]")]


def test_custom_tools_and_old_functions_are_calls_too() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    more = {"index": 0, "custom": {"input": " -l"}}
    old = {"name": "old", "arguments": '{"x":'}
    result = stream(
        chat_chunk({"tool_calls": [first]}),
        chat_chunk({"tool_calls": [more]}),
        chat_chunk(finish="tool_calls"),
        chat_chunk({"function_call": old}, index=1),
        chat_chunk({"function_call": {"arguments": "1}"}}, index=1),
        chat_chunk(finish="function_call", index=1),
        DONE,
        n=2,
    )
    assert [(t.tool_call_id, t.tool, t.input) for t in result.tools] == [
        ("a", "run", '"ls -l"'),
        ("", "old", '{"x":1}'),
    ]


def test_arguments_that_are_no_json_are_kept_beside_the_record() -> None:
    result = stream(
        chat_chunk(call_delta(0, "a", "f", '{"x": ')), chat_chunk(finish="length"), DONE
    )
    assert [(t.input, t.metadata) for t in result.tools] == [
        ("null", {"invalid_arguments": '{"x":'})
    ]


@pytest.mark.parametrize(
    "odd",
    [
        b"data: {broken\n\n",
        b"data: 5\n\n",
        b"event: x\n\n",
        b": OPENROUTER PROCESSING\n\n",
        b'data: {"choices":[5,{"index":"x","delta":7}]}\n\n',
        b'data: {"id":7,"choices":{},"usage":"much"}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[7,{"function":7,"custom":7}]}}]}\n\n',
    ],
)
def test_garbage_disturbs_nothing(odd: bytes) -> None:
    result = stream(odd, CHAT_STREAM, odd)
    assert result.client == odd + CHAT_TEXT + DONE + odd
    assert result.outcome.error_type is None
    assert [t.output_tokens for t in result.tokens] == [12]


def test_blanks_in_chunks_change_nothing() -> None:
    spaced = CHAT_STREAM.replace(b'":', b'": ').replace(b',"', b', "')
    assert [t.input for t in stream(spaced).tools] == ['{"city": "Ghent"}']
    assert [t.output_tokens for t in stream(spaced).tokens] == [12]


def test_words_of_the_protocol_in_the_text_are_only_text() -> None:
    said = '"usage":{} "tool_calls" "finish_reason":"stop" "error" data: [DONE]'
    events = [chat_chunk({"content": "a"}), chat_chunk({"content": said})]
    result = stream(*events, chat_chunk({"content": "usage"}), end="cut")
    assert result.interception.cut
    assert result.tools == []
    assert result.outcome.error_message == "connection reset by peer"


def test_without_an_id_all_is_read_anyway() -> None:
    nameless = CHAT_STREAM.replace(b'"chatcmpl-imag1"', b"null")
    result = stream(nameless)
    assert [p.msg_id for p in result.prompts] == [""]
    assert [t.output_tokens for t in result.tokens] == [12]
    assert len(result.tools) == 1


# -- how streams end


def test_a_framed_end_after_all_finish_reasons_is_a_good_one() -> None:
    result = stream(CHAT_TEXT)
    assert result.client == CHAT_TEXT
    assert result.interception.complete
    assert result.outcome == Outcome()


@pytest.mark.parametrize("end", ["unframed", "cut"])
def test_finish_reasons_alone_do_not_make_a_broken_end_good(end: str) -> None:
    result = stream(CHAT_TEXT, end=end)
    assert result.interception.cut
    assert b'{"error":{' in result.client
    assert b"[DONE]" not in result.client
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}]


@pytest.mark.parametrize("end", ["cut", "left"])
def test_usage_is_complete_once_its_own_chunk_has_come(end: str) -> None:
    running = chat_chunk({"content": "a"}, usage=CHAT_USAGE)
    for usage, metadata in ((USAGE_CHUNK, {}), (running, {"usage_complete": False})):
        result = stream(CHAT_TEXT, usage, end=end)
        assert [(t.output_tokens, t.metadata) for t in result.tokens] == [(12, metadata)]


def test_one_unfinished_choice_of_two_is_a_cut() -> None:
    result = stream(
        chat_chunk({"content": "a"}),
        chat_chunk({"content": "b"}, index=1),
        chat_chunk(finish="stop"),
        n=2,
    )
    assert result.interception.cut


def test_a_done_marker_without_a_blank_line_is_enough() -> None:
    result = stream(CHAT_TEXT, b"data: [DONE]", end="unframed")
    assert result.interception.complete
    assert not result.interception.cut
    assert result.client == CHAT_TEXT + b"data: [DONE]"


@pytest.mark.parametrize("end", ["cut", "left", "unframed"])
def test_calls_that_had_ended_before_a_cut_are_recorded(end: str) -> None:
    custom = {"index": 2, "id": "c", "type": "custom", "custom": {"name": "third", "input": "x"}}
    result = stream(
        chat_chunk(call_delta(0, "a", "first", "{}")),
        chat_chunk(call_delta(1, "b", "second", "{")),
        chat_chunk({"tool_calls": [custom]}),
        chat_chunk(call_delta(3, "d", "fourth", "{}")),
        end=end,
    )
    assert [t.tool for t in result.tools] == ["first", "third"]


def test_calls_may_arrive_in_turns() -> None:
    result = stream(
        chat_chunk(call_delta(0, "a", "first", '{"x":')),
        chat_chunk(call_delta(1, "b", "second", '{"y":')),
        chat_chunk(call_delta(0, None, None, "1}")),
        chat_chunk(call_delta(1, None, None, "2}")),
        chat_chunk(finish="tool_calls"),
        DONE,
    )
    assert [(t.tool, t.input) for t in result.tools] == [
        ("first", '{"x":1}'),
        ("second", '{"y":2}'),
    ]


def test_calls_with_the_same_number_are_told_apart_by_id_and_name() -> None:
    result = stream(
        chat_chunk(call_delta(0, "a", "first", "{}")),
        chat_chunk(call_delta(0, "b", "second", '{"x":')),
        chat_chunk(call_delta(0, "c", None, "1")),
        chat_chunk(call_delta(0, "b", "second", "}")),
        chat_chunk(finish="tool_calls"),
        DONE,
    )
    assert [(t.tool_call_id, t.tool, t.input) for t in result.tools] == [
        ("a", "first", "{}"),
        ("b", "second", '{"x":1}'),
    ]


def test_a_call_without_a_finish_reason_ends_with_the_stream() -> None:
    result = stream(chat_chunk(call_delta(0, "a", "first", "{}")), DONE)
    assert [t.tool for t in result.tools] == ["first"]


@pytest.mark.parametrize(
    ("error_type", "kind", "code"),
    [
        ("server_error", "server_error", None),
        ("timeout", "server_error", "timeout"),
        ("overloaded", "server_error", "service_unavailable"),
        ("rate_limited", "rate_limit_error", "rate_limit_exceeded"),
    ],
)
def test_a_cut_is_told_in_an_error_event(error_type: str, kind: str, code: str | None) -> None:
    interception = begin(open_one("chat-completions", CHAT_REQUEST))
    interception.receive_data(chat_chunk({"content": "a"}) + b"data: {half", 1.0)
    told = interception.receive_cut("gone", 2.0, error_type=error_type)
    error = {"message": "gone", "type": kind, "param": None, "code": code}
    assert told == chunk(error=error)


@pytest.mark.parametrize("tail", [b"", DONE])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"message": "Sorry", "type": "server_error"}, Outcome("server_error", "Sorry")),
        ({"message": "Slow", "code": 429}, Outcome("rate_limited", "Slow")),
        ("plain", Outcome("unknown", "plain")),
    ],
)
def test_an_error_event_ends_the_stream_as_the_upstream_did(
    error: Any, outcome: Outcome, tail: bytes
) -> None:
    events = chat_chunk({"content": "a"}) + chunk(error=error) + tail
    result = stream(events)
    assert result.client == events
    assert result.outcome == outcome
    assert not result.interception.cut
    assert len(result.prompts) == 1
    assert result.tokens == []


# -- blocking answers


def test_a_whole_answer_is_recorded() -> None:
    result = blocking(CHAT_BODY)
    assert result.interception.complete
    assert [(p.msg_id, p.prompt) for p in result.prompts] == [
        ("chatcmpl-imag1", "What is the weather in Ghent?")
    ]
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(20, 12)]
    assert [(t.tool, t.tool_call_id, t.input) for t in result.tools] == [
        ("weather", "call_1", '{"city":"Ghent"}')
    ]


def test_all_choices_of_an_answer_are_read() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": ""}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}},
    ]
    choices = [
        {"message": {"tool_calls": calls}},
        {"message": {"function_call": {"name": "h", "arguments": "{}"}}},
        {"message": {"content": "text"}},
        {"message": None},
        7,
    ]
    result = blocking({"choices": choices})
    assert [(t.tool, t.input) for t in result.tools] == [("f", "null"), ("g", '"x"'), ("h", "{}")]
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(0, 0)]


def test_an_error_with_status_200_is_an_error() -> None:
    result = blocking({"error": {"message": "broken", "code": 502}})
    assert result.outcome == Outcome("server_error", "broken")
    assert result.records == []


def test_a_null_error_beside_choices_is_none() -> None:
    assert blocking({**CHAT_BODY, "error": None}).outcome == Outcome()
    assert blocking({**CHAT_BODY, "error": "warning"}).outcome == Outcome()


def test_a_failed_blocking_request_records_no_prompt_but_a_failed_stream_does() -> None:
    for streaming, prompts in ((False, 0), (True, 1)):
        request = {**CHAT_REQUEST, "stream": streaming}
        result = exchange("chat-completions", request, b"{}", content_type=JSON, status=503)
        assert len(result.prompts) == prompts
        assert result.outcome.error_type == "overloaded"
        lost = finish(open_one("chat-completions", request), end="cut")
        assert len(lost.prompts) == prompts
        assert lost.tokens == []
