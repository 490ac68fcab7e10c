from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interception_answers import (
    GEMINI_ARRAY,
    GEMINI_BODY,
    GEMINI_CALL,
    GEMINI_CHUNKS,
    GEMINI_REQUEST,
    GEMINI_STREAM,
    GEMINI_THOUGHT,
    GEMINI_USAGE,
    gemini_answer,
)
from interception_driver import (
    EVENT_STREAM,
    JSON,
    NOW,
    Exchange,
    begin,
    chunk,
    exchange,
    finish,
    open_one,
)
from pieces import in_pieces

from aigateway.actors.interception import Outcome


def stream(*chunks: dict[str, Any], end: str = "framed", request: Any = None) -> Exchange:
    answer = b"".join(chunk(**each) for each in chunks)
    return exchange("gemini", request or GEMINI_REQUEST, answer, end=end)


def array(*chunks: dict[str, Any], end: str = "framed", closed: bool = True) -> Exchange:
    answer = b"[" + b",\r\n".join(json.dumps(each).encode() for each in chunks)
    return exchange("gemini", GEMINI_REQUEST, answer + b"]" * closed, content_type=JSON, end=end)


def blocking(answer: dict[str, Any], request: Any = None) -> Exchange:
    body = json.dumps(answer).encode()
    asked = {**(request or GEMINI_REQUEST), "stream": False}
    result = exchange("gemini", asked, body, content_type=JSON)
    assert result.client == body
    return result


def each_form(*chunks: dict[str, Any]) -> list[Exchange]:
    """The same answer in both kinds of stream."""
    return [stream(*chunks), array(*chunks)]


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


def call(name: str, id: str | None = None, **args: Any) -> dict[str, Any]:
    given = {"name": name, "args": args}
    return {"functionCall": given if id is None else {"id": id, **given}}


def result_of(name: str, id: str | None = None) -> dict[str, Any]:
    given = {"name": name, "response": {"output": "fine"}}
    return {"functionResponse": given if id is None else {"id": id, **given}}


HELLO = user({"text": "Hello"})


# -- requests


@pytest.mark.parametrize(
    ("contents", "prompt"),
    [
        ([HELLO], "Hello"),
        ([{"parts": [{"text": "no role"}]}], "no role"),
        ({"role": "user", "parts": {"text": "no lists"}}, "no lists"),
        ([user({"text": "a context"}, {"text": "the question"})], "the question"),
        ([user({"text": "look:"}, {"inlineData": {"data": "AA=="}})], "look:"),
        ([HELLO, model({"text": "Hi"}), user({"text": "And you?"})], "And you?"),
        ([HELLO, model({"text": "Hi"})], None),
        ([user({"inlineData": {"data": "AA=="}})], None),
        ([HELLO, model(call("f")), user(result_of("f"))], None),
        ([HELLO, model(call("f")), {"role": "function", "parts": [result_of("f")]}], None),
        ([HELLO, model(call("f")), user(result_of("f"), {"text": "go on"})], "go on"),
        ([HELLO, user({"text": "<system-reminder>x</system-reminder>"})], "Hello"),
        ([], None),
        ("nonsense", None),
    ],
)
def test_the_prompt_is_what_the_user_said_last(contents: Any, prompt: str | None) -> None:
    request = {
        "contents": contents,
        "systemInstruction": {"parts": [{"text": "You are a poet."}]},
    }
    result = blocking(GEMINI_BODY, request)
    assert [each.prompt for each in result.prompts] == ([] if prompt is None else [prompt])
    assert all(each.msg_id == "gem_imag1" for each in result.prompts)


@pytest.mark.parametrize("name", ["systemInstruction", "system_instruction"])
def test_the_system_instruction_says_who_speaks(name: str) -> None:
    said = {"parts": [{"text": "x"}, {"text": "You are an assistant; cc_is_subagent=true"}]}
    result = blocking(GEMINI_BODY, {"contents": [HELLO], name: said})
    assert [each.metadata for each in result.prompts] == [{"prompt_kind": "agent"}]


def test_model_and_stream_are_what_the_path_says() -> None:
    body = b'{"model":"models/other","stream":true,"contents":[]}'
    for streaming in (True, False):
        interception = open_one("gemini", body, model="gemini-x", streaming=streaming)
        assert interception.model == "gemini-x"
        assert interception.streaming is streaming
        assert interception.upstream_body() == body


@pytest.mark.parametrize("body", [b"[1]", b'"contents"', b"null", b'{"contents":null}'])
def test_a_request_of_another_shape_is_for_google_to_refuse(body: bytes) -> None:
    interception = open_one("gemini", body)
    assert interception.upstream_body() == body
    assert finish(begin(interception, JSON)).prompts == []


# -- calls


def test_a_result_is_correlated_by_the_id_of_its_call() -> None:
    contents = [
        HELLO,
        model(call("f", "c1"), call("g", "c2")),
        user(result_of("f", "c1"), result_of("g", "c2")),
    ]
    assert open_one("gemini", {"contents": contents}).correlating_tool_call_id == "c2"
    assert open_one("gemini", {"contents": contents[:2]}).correlating_tool_call_id is None
    lonely = [HELLO, user(result_of("g", "c9"))]
    assert open_one("gemini", {"contents": lonely}).correlating_tool_call_id == "c9"
    nameless = [HELLO, user(result_of("g"))]
    assert open_one("gemini", {"contents": nameless}).correlating_tool_call_id == ""
    other = [HELLO, model(call("f")), user(result_of("g", "c9"))]
    assert open_one("gemini", {"contents": other}).correlating_tool_call_id == "c9"


def test_calls_without_ids_are_told_apart_by_name_and_order() -> None:
    contents: list[Any] = [HELLO]
    known: list[str] = []
    # Three rounds, of which each has two calls of one function and one of another.
    for _round in range(3):
        calls = [call("f", n=1), call("g"), call("f", n=2)]
        answer = gemini_answer(*calls, finish="STOP", usage=GEMINI_USAGE)
        made = [each.tool_call_id for each in blocking(answer, {"contents": contents}).tools]
        assert len(set(made)) == 3
        assert made[0].startswith("f-")
        known += made
        contents = [*contents, model({"text": "so"}, *calls)]
        for last, expected in ((call("f"), made[0]), (call("g"), made[1])):
            given = [*contents, user(result_of(last["functionCall"]["name"]))]
            assert open_one("gemini", {"contents": given}).correlating_tool_call_id == expected
        contents = [*contents, user(result_of("f"), result_of("g"), result_of("f"))]
        request = open_one("gemini", {"contents": contents})
        assert request.correlating_tool_call_id == made[2]
    assert len(set(known)) == 9
    elsewhere = blocking(
        gemini_answer(call("f"), finish="STOP"), {"contents": [user({"text": "Bye"})]}
    )
    assert elsewhere.tools[0].tool_call_id not in known


def test_an_id_that_a_client_made_up_for_a_result_leads_to_the_call() -> None:
    first = blocking(gemini_answer(call("f"), finish="STOP"), {"contents": [HELLO]})
    contents = [HELLO, model(call("f")), user(result_of("f", "made-by-the-client"))]
    request = open_one("gemini", {"contents": contents})
    assert request.correlating_tool_call_id == first.tools[0].tool_call_id
    snake = [
        HELLO,
        model({"function_call": {"name": "f", "args": {}}}),
        user({"function_response": {"name": "f", "response": {}}}),
    ]
    request = open_one("gemini", {"contents": snake})
    assert request.correlating_tool_call_id == first.tools[0].tool_call_id


@pytest.mark.parametrize("id", ["f_1795906978175_0", "f-1795906978175-8a7f"])
def test_an_id_that_gemini_cli_gave_to_a_call_leads_to_the_call(id: str) -> None:
    first = blocking(gemini_answer(call("g"), call("f"), finish="STOP"), {"contents": [HELLO]})
    contents = [
        HELLO,
        model(call("g", "g_1795906978175_0"), call("f", id)),
        user(result_of("f", id)),
    ]
    request = open_one("gemini", {"contents": contents})
    assert request.correlating_tool_call_id == first.tools[1].tool_call_id


def test_more_results_than_calls_are_results_of_the_last_one() -> None:
    first = blocking(gemini_answer(call("f"), finish="STOP"), {"contents": [HELLO]})
    contents = [HELLO, model(call("f")), user(result_of("f"), result_of("f"))]
    request = open_one("gemini", {"contents": contents})
    assert request.correlating_tool_call_id == first.tools[0].tool_call_id


def test_calls_are_recorded_with_what_they_were_given() -> None:
    parts = [GEMINI_CALL, {"functionCall": {"name": "now"}}, {"functionCall": {"args": {}}}]
    for result in [
        blocking(gemini_answer(*parts, finish="STOP")),
        *each_form(gemini_answer(parts[0]), gemini_answer(*parts[1:], finish="STOP")),
    ]:
        assert [(each.tool, json.loads(each.input)) for each in result.tools] == [
            ("weather", {"city": "Ghent"}),
            ("now", {}),
        ]
        assert result.tools[0].tool_call_id == "call_1"
        assert all(each.msg_id == "gem_imag1" for each in result.tools)
        assert result.outcome == Outcome()


# -- tools that the provider runs


def test_code_is_a_tool_and_its_failure_an_error() -> None:
    def code(text: str, **more: str) -> dict[str, Any]:
        return {"executableCode": {"language": "PYTHON", "code": text, **more}}

    def ran(outcome: str, **more: str) -> dict[str, Any]:
        return {"codeExecutionResult": {"outcome": outcome, **more}}

    parts = [
        code("1/0", id="x1"),
        ran("OUTCOME_FAILED", output="ZeroDivisionError"),
        code("while 1: pass"),
        ran("OUTCOME_DEADLINE_EXCEEDED"),
        code("2"),
        ran("OUTCOME_OK", output="2"),
        code("3"),
        code("4"),
    ]
    whole = blocking(gemini_answer(*parts, finish="STOP"))
    for result in (whole, *each_form(*map(gemini_answer, parts), gemini_answer(finish="STOP"))):
        assert [(each.tool, each.invocation_error) for each in result.tools] == [
            ("code_execution", "ZeroDivisionError"),
            ("code_execution", "OUTCOME_DEADLINE_EXCEEDED"),
            ("code_execution", None),
            ("code_execution", None),
            ("code_execution", None),
        ]
        assert result.tools[0].tool_call_id == "x1"
        assert json.loads(result.tools[0].input) == {"language": "PYTHON", "code": "1/0"}
        assert result.tools[0].metadata == {"type": "executable_code"}
    assert blocking(gemini_answer(ran("OUTCOME_OK"), finish="STOP")).tools == []


def test_what_a_tool_was_asked_can_travel_whatever_it_holds() -> None:
    answer = json.dumps(
        gemini_answer(
            {"executableCode": {"code": "X"}},
            {"functionCall": {"name": "f", "args": {"a": "X"}}},
            finish="STOP",
            groundingMetadata={"webSearchQueries": ["X"]},
        )
    ).encode()
    odd = answer.replace(b'"X"', b'"\xff \\ud800"')
    result = exchange("gemini", {**GEMINI_REQUEST, "stream": False}, odd, content_type=JSON)
    asked = [json.loads(each.input) for each in result.tools]
    assert asked == [
        {"a": "\ufffd \ufffd"},
        {"code": "\ufffd \ufffd"},
        {"queries": ["\ufffd \ufffd"]},
    ]
    for each in result.tools:
        each.input.encode()


def test_searches_show_by_what_grounds_the_answer() -> None:
    grounding = {
        "webSearchQueries": ["weather Ghent", "rain Ghent"],
        "groundingChunks": [
            {"web": {"uri": "https://x.test"}},
            {"maps": {"title": "Ghent"}},
            {"retrievedContext": {"title": "a file"}},
        ],
    }
    urls = {"urlMetadata": [{"retrievedUrl": "https://y.test"}, {}]}
    last = gemini_answer(
        {"text": "Rain."},
        finish="STOP",
        usage=GEMINI_USAGE,
        groundingMetadata=grounding,
        urlContextMetadata=urls,
    )
    for result in (blocking(last), *each_form(gemini_answer({"text": "So:"}), last)):
        assert [(each.tool, json.loads(each.input)) for each in result.tools] == [
            ("google_search", {"queries": ["weather Ghent", "rain Ghent"]}),
            ("google_maps", None),
            ("file_search", None),
            ("url_context", {"urls": ["https://y.test"]}),
        ]
        assert {each.metadata["type"] for each in result.tools} == {"grounding_metadata"}
        paid = result.tokens[0].extra_token_types
        assert (paid["web_search_requests"], paid["maps_requests"]) == (2, 1)
    without_queries = {"groundingChunks": [{"web": {}}]}
    found = blocking(gemini_answer(finish="STOP", groundingMetadata=without_queries))
    assert [(each.tool, each.input) for each in found.tools] == [("google_search", "null")]
    assert blocking(gemini_answer(finish="STOP", groundingMetadata={})).tools == []


@pytest.mark.parametrize(
    ("model", "paid"),
    [
        ("gemini-3.8-flash", 3),
        ("models/gemini-4-argon", 3),
        ("gemini-flash-latest", 3),
        ("gemini-2.5-flash", 1),
        ("models/gemini-2.0-flash-001", 1),
        ("gemini-1.5-pro", 1),
    ],
)
def test_searches_are_counted_as_google_bills_them_for_the_model_that_answered(
    model: str, paid: int
) -> None:
    grounding = {"webSearchQueries": ["rain", "", "wind"]}
    more = {"webSearchQueries": ["rain", "snow"], "groundingChunks": [{"web": {}}]}
    chunks = [
        gemini_answer({"text": "a"}, finish="STOP", groundingMetadata=grounding),
        gemini_answer(index=1, finish="STOP", groundingMetadata=more, usage=GEMINI_USAGE),
    ]
    for each in chunks:
        each["modelVersion"] = model
    for result in each_form(*chunks):
        assert result.tokens[0].extra_token_types["web_search_requests"] == paid


def test_a_search_whose_queries_nobody_tells_is_one_and_nothing_found_is_none() -> None:
    for chunks, paid in (([{"web": {}}, {"web": {}}], 1), ([], None), ([{"image": {}}], None)):
        found = {"groundingChunks": chunks, "webSearchQueries": [""]}
        result = blocking(gemini_answer(finish="STOP", groundingMetadata=found, usage=GEMINI_USAGE))
        assert result.tokens[0].extra_token_types.get("web_search_requests") == paid


def test_tools_of_the_provider_that_are_told_one_by_one_are_not_told_twice() -> None:
    ran = {"toolCall": {"id": "t1", "toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["x"]}}}
    grounding = {"webSearchQueries": ["x"]}
    result = blocking(
        gemini_answer(
            ran, {"toolResponse": {"id": "t1"}}, finish="STOP", groundingMetadata=grounding
        )
    )
    [tool] = result.tools
    assert (tool.tool, tool.tool_call_id) == ("google_search_web", "t1")
    assert json.loads(tool.input) == {"queries": ["x"]}
    assert tool.metadata == {"type": "tool_call"}
    assert result.tokens[0].extra_token_types == {"web_search_requests": 1}


# -- thoughts


def test_thoughts_are_put_together_for_each_candidate() -> None:
    chunks = [
        gemini_answer({"text": "They ask ", "thought": True}),
        gemini_answer({"text": "Another.", "thought": True}, index=1),
        gemini_answer({"text": "about Ghent.", "thought": True}, {"text": "Rain."}),
        gemini_answer({"text": "", "thoughtSignature": "c2ln"}, finish="STOP"),
        gemini_answer(finish="STOP", index=1),
    ]
    for result in each_form(*chunks):
        assert [(each.content, each.metadata) for each in result.thoughts] == [
            ("They ask about Ghent.", {"source": "thought"}),
            ("Another.", {"source": "thought"}),
        ]
    cut = stream(*chunks[:1], end="cut")
    assert [each.metadata for each in cut.thoughts] == [{"source": "thought", "truncated": True}]


# -- tokens


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # input, output, read from the cache
        ({"promptTokenCount": 10, "totalTokenCount": 10}, (10, 0, 0)),
        (GEMINI_USAGE, (24, 14, 16)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 3}, (10, 8, 0)),
        # What tools of the provider brought is input beside the prompt.
        (
            {
                "promptTokenCount": 10,
                "toolUsePromptTokenCount": 100,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 118,
            },
            (110, 8, 0),
        ),
        # The total shows that they are in the prompt.
        (
            {
                "promptTokenCount": 110,
                "toolUsePromptTokenCount": 100,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 118,
            },
            (110, 8, 0),
        ),
        # The total shows that thoughts are among the candidates.
        (
            {
                "promptTokenCount": 10,
                "toolUsePromptTokenCount": 100,
                "candidatesTokenCount": 8,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 118,
            },
            (110, 8, 0),
        ),
        (
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 8,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 18,
            },
            (10, 8, 0),
        ),
        # Only the total tells of thoughts.
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 40},
            (10, 30, 0),
        ),
        ({"promptTokenCount": 4, "cachedContentTokenCount": 9}, (0, 0, 9)),
        ({"promptTokenCount": "4", "totalTokenCount": None}, (0, 0, 0)),
    ],
)
def test_tokens_are_counted_once(usage: dict[str, Any], expected: tuple[int, int, int]) -> None:
    [tokens] = blocking(gemini_answer(finish="STOP", usage=usage)).tokens
    assert (
        tokens.input_tokens,
        tokens.output_tokens,
        tokens.cache_read_input_tokens,
    ) == expected
    assert tokens.cache_write_input_tokens == 0
    assert tokens.metadata == {}


def test_tokens_of_other_kinds_have_names_of_their_own() -> None:
    usage = {
        **GEMINI_USAGE,
        "toolUsePromptTokenCount": 7,
        "totalTokenCount": 61,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 20},
            {"modality": "IMAGE", "tokenCount": 20},
            {"modality": "SMELL", "tokenCount": 20},
        ],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 16}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}, {}, 3],
        "serviceTier": "flex",
    }
    [tokens] = blocking(gemini_answer(finish="STOP", usage=usage)).tokens
    assert tokens.extra_token_types == {
        "output_thinking": 5,
        "tool_use_prompt": 7,
        "prompt_image": 20,
        "cache_read_audio": 16,
        "completion_audio": 9,
    }
    assert tokens.metadata == {"service_tier": "flex"}


def test_usage_is_a_running_total() -> None:
    chunks = [
        gemini_answer({"text": "a"}, usage={"promptTokenCount": 9, "candidatesTokenCount": 50}),
        gemini_answer({"text": "b"}, usage={"promptTokenCount": 9, "candidatesTokenCount": 2}),
        gemini_answer(finish="STOP", usage={"promptTokenCount": 10, "totalTokenCount": 12}),
    ]
    for result in each_form(*chunks):
        [tokens] = result.tokens
        assert (tokens.input_tokens, tokens.output_tokens) == (10, 2)
        assert tokens.metadata == {}


def test_usage_may_come_behind_the_reason_to_stop() -> None:
    told = {"usageMetadata": GEMINI_USAGE, "responseId": "gem_imag1"}
    for result in each_form(gemini_answer({"text": "a"}, finish="STOP"), told):
        assert [each.output_tokens for each in result.tokens] == [14]
        assert result.interception.complete


def test_an_answer_that_tells_no_usage_has_a_row_of_what_is_unknown() -> None:
    chunk_with_reason = gemini_answer({"text": "a"}, finish="STOP")
    assert [each.tokens for each in each_form(chunk_with_reason)] == [[], []]
    cut = stream(gemini_answer({"text": "a"}), end="cut")
    assert [each.metadata for each in cut.tokens] == [{"usage_complete": False}]


# -- ends


def test_who_answered_and_why_it_stopped_is_told() -> None:
    last = gemini_answer(finish="MAX_TOKENS", usage=GEMINI_USAGE)
    last["modelVersion"] = "gemini-imaginary-002"
    for result in (blocking(last), *each_form(gemini_answer({"text": "a"}), last)):
        expected = {"provider_model": "gemini-imaginary-002", "stop_reason": "MAX_TOKENS"}
        assert result.outcome == Outcome(metadata=expected)
        assert result.tokens[0].metadata == expected


def test_of_several_candidates_the_first_reason_that_says_something_counts() -> None:
    chunks = [
        gemini_answer(finish="STOP", index=2),
        gemini_answer(finish="SAFETY", index=1),
        gemini_answer(finish="RECITATION", index=0, usage=GEMINI_USAGE),
    ]
    for result in each_form(*chunks):
        assert result.outcome.metadata == {"stop_reason": "RECITATION"}


def test_a_stream_whose_candidates_have_not_all_finished_is_cut() -> None:
    chunks = [
        gemini_answer({"text": "a"}, index=0),
        gemini_answer({"text": "b"}, index=1, finish="STOP", usage=GEMINI_USAGE),
    ]
    for result in each_form(*chunks):
        assert result.interception.cut
        assert not result.interception.complete
        assert result.tokens[0].metadata == {"usage_complete": False}
    for result in each_form(*chunks, gemini_answer(finish="STOP")):
        assert not result.interception.cut


def test_a_reason_that_is_not_specified_is_none() -> None:
    chunk_without = gemini_answer({"text": "a"}, finish="FINISH_REASON_UNSPECIFIED")
    assert all(each.interception.cut for each in each_form(chunk_without))


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    result = stream(*GEMINI_CHUNKS[:2])
    whole, _, last = result.client.removesuffix(b"\n\n").rpartition(b"\n\ndata: ")
    assert whole + b"\n\n" == b"".join(chunk(**each) for each in GEMINI_CHUNKS[:2])
    error = json.loads(last)["error"]
    assert (error["code"], error["status"]) == (500, "INTERNAL")
    assert "ended its answer before" in error["message"]
    interception = begin(open_one("gemini", GEMINI_REQUEST))
    interception.receive_data(chunk(**GEMINI_CHUNKS[0]), NOW)
    last_words = interception.receive_cut("it was silent", NOW, error_type="timeout")
    assert json.loads(last_words.removeprefix(b"data: "))["error"] == {
        "code": 504,
        "message": "it was silent",
        "status": "DEADLINE_EXCEEDED",
    }


@pytest.mark.parametrize("end", ["framed", "unframed", "cut"])
@pytest.mark.parametrize("closed", [True, False])
def test_an_array_that_ends_too_early_is_never_closed(end: str, closed: bool) -> None:
    result = array(*GEMINI_CHUNKS[:2], end=end, closed=closed)
    assert result.client == b"[" + b",\r\n".join(
        json.dumps(each).encode() for each in GEMINI_CHUNKS[:2]
    )
    assert result.interception.cut
    assert not result.interception.complete
    assert result.outcome.error_type == "server_error"
    assert result.tokens[0].metadata == {"usage_complete": False}


def test_an_array_without_its_bracket_is_cut_although_all_has_been_said() -> None:
    result = array(*GEMINI_CHUNKS, closed=False)
    assert result.interception.cut
    [tokens] = result.tokens
    assert (tokens.output_tokens, tokens.metadata) == (14, {})


def test_an_empty_array_is_no_answer() -> None:
    result = exchange("gemini", GEMINI_REQUEST, b"[]", content_type=JSON)
    assert result.client == b""
    assert result.interception.cut


@pytest.mark.parametrize("end", ["framed", "unframed", "cut", "left"])
def test_a_closed_array_is_whole_however_it_ends(end: str) -> None:
    result = exchange("gemini", GEMINI_REQUEST, GEMINI_ARRAY, content_type=JSON, end=end)
    assert not result.interception.cut
    assert result.outcome == Outcome()
    if end != "left":
        assert result.client == GEMINI_ARRAY
    assert result.tokens[0].metadata == {}


def test_a_blocked_prompt_is_a_failure_with_its_reason() -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": []},
        "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
        "responseId": "gem_imag1",
    }
    expected = Outcome(
        "bad_request",
        "the prompt was blocked: PROHIBITED_CONTENT",
        {"block_reason": "PROHIBITED_CONTENT"},
    )
    for result in (blocking(blocked), *each_form(blocked)):
        assert result.outcome == expected
        assert not result.interception.cut
        assert result.interception.complete
        assert [each.input_tokens for each in result.tokens] == [12]
        assert [each.prompt for each in result.prompts] == ["What is the weather in Ghent?"]
    said = {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "No spells."}}
    assert blocking(said).outcome.error_message == "the prompt was blocked: No spells."
    harmless = gemini_answer(finish="STOP", usage=GEMINI_USAGE)
    assert blocking({**harmless, "promptFeedback": {"safetyRatings": []}}).outcome == Outcome()


ERROR = {
    "error": {
        "code": 503,
        "message": "The model is overloaded.",
        "status": "UNAVAILABLE",
    }
}


def test_an_error_within_a_stream_is_the_streams_own() -> None:
    for result in each_form(GEMINI_CHUNKS[0], ERROR):
        assert result.outcome.error_type == "overloaded"
        assert result.outcome.error_message == "The model is overloaded."
        assert result.client.endswith((b"\n\n", b"]"))
        assert result.client.count(b'"error"') == 1
        assert not result.interception.complete


def test_an_error_that_is_written_into_a_stream_as_bare_lines_says_why() -> None:
    answer = chunk(**GEMINI_CHUNKS[0]) + json.dumps(ERROR, indent=2).encode() + b"\n"
    for step in (1, 1 << 20):
        reads = [answer[at : at + step] for at in range(0, len(answer), step)]
        result = exchange("gemini", GEMINI_REQUEST, reads)
        assert result.outcome.error_type == "overloaded"
        assert result.outcome.error_message == "The model is overloaded."
        assert result.interception.cut


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_an_error_answer_is_an_object_or_a_list_of_one(listed: bool, streaming: bool) -> None:
    body = json.dumps([ERROR] if listed else ERROR).encode()
    request = {**GEMINI_REQUEST, "stream": streaming}
    for status, kind in ((503, "overloaded"), (400, "bad_request"), (429, "rate_limited")):
        result = exchange("gemini", request, body, content_type=JSON, status=status)
        assert result.client == body
        assert result.outcome == Outcome(kind, "The model is overloaded.")
        assert result.records == ([] if not streaming else result.prompts)
    good_status = exchange("gemini", request, body, content_type=JSON)
    assert good_status.client == body
    assert good_status.outcome == Outcome("overloaded", "The model is overloaded.")


def test_an_encoded_array_is_read_as_a_whole() -> None:
    answer = gzip.compress(GEMINI_ARRAY)
    result = exchange("gemini", GEMINI_REQUEST, answer, content_type=JSON, encoding="gzip")
    assert result.client == answer
    assert result.records == stream(*GEMINI_CHUNKS).records
    half = gzip.compress(json.dumps(GEMINI_CHUNKS[:2]).encode())
    result = exchange("gemini", GEMINI_REQUEST, half, content_type=JSON, encoding="gzip")
    assert result.outcome.error_type == "server_error"


@pytest.mark.parametrize("content_type", [JSON, EVENT_STREAM, None, "text/plain"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\r\n ", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("step", [1, 2, 1 << 20])
def test_an_array_is_read_under_any_label(
    content_type: str | None, start: bytes, step: int
) -> None:
    answer = start + GEMINI_ARRAY
    reads = [answer[at : at + step] for at in range(0, len(answer), step)]
    result = exchange("gemini", GEMINI_REQUEST, reads, content_type=content_type)
    assert result.client == answer
    assert result.records == stream(*GEMINI_CHUNKS).records
    assert result.outcome == Outcome()


def test_elements_of_an_array_leave_as_they_come() -> None:
    interception = begin(open_one("gemini", GEMINI_REQUEST), JSON)
    assert interception.event_stream
    interception.keepalives = True
    assert interception.receive_data(b'[{"candidates":[]}', NOW) == b'[{"candidates":[]}'
    # Blanks may stand between elements, and mean nothing there.
    assert interception.keepalive() == b"\n\n"
    assert interception.receive_data(b',{"candidates"', NOW) == b""
    assert interception.keepalive() == b"\n\n"
    assert interception.receive_data(b":[]}", NOW) == b',{"candidates":[]}'
    assert interception.receive_data(b"]", NOW) == b""


def test_what_is_no_chunk_in_an_array_is_counted() -> None:
    chunks = json.dumps(GEMINI_CHUNKS[-1]).encode()
    result = exchange("gemini", GEMINI_REQUEST, b"[{oops}," + chunks + b"]", content_type=JSON)
    assert result.client == b"[{oops}," + chunks + b"]"
    assert result.outcome == Outcome(metadata={"unread_events": 1})
    other = exchange("gemini", GEMINI_REQUEST, b'[{"a":1},{},' + chunks + b"]", content_type=JSON)
    assert other.outcome == Outcome()


# -- however it arrives


_sizes = st.lists(st.integers(1, 300), max_size=200)
_ends = st.sampled_from(["framed", "unframed", "cut"])


@given(_sizes)
def test_an_array_is_relayed_exactly_and_read_however_it_arrives(sizes: list[int]) -> None:
    expected = stream(*GEMINI_CHUNKS).records
    data = GEMINI_ARRAY
    for reads in ([data], in_pieces(data, sizes), [data[i : i + 1] for i in range(len(data))]):
        result = exchange("gemini", GEMINI_REQUEST, reads, content_type=JSON)
        assert result.client == data
        assert result.records == expected
        assert result.interception.complete


@given(_sizes, st.integers(0, len(GEMINI_ARRAY)), _ends)
def test_wherever_an_array_is_cut_it_is_not_closed_and_its_records_are_the_same(
    sizes: list[int], at: int, end: str
) -> None:
    data = GEMINI_ARRAY[:at]
    whole = exchange("gemini", GEMINI_REQUEST, data, content_type=JSON, end=end)
    in_reads = exchange(
        "gemini", GEMINI_REQUEST, in_pieces(data, sizes), content_type=JSON, end=end
    )
    assert whole.records == in_reads.records
    assert whole.outcome == in_reads.outcome
    assert whole.client == in_reads.client
    closed = at >= len(GEMINI_ARRAY) - 1
    assert whole.interception.cut is not closed
    assert whole.client.rstrip().endswith(b"]") is closed
    assert GEMINI_ARRAY.startswith(whole.client)


@given(_sizes, st.integers(GEMINI_STREAM.index(b"\n\n"), len(GEMINI_STREAM)), _ends)
def test_wherever_an_event_stream_is_cut_it_never_looks_complete(
    sizes: list[int], at: int, end: str
) -> None:
    data = GEMINI_STREAM[:at]
    result = exchange("gemini", GEMINI_REQUEST, in_pieces(data, sizes), end=end)
    if not result.interception.cut:
        assert b'"finishReason": "STOP"' in result.client
    else:
        last = result.client.rpartition(b"data: ")[2]
        assert "error" in json.loads(last)


@given(st.data(), _sizes, _ends)
def test_damaged_arrays_are_relayed_and_never_raise(data: Any, sizes: list[int], end: str) -> None:
    changed = bytearray(GEMINI_ARRAY)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(changed)))
        until = min(len(changed), at + data.draw(st.integers(0, 30)))
        odd = st.sampled_from([b"null", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"\\ud800"])
        changed[at:until] = data.draw(odd | st.binary(max_size=4))
    answer = bytes(changed)
    whole = exchange("gemini", GEMINI_REQUEST, answer, content_type=JSON, end=end)
    in_reads = exchange(
        "gemini", GEMINI_REQUEST, in_pieces(answer, sizes), content_type=JSON, end=end
    )
    assert whole.records == in_reads.records
    assert whole.outcome == in_reads.outcome
    assert answer.startswith(whole.client)
    if not whole.interception.cut:
        assert whole.client == answer


def test_a_client_that_leaves_before_the_end_is_recorded_as_such() -> None:
    interception = begin(open_one("gemini", GEMINI_REQUEST), JSON)
    half = interception.receive_data(GEMINI_ARRAY[:400], NOW)
    result = finish(interception, half, "left")
    assert result.outcome.error_type == "unknown"
    assert GEMINI_THOUGHT["text"] in [each.content for each in result.thoughts]
