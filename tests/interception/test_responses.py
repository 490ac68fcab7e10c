from __future__ import annotations

import json
from typing import Any

import pytest
from interception_answers import (
    CALL_ITEM,
    REASONING_ITEM,
    RESPONSE_BODY,
    RESPONSE_CREATED,
    RESPONSE_USAGE,
    RESPONSES_REQUEST,
    RESPONSES_STREAM,
    RESPONSES_TEXT,
    item_done,
    response,
)
from interception_driver import JSON, Exchange, begin, event, exchange, finish, open_one

from aigateway.actors.interception import Outcome


def stream(*events: bytes, end: str = "framed", **request: Any) -> Exchange:
    return exchange("responses", {**RESPONSES_REQUEST, **request}, b"".join(events), end=end)


def blocking(**answer: Any) -> Exchange:
    body = json.dumps({**RESPONSE_BODY, **answer}).encode()
    request = {**RESPONSES_REQUEST, "stream": False}
    result = exchange("responses", request, body, content_type=JSON)
    assert result.client == body
    return result


# -- requests


@pytest.mark.parametrize(
    ("body", "model", "streaming"),
    [
        ({"model": "gpt-x", "stream": True}, "gpt-x", True),
        ({"model": 4.1, "stream": "T"}, "4.1", True),
        ({"model": None, "stream": "yes"}, "", False),
        ({"model": True, "stream": 0}, "", False),
        ([], "", False),
    ],
)
def test_model_and_stream_are_read_loosely(body: Any, model: str, streaming: bool) -> None:
    interception = open_one("responses", body)
    assert interception.model == model
    assert interception.streaming is streaming
    assert interception.upstream_body() == json.dumps(body).encode()


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("hello", "hello"),
        # A blank text is none.
        ("", None),
        (" \n", None),
        ([{"role": "user", "content": "hello"}], "hello"),
        ([{"role": "user", "content": ""}], None),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "hello"},
                        {"type": "input_text", "text": " "},
                    ],
                }
            ],
            "hello",
        ),
        ([{"role": "user", "content": "old"}, {"role": "user", "content": " "}], None),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "one"},
                        {"type": "input_image", "text": "no"},
                        {"type": "input_text", "text": "two"},
                        {"type": "input_text", "text": 3},
                    ],
                }
            ],
            "one\ntwo",
        ),
        ([{"role": "user", "content": [{"type": "input_image"}]}], None),
        ([{"role": "user", "content": None}], None),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], None),
        ([{"role": "user", "content": "x"}, {"type": "function_call_output"}], None),
        ([], None),
        (None, None),
        ({"role": "user", "content": "x"}, None),
        (["x"], None),
    ],
)
def test_the_prompt_is_what_the_user_said_last(given: Any, prompt: str | None) -> None:
    result = stream(RESPONSES_STREAM, input=given)
    assert [p.prompt for p in result.prompts] == ([] if prompt is None else [prompt])


@pytest.mark.parametrize(
    ("last", "call"),
    [
        ({"type": "function_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "function_call_output", "call_id": ""}, None),
        ({"type": "function_call_output"}, None),
        ({"type": "custom_tool_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "shell_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "local_shell_call_output", "id": "call_7"}, "call_7"),
        ({"type": "function_call_output", "id": "fco_7"}, None),
        ({"type": "apply_patch_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "computer_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "tool_search_output", "call_id": "call_7"}, "call_7"),
        ({"type": "yet_unknown_call_output", "call_id": "call_7"}, "call_7"),
        ({"type": "mcp_approval_response", "approval_request_id": "mcpr_7"}, "mcpr_7"),
        ({"type": "function_call", "call_id": "call_7"}, None),
        ("text", None),
    ],
)
def test_the_correlating_call_is_the_last_one_answered(last: Any, call: str | None) -> None:
    before = {"type": "function_call_output", "call_id": "old"}
    interception = open_one("responses", {"input": [before, last]})
    assert interception.correlating_tool_call_id == call


@pytest.mark.parametrize("background", [True, "true", 1])
def test_background_requests_are_refused(background: Any) -> None:
    interception = open_one("responses", {**RESPONSES_REQUEST, "background": background})
    message = "background requests are currently not supported by AI Bridge"
    assert interception.refusal is not None
    status, body = interception.refusal
    assert status == 501
    assert json.loads(body) == {"code": "501", "message": message}
    assert interception.outcome() == Outcome("server_error", message)
    assert interception.take_records() == []


def test_other_requests_are_not_refused() -> None:
    assert open_one("responses", {"background": False}).refusal is None


# -- streams


def check_records(result: Exchange) -> None:
    assert [(p.msg_id, p.prompt) for p in result.prompts] == [
        ("resp_imag1", "What is the weather in Ghent?")
    ]
    (tokens,) = result.tokens
    assert (tokens.input_tokens, tokens.output_tokens) == (36, 20)
    assert (tokens.cache_read_input_tokens, tokens.cache_write_input_tokens) == (10, 4)
    assert tokens.extra_token_types == {"output_reasoning": 8, "total_tokens": 70}
    assert tokens.metadata == {}
    assert [(t.content, t.metadata) for t in result.thoughts] == [
        ("They ask about Ghent.", {"source": "reasoning_summary"})
    ]
    assert [(t.msg_id, t.tool, t.tool_call_id, t.input) for t in result.tools] == [
        ("resp_imag1", "weather", "call_1", '{"city":"Ghent"}')
    ]


def test_a_whole_stream_is_recorded() -> None:
    result = stream(RESPONSES_STREAM)
    assert result.client == RESPONSES_STREAM
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome()
    check_records(result)


def test_the_prompt_is_recorded_as_soon_as_the_response_has_an_id() -> None:
    interception = begin(open_one("responses", RESPONSES_REQUEST))
    interception.receive_data(RESPONSE_CREATED, 1.0)
    assert len(interception.take_records()) == 1


def test_events_without_a_name_are_known_by_their_type() -> None:
    nameless = b"".join(
        line + b"\n" for line in RESPONSES_STREAM.splitlines() if not line.startswith(b"event:")
    )
    check_records(stream(nameless))


def test_items_count_when_the_final_response_does_not_repeat_them() -> None:
    final = event("response.completed", response=response(usage=RESPONSE_USAGE))
    check_records(stream(RESPONSES_TEXT, final))


def test_an_incomplete_response_is_an_end_like_others() -> None:
    incomplete = response(
        status="incomplete",
        incomplete_details={"reason": "max_output_tokens"},
        output=[{**CALL_ITEM, "arguments": '{"city":"Gh'}],
        usage=RESPONSE_USAGE,
    )
    result = stream(RESPONSE_CREATED, event("response.incomplete", response=incomplete))
    assert result.interception.complete
    assert result.outcome == Outcome(metadata={"stop_reason": "max_output_tokens"})
    assert [t.output_tokens for t in result.tokens] == [20]
    assert [json.loads(t.input) for t in result.tools] == ['{"city":"Gh']


@pytest.mark.parametrize(("usage", "records"), [(RESPONSE_USAGE, 1), (None, 0)])
def test_a_failed_response_is_an_error_with_its_usage(usage: Any, records: int) -> None:
    error = {"code": "rate_limit_exceeded", "message": "too much"}
    failed = response(status="failed", error=error, usage=usage)
    events = RESPONSE_CREATED + event("response.failed", response=failed)
    result = stream(events)
    assert result.client == events
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome("rate_limited", "too much", {"stop_reason": "failed"})
    assert len(result.tokens) == records


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            event("error", code="server_error", message="Sorry", param=None),
            Outcome("server_error", "Sorry"),
        ),
        (
            event("error", error={"type": "invalid_request_error", "message": "No"}),
            Outcome("bad_request", "No"),
        ),
        (b'data: {"error":{"message":"No"}}\n\n', Outcome("unknown", "No")),
        (event("response.error", error={"message": "No"}), Outcome("unknown", "No")),
        (event("error"), Outcome("unknown", "The AI provider reported an error")),
    ],
)
def test_an_error_event_ends_the_stream_as_the_upstream_did(error: bytes, outcome: Outcome) -> None:
    result = stream(RESPONSES_TEXT, error)
    assert result.client == RESPONSES_TEXT + error
    assert result.outcome == outcome
    assert not result.interception.cut
    assert result.tokens == []
    # What was finished before has happened.
    assert [t.tool for t in result.tools] == ["weather"]


def test_an_error_before_the_response_began_records_nothing() -> None:
    result = stream(event("error", message="No"))
    assert result.outcome == Outcome("unknown", "No")
    assert result.records == []


@pytest.mark.parametrize(
    "odd",
    [
        b"event: response.completed\n\n",
        b"event: response.output_item.done\ndata: {broken\n\n",
        b'event: response.output_item.done\ndata: {"item":7}\n\n',
        b'data: {"type":7}\n\n',
        b"data: [DONE]\n\n",
        event("response.output_item.done", item={"type": "reasoning", "summary": 7}),
        event("response.output_item.done", item={"type": "message", "content": 7}),
        event("response.unheard_of", x=1),
        event("keepalive"),
    ],
)
def test_garbage_disturbs_nothing(odd: bytes) -> None:
    if b"response.completed" not in odd:
        result = stream(odd, RESPONSES_STREAM, odd)
        assert result.client == odd + RESPONSES_STREAM + odd
        assert result.outcome.error_type is None
        check_records(result)


def test_a_stream_whose_end_cannot_be_read_has_ended_all_the_same() -> None:
    result = stream(RESPONSES_TEXT, b"event: response.completed\ndata: {broken\n\n")
    assert result.interception.complete
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(0, 0)]
    assert len(result.tools) == 1


# -- streams that end too early


@pytest.mark.parametrize("end", ["framed", "unframed", "cut", "left"])
def test_what_was_finished_before_a_cut_is_recorded(end: str) -> None:
    half = event("response.output_item.added", item={**CALL_ITEM, "id": "fc_2"})
    result = stream(RESPONSES_TEXT, half, end=end)
    assert [t.content for t in result.thoughts] == ["They ask about Ghent."]
    assert [t.tool for t in result.tools] == ["weather"]
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}]
    assert [t.output_tokens for t in result.tokens] == [0]
    assert result.interception.cut
    assert result.outcome.error_type == ("unknown" if end == "left" else "server_error")


@pytest.mark.parametrize(
    ("error_type", "code"),
    [("server_error", "server_error"), ("rate_limited", "rate_limit_exceeded")],
)
def test_a_cut_is_told_in_an_error_event(error_type: str, code: str) -> None:
    interception = begin(open_one("responses", RESPONSES_REQUEST))
    interception.receive_data(RESPONSE_CREATED, 1.0)
    interception.receive_data(event("response.x.delta", sequence_number=41), 1.0)
    told = interception.receive_cut("gone", 2.0, error_type=error_type)
    name, _, data = told.partition(b"\ndata: ")
    assert name == b"event: error"
    assert json.loads(data) == {
        "type": "error",
        "code": code,
        "message": "gone",
        "param": None,
        "sequence_number": 42,
        "error": {"type": code, "code": code, "message": "gone", "param": None},
    }


# -- blocking answers


def test_a_whole_answer_is_recorded() -> None:
    result = blocking()
    assert result.interception.complete
    assert result.outcome == Outcome()
    check_records(result)


def test_custom_calls_and_odd_arguments_are_recorded() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "run", "input": 'say("x")'}
    result = blocking(
        output=[
            custom,
            {**custom, "input": None},
            {**CALL_ITEM, "arguments": ' {"a": 1.0} '},
            {**CALL_ITEM, "arguments": " oops "},
            {**CALL_ITEM, "arguments": ""},
            {"type": "function_call"},
        ]
    )
    assert [(t.tool, t.tool_call_id, t.input) for t in result.tools] == [
        ("run", "c1", '"say(\\"x\\")"'),
        ("run", "c1", "null"),
        ("weather", "call_1", '{"a": 1.0}'),
        ("weather", "call_1", '"oops"'),
        ("weather", "call_1", '""'),
        ("", "", "null"),
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "code_interpreter_call",
        "mcp_call",
        "file_search_call",
        "image_generation_call",
    ],
)
def test_hosted_tools_are_recorded(kind: str) -> None:
    named = {"type": kind, "id": "x2", "call_id": "c2", "name": "lookup"}
    result = blocking(output=[{"type": kind, "id": "x1", "status": "completed"}, named])
    assert [(t.tool, t.tool_call_id, t.item_id, t.input) for t in result.tools] == [
        (kind, "", "x1", "null"),
        ("lookup", "c2", "x2", "null"),
    ]


def test_commentary_is_a_thought_and_other_text_is_not() -> None:
    content = [
        {"type": "output_text", "text": "Looking."},
        {"type": "output_text", "text": ""},
        {"type": "refusal", "text": "no"},
    ]
    said = {"type": "message", "role": "assistant", "content": content}
    result = blocking(
        output=[
            {**said, "phase": "commentary"},
            {**said, "phase": "final_answer"},
            {**said, "phase": "commentary", "role": "user"},
            said,
            {"type": "reasoning", "summary": [{"text": ""}, {"text": "Hm."}, 7]},
            {"type": "compaction"},
            7,
        ]
    )
    assert [(t.content, t.metadata["source"]) for t in result.thoughts] == [
        ("Looking.", "commentary"),
        ("Hm.", "reasoning_summary"),
    ]


def test_more_cached_than_given_is_no_negative_input() -> None:
    details = {"cached_tokens": 9, "cache_write_tokens": 9}
    (tokens,) = blocking(usage={"input_tokens": 10, "input_tokens_details": details}).tokens
    assert tokens.input_tokens == 0


@pytest.mark.parametrize("answer", [{"usage": None}, {"output": None, "id": None}, {"output": [7]}])
def test_odd_answers_are_read_as_far_as_they_make_sense(answer: dict[str, Any]) -> None:
    result = blocking(**answer)
    assert len(result.tokens) == 1
    assert result.outcome == Outcome()


def test_a_failed_answer_is_an_error() -> None:
    result = blocking(status="failed", error={"code": "server_error", "message": "Sorry"})
    assert result.outcome == Outcome("server_error", "Sorry", {"stop_reason": "failed"})
    assert len(result.prompts) == 1


def test_an_error_with_status_200_is_an_error() -> None:
    body = b'{"error":{"message":"no","code":"invalid_prompt"}}'
    result = exchange("responses", RESPONSES_REQUEST, body, content_type=JSON)
    assert result.outcome == Outcome("bad_request", "no")
    assert result.records == []


@pytest.mark.parametrize("streaming", [False, True])
def test_a_failed_request_without_a_response_records_no_prompt(streaming: bool) -> None:
    request = {**RESPONSES_REQUEST, "stream": streaming}
    result = exchange("responses", request, b"{}", content_type=JSON, status=500)
    assert result.records == []
    assert finish(open_one("responses", request), end="cut").records == []


def test_reasoning_items_of_an_unfinished_stream_are_not_repeated() -> None:
    again = event("response.completed", response=response(output=[REASONING_ITEM]))
    result = stream(RESPONSE_CREATED, item_done(0, REASONING_ITEM), again)
    assert len(result.thoughts) == 1
