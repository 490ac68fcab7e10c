"""Chat Completions as vendors speak it: what they add, leave out, or write in other places."""

from __future__ import annotations

import functools
import json
import operator
from typing import Any

import pytest
from interception_answers import (
    CHAT_BODY,
    CHAT_REQUEST,
    CHAT_STREAM,
    CHAT_TEXT,
    CHAT_USAGE,
    DONE,
    call_delta,
    chat_chunk,
)
from interception_driver import JSON, NOW, Exchange, begin, chunk, exchange, finish, open_one
from pieces import in_pieces

from aigateway.actors.interception import Outcome

TEXT = chat_chunk({"role": "assistant", "content": "Hi"})
STOP = chat_chunk(finish="stop")


def stream(*events: bytes, end: str = "framed", **request: Any) -> Exchange:
    return exchange("chat-completions", {**CHAT_REQUEST, **request}, b"".join(events), end=end)


def blocking(answer: dict[str, Any], status: int = 200) -> Exchange:
    body = json.dumps(answer).encode()
    request = {**CHAT_REQUEST, "stream": False}
    result = exchange("chat-completions", request, body, content_type=JSON, status=status)
    assert result.client == body
    return result


def said(**message: Any) -> dict[str, Any]:
    """A blocking answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"id": "c", "choices": [choice], "usage": CHAT_USAGE}


def counts(result: Exchange) -> list[tuple[int, int, int, int]]:
    """Input, output, cache read, cache write of each row."""
    return [
        (
            t.input_tokens,
            t.output_tokens,
            t.cache_read_input_tokens,
            t.cache_write_input_tokens,
        )
        for t in result.tokens
    ]


# -- requests


def asked(*messages: Any) -> tuple[list[str], str | None]:
    """The prompts and the correlating call of a conversation."""
    result = stream(CHAT_STREAM, messages=list(messages))
    return [p.prompt for p in result.prompts], result.interception.correlating_tool_call_id


USER = {"role": "user", "content": "Fix the bug"}
TOOLS = [{"role": "tool", "tool_call_id": each, "content": "ok"} for each in ("call_1", "call_2")]
REMINDER = {"role": "system", "content": "Answer with edit blocks only."}
DEVELOPER = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
WRAPPER = {"role": "user", "content": "<environment_context>\n<cwd>/x</cwd></environment_context>"}


@pytest.mark.parametrize("trailing", [[REMINDER], [DEVELOPER], [REMINDER, DEVELOPER], [WRAPPER]])
def test_what_clients_put_behind_the_users_words_hides_nothing(trailing: list[Any]) -> None:
    assert asked(REMINDER, USER, *trailing) == (["Fix the bug"], None)
    assert asked(USER, {"role": "assistant"}, *TOOLS, *trailing) == ([], "call_2")
    assert asked(USER, {"role": "assistant", "content": "Done."}, *trailing) == ([], None)


def test_a_wrapper_beside_the_users_words_is_none_of_them() -> None:
    parts = [
        {"type": "text", "text": t} for t in ("Fix it", "<system-reminder>x</system-reminder>")
    ]
    assert asked({"role": "user", "content": parts}) == (["Fix it"], None)


def test_the_result_of_a_function_is_no_prompt() -> None:
    result = {"role": "function", "name": "weather", "content": "12"}
    assert asked(USER, {"role": "assistant"}, result) == ([], "")


def test_usage_is_not_asked_for_where_the_provider_refuses_that() -> None:
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    interception = begin(open_one("chat-completions", body, ask_usage=False))
    assert interception.upstream_body() == b""
    interception = open_one("chat-completions", body, ask_usage=False)
    assert interception.upstream_body() == body
    begin(interception)
    # Nothing is the gateway's own, then, and nothing is kept from the client.
    assert interception.receive_data(CHAT_STREAM, NOW) == CHAT_STREAM
    assert [t.output_tokens for t in finish(interception).tokens] == [12]


@pytest.mark.parametrize(
    "refusal",
    [
        {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
        {
            "object": "error",
            "message": {
                "detail": [
                    {"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
                ]
            },
        },
        {"error": {"message": "body.stream_options: Extra inputs are not permitted"}},
        [
            {
                "error": {
                    "code": 422,
                    "message": "body.stream_options: Extra inputs are not permitted",
                }
            }
        ],
    ],
)
def test_the_text_of_a_refusal_is_recorded_in_any_shape(refusal: Any) -> None:
    outcome = blocking(refusal, 422).outcome
    message = "body.stream_options: Extra inputs are not permitted"
    assert outcome == Outcome("bad_request", message)


# -- ends


@pytest.mark.parametrize("unset", ["", "null", "None", None])
def test_an_empty_finish_reason_is_none(unset: str | None) -> None:
    events = [
        chat_chunk({"content": "Hi"}, unset),
        chat_chunk(call_delta(0, "call_1", "weather", ""), unset),
        chat_chunk(call_delta(0, None, None, '{"city":'), unset),
        chat_chunk(call_delta(0, None, None, '"Ghent"}'), unset),
    ]
    whole = stream(*events, chat_chunk(finish="tool_calls"))
    assert [(t.tool_call_id, t.tool, t.input) for t in whole.tools] == [
        ("call_1", "weather", '{"city":"Ghent"}')
    ]
    assert whole.interception.complete
    # Without its end, and without a marker of the API, a proper end of the bytes is none.
    cut = stream(*events)
    assert cut.interception.cut
    assert b'"error"' in cut.client
    assert cut.outcome.error_type == "server_error"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("stop", {}),
        ("tool_calls", {}),
        *[(r, {"stop_reason": r}) for r in ("eos", "eos_token", "length", "content_filter")],
    ],
)
def test_any_other_finish_reason_is_one(reason: str, told: dict[str, str]) -> None:
    result = stream(TEXT, chat_chunk(finish=reason))
    assert result.interception.complete
    assert result.outcome.metadata == told


def test_the_usage_chunk_behind_the_text_ends_it_as_well() -> None:
    usage = chunk(id="c", choices=[], usage=CHAT_USAGE)
    result = stream(TEXT, usage)
    assert result.interception.complete
    assert result.outcome == Outcome()
    assert result.client == TEXT
    for events in ([usage], [usage, TEXT], [TEXT, usage, TEXT]):
        assert stream(*events).interception.cut
    # Running totals end nothing.
    assert stream(chat_chunk({"content": "Hi"}, usage=CHAT_USAGE)).interception.cut


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_the_usage_chunk_may_come_anywhere_at_the_end(place: int) -> None:
    events = [TEXT, STOP, DONE]
    events.insert(place, chunk(id="chatcmpl-imag1", choices=[], usage=CHAT_USAGE))
    result = stream(*events)
    assert result.client == TEXT + STOP + DONE
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [(12, {})]


def test_the_reason_of_the_first_choice_that_was_not_done_is_told() -> None:
    result = stream(
        chat_chunk({"content": "a"}, index=1),
        chat_chunk(finish="length", index=1),
        chat_chunk({"content": "a"}, "stop"),
        chat_chunk({"content": "a"}, "content_filter", index=2),
        DONE,
        n=3,
    )
    assert result.outcome.metadata == {"stop_reason": "length"}


def test_who_answered_and_how_it_was_served_is_recorded() -> None:
    about = {"model": "gpt-x-2026", "service_tier": "flex"}
    streamed = stream(chat_chunk({"content": "a"}, "stop", **about, usage=CHAT_USAGE), DONE)
    answered = blocking({**CHAT_BODY, **about})
    known = {"provider_model": "gpt-x-2026"}
    for result in (streamed, answered):
        assert result.outcome.metadata == known
        assert [t.metadata for t in result.tokens] == [{**known, "service_tier": "flex"}]


def test_a_refusal_is_told() -> None:
    told = {"refusal": True}
    result = stream(chat_chunk({"refusal": "I can't"}), chat_chunk({"refusal": "."}), STOP, DONE)
    assert result.outcome.metadata == told
    assert blocking(said(content=None, refusal="No.")).outcome.metadata == told


# -- errors


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ({"error": {"code": 502, "message": "Upstream down"}}, ("server_error", "Upstream down")),
        ({"error": {"code": "429", "message": "Slow"}}, ("rate_limited", "Slow")),
        (
            {
                "object": "error",
                "message": "Engine died",
                "type": "InternalServerError",
                "code": 500,
            },
            ("server_error", "Engine died"),
        ),
        (
            {"object": "error", "message": {"detail": [{"msg": "Bad"}]}, "type": "x", "code": 400},
            ("bad_request", "Bad"),
        ),
        (
            {
                "id": "c",
                "error": {"code": 503, "message": "No provider"},
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
            },
            ("overloaded", "No provider"),
        ),
        (
            {
                "id": "c",
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": ""},
                        "finish_reason": "error",
                        "error": {"code": 504, "message": "Timed out"},
                    }
                ],
            },
            ("server_error", "Timed out"),
        ),
        (
            {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]},
            ("server_error", "The AI provider reported an error"),
        ),
        (
            {"id": "c", "choices": [], "x_groq": {"error": "over capacity"}},
            ("unknown", "over capacity"),
        ),
    ],
)
@pytest.mark.parametrize("tail", [b"", DONE])
def test_errors_in_a_stream_fail_with_their_reason(
    told: dict[str, Any], outcome: tuple[str, str], tail: bytes
) -> None:
    result = stream(TEXT, chunk(**told), tail)
    assert (result.outcome.error_type, result.outcome.error_message) == outcome
    assert result.client == TEXT + chunk(**told) + tail
    assert len(result.prompts) == 1


def test_an_error_may_stand_in_an_event_of_that_name() -> None:
    result = stream(TEXT, b'event: error\ndata: {"message":"Gone","code":500}\n\n')
    assert result.outcome == Outcome("server_error", "Gone")


def test_what_was_used_before_an_error_is_recorded() -> None:
    running = chat_chunk({"content": "a"}, usage=CHAT_USAGE)
    result = stream(running, chunk(error={"message": "x"}))
    assert [(t.output_tokens, t.metadata) for t in result.tokens] == [
        (12, {"usage_complete": False})
    ]


@pytest.mark.parametrize("nothing", [None, "", False, {}])
def test_an_empty_error_is_none(nothing: Any) -> None:
    result = stream(chat_chunk({"content": "a"}, error=nothing), STOP, DONE)
    assert result.outcome == Outcome()


def test_errors_of_blocking_answers_fail_with_their_reason() -> None:
    failed = said(content="")
    failed["choices"][0] |= {"finish_reason": "error", "error": {"code": 502, "message": "Down"}}
    result = blocking(failed)
    assert (result.outcome.error_type, result.outcome.error_message) == ("server_error", "Down")
    assert blocking({"object": "error", "message": "No", "code": 400}).outcome == Outcome(
        "bad_request", "No"
    )


# -- usage


def usage(**fields: Any) -> dict[str, Any]:
    return fields


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # Written to the cache: OpenRouter and OpenAI, Alibaba, LiteLLM.
        (
            usage(
                prompt_tokens=25612,
                completion_tokens=8,
                prompt_tokens_details={"cached_tokens": 0, "cache_write_tokens": 25600},
            ),
            (12, 8, 0, 25600),
        ),
        (
            usage(
                prompt_tokens=100,
                completion_tokens=8,
                prompt_tokens_details={"cached_tokens": 30, "cache_creation_input_tokens": 60},
            ),
            (10, 8, 30, 60),
        ),
        (
            usage(
                prompt_tokens=100,
                completion_tokens=8,
                cache_read_input_tokens=30,
                cache_creation_input_tokens=60,
                prompt_tokens_details={"cached_tokens": 30},
            ),
            (10, 8, 30, 60),
        ),
        # DeepSeek, Kimi.
        (
            usage(
                prompt_tokens=100,
                completion_tokens=8,
                total_tokens=108,
                prompt_cache_hit_tokens=64,
                prompt_cache_miss_tokens=36,
            ),
            (36, 8, 64, 0),
        ),
        (usage(prompt_tokens=100, completion_tokens=8, cached_tokens=64), (36, 8, 64, 0)),
        # vLLM
        (usage(prompt_tokens=100, completion_tokens=8, prompt_tokens_details=None), (100, 8, 0, 0)),
        # The total shows that reasoning comes on top, or that it does not.
        (
            usage(
                prompt_tokens=100,
                completion_tokens=20,
                total_tokens=170,
                completion_tokens_details={"reasoning_tokens": 50},
            ),
            (100, 70, 0, 0),
        ),
        (
            usage(
                prompt_tokens=100,
                completion_tokens=70,
                total_tokens=170,
                completion_tokens_details={"reasoning_tokens": 50},
            ),
            (100, 70, 0, 0),
        ),
        (
            usage(
                prompt_tokens=100,
                completion_tokens=70,
                completion_tokens_details={"reasoning_tokens": 50},
            ),
            (100, 70, 0, 0),
        ),
        (
            usage(prompt_tokens=100, completion_tokens=0, total_tokens=150, reasoning_tokens=50),
            (100, 50, 0, 0),
        ),
        # Gemini's compatible API tells no more than the total.
        (usage(prompt_tokens=20, completion_tokens=198, total_tokens=623), (20, 603, 0, 0)),
        # The total shows that the cache is not in the prompt.
        (
            usage(
                prompt_tokens=10,
                completion_tokens=5,
                total_tokens=105,
                prompt_tokens_details={"cached_tokens": 90},
            ),
            (10, 5, 90, 0),
        ),
        # Others pass Anthropic's names on.
        (usage(input_tokens=7, output_tokens=3), (7, 3, 0, 0)),
    ],
)
def test_usage_is_read_where_vendors_put_it(
    told: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    assert counts(blocking({**CHAT_BODY, "usage": told})) == [expected]
    assert counts(stream(TEXT, STOP, chunk(id="c", choices=[], usage=told), DONE)) == [expected]
    # Kimi and Groq
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": told}
    assert counts(stream(TEXT, chunk(id="c", choices=[choice]), DONE)) == [expected]
    assert counts(stream(TEXT, chat_chunk(finish="stop", x_groq={"usage": told}), DONE)) == [
        expected
    ]


def test_the_same_usage_in_two_places_counts_once() -> None:
    last = chat_chunk(finish="stop", usage=CHAT_USAGE, x_groq={"id": "r", "usage": CHAT_USAGE})
    assert counts(stream(TEXT, last, chunk(id="c", choices=[], usage=CHAT_USAGE), DONE)) == [
        (20, 12, 10, 0)
    ]


METRICS = {
    "amazon-bedrock-invocationMetrics": {
        "inputTokenCount": 7,
        "outputTokenCount": 9,
        "cacheReadInputTokenCount": 2,
        "cacheWriteInputTokenCount": 1,
        "invocationLatency": 400,
    }
}


def test_metrics_of_bedrock_are_never_a_second_total() -> None:
    beside = chunk(id="c", choices=[], usage=CHAT_USAGE, **METRICS)
    assert counts(stream(TEXT, STOP, beside, DONE)) == [(20, 12, 10, 0)]
    behind = chunk(id="c", choices=[], **METRICS)
    usage_chunk = chunk(id="c", choices=[], usage=CHAT_USAGE)
    assert counts(stream(TEXT, STOP, usage_chunk, behind, DONE)) == [(20, 12, 10, 0)]
    assert counts(blocking({**CHAT_BODY, **METRICS})) == [(20, 12, 10, 0)]
    # Where they are all there is, they are better than nothing.
    assert counts(stream(TEXT, STOP, behind, DONE)) == [(7, 9, 2, 1)]


def test_running_totals_go_up_and_down_field_by_field() -> None:
    def running(**told: Any) -> bytes:
        return chat_chunk({"content": "x"}, usage=told)

    result = stream(
        running(prompt_tokens=50, completion_tokens=1, prompt_tokens_details={"cached_tokens": 40}),
        running(prompt_tokens=50, completion_tokens=9, prompt_tokens_details=None),
        running(completion_tokens=7),
        chat_chunk(finish="stop", usage={"completion_tokens": None, "total_tokens": 57}),
        DONE,
    )
    assert counts(result) == [(10, 7, 40, 0)]
    (zero,) = stream(
        running(prompt_tokens=5, completion_tokens=2, prompt_tokens_details={"cached_tokens": 3}),
        running(prompt_tokens=5, completion_tokens=2, prompt_tokens_details={"cached_tokens": 0}),
        STOP,
        DONE,
    ).tokens
    assert (zero.input_tokens, zero.cache_read_input_tokens) == (5, 0)


def test_choices_that_count_for_themselves_are_one_row() -> None:
    def end(index: int, tokens: int) -> bytes:
        told = {"prompt_tokens": 10, "completion_tokens": tokens, "cached_tokens": 4}
        choice = {"index": index, "delta": {}, "finish_reason": "stop", "usage": told}
        return chunk(id="c", choices=[choice])

    texts = chat_chunk({"content": "a"}), chat_chunk({"content": "b"}, index=1)
    assert counts(stream(*texts, end(0, 3), end(1, 5), DONE, n=2)) == [(6, 8, 4, 0)]


def test_what_a_vendor_charges_and_searched_is_kept() -> None:
    told = {
        **CHAT_USAGE,
        "cost": 0.0042,
        "is_byok": False,
        "cost_details": {"upstream_inference_cost": None},
        "server_tool_use": {"web_search_requests": 2},
        "num_sources_used": 5,
        "server_side_tool_usage_details": {"web_search_calls": 3, "x_search_calls": 0},
    }
    (tokens,) = blocking({**CHAT_BODY, "usage": told}).tokens
    assert tokens.metadata == {
        "cost": 0.0042,
        "server_side_tool_usage": {"web_search_calls": 3},
    }
    assert tokens.extra_token_types["web_search_requests"] == 2
    assert tokens.extra_token_types["sources_used"] == 5


# -- tools


def calls(result: Exchange) -> list[tuple[str, str, str]]:
    return [(t.tool_call_id, t.tool, t.input) for t in result.tools]


def part(**members: Any) -> bytes:
    return chat_chunk({"tool_calls": [members]})


@pytest.mark.parametrize("id", [{}, {"id": ""}, {"id": None}])
@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
def test_a_new_name_behind_whole_arguments_is_a_new_call(
    id: dict[str, Any], index: dict[str, Any]
) -> None:
    about = {**id, **index, "type": "function"}

    def given(*parts: dict[str, str]) -> list[tuple[str, str, str]]:
        events = [part(**about, function=each) for each in parts]
        return calls(stream(*events, chat_chunk(finish="tool_calls"), DONE))

    assert given(
        {"name": "read", "arguments": '{"path":'},
        {"arguments": '"a"}'},
        {"name": "write", "arguments": '{"path":"b"}'},
    ) == [("", "read", '{"path":"a"}'), ("", "write", '{"path":"b"}')]
    # The same tool twice, with arguments in one piece or in two.
    assert given(
        {"name": "read", "arguments": '{"path":"a"}'},
        {"name": "read", "arguments": '{"path":'},
        {"arguments": '"b"}'},
    ) == [("", "read", '{"path":"a"}'), ("", "read", '{"path":"b"}')]
    # One that takes none.
    assert given({"name": "now"}, {"name": "read", "arguments": "{}"}) == [
        ("", "now", "null"),
        ("", "read", "{}"),
    ]
    # The name in each part of one call.
    assert given(
        {"name": "read", "arguments": '{"path":'},
        {"name": "read", "arguments": '"a"'},
        {"name": "read", "arguments": "}"},
        {"name": "read", "arguments": ""},
    ) == [("", "read", '{"path":"a"}')]


def test_calls_of_one_chunk_without_numbers_are_told_apart() -> None:
    both = [{"id": i, "function": {"name": "f", "arguments": "{}"}} for i in ("a", "b")]
    result = stream(chat_chunk({"tool_calls": both}), chat_chunk(finish="tool_calls"), DONE)
    assert calls(result) == [("a", "f", "{}"), ("b", "f", "{}")]


def test_an_id_may_come_later_than_the_name() -> None:
    result = stream(
        part(index=0, function={"name": "read", "arguments": ""}),
        part(index=0, id="call_9", function={"arguments": '{"path":"a"}'}),
        part(index=1, function={"name": "write", "arguments": ""}),
        part(index=1, id="call_8", function={"name": "write", "arguments": "{}"}),
        chat_chunk(finish="tool_calls"),
        DONE,
    )
    assert calls(result) == [("call_9", "read", '{"path":"a"}'), ("call_8", "write", "{}")]


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        ({"city": "Ghent", "days": [1, 2]}, '{"city": "Ghent", "days": [1, 2]}'),
        ({}, "{}"),
        ("", "null"),
        (None, "null"),
        ('{"city":"Ghent"}', '{"city":"Ghent"}'),
    ],
)
@pytest.mark.parametrize("index", [0, 3])
def test_arguments_are_an_object_or_its_text(arguments: Any, recorded: str, index: int) -> None:
    call = {"index": index, "id": "a", "function": {"name": "f", "arguments": arguments}}
    whole = said(content=None, tool_calls=[call])
    assert [json.loads(t.input) for t in blocking(whole).tools] == [json.loads(recorded)]
    result = stream(part(**call), chat_chunk(finish="tool_calls"), DONE)
    assert [json.loads(t.input) for t in result.tools] == [json.loads(recorded)]
    assert [t.metadata for t in result.tools] == [{}]


def test_arguments_that_never_came_are_null() -> None:
    call = {"index": 2, "id": "a", "function": {"name": "f"}}
    assert calls(stream(part(**call), chat_chunk(finish="tool_calls"), DONE)) == [
        ("a", "f", "null")
    ]
    assert calls(blocking(said(tool_calls=[call]))) == [("a", "f", "null")]


RAN = {"index": 0, "type": "search", "arguments": '{"query":"x"}'}


def test_tools_that_the_provider_ran_are_recorded() -> None:
    # Groq: told when it begins and when it is done.
    result = stream(
        chat_chunk({"executed_tools": [RAN]}),
        chat_chunk({"executed_tools": [{**RAN, "output": "found"}]}),
        chat_chunk({"executed_tools": [{"index": 1, "type": "python", "arguments": "print(1)"}]}),
        chat_chunk({"content": "a"}, "stop"),
        DONE,
    )
    assert calls(result) == [("", "search", '{"query":"x"}'), ("", "python", '"print(1)"')]
    assert [t.metadata for t in result.tools] == [{"type": "executed_tools"}] * 2
    assert calls(blocking(said(content="a", executed_tools=[RAN]))) == [
        ("", "search", '{"query":"x"}')
    ]


def test_a_search_shows_by_what_is_cited() -> None:
    cited = [{"type": "url_citation", "url_citation": {"url": f"https://x/{n}"}} for n in (1, 2)]
    file = [{"type": "file", "file": {"name": "x.pdf"}}]
    result = stream(
        chat_chunk({"content": "a", "annotations": cited}),
        chat_chunk({"annotations": cited}, "stop"),
        DONE,
    )
    assert calls(result) == [("", "web_search", "null")]
    assert [t.metadata for t in result.tools] == [{"type": "url_citation"}]
    assert calls(blocking(said(content="a", annotations=cited))) == [("", "web_search", "null")]
    assert calls(blocking(said(content="a", annotations=file))) == []


# -- thoughts


def thinks(*parts: str) -> list[dict[str, Any]]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": p}]} for p in parts]


THINKING: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "reasoning_content",
        [{"reasoning_content": "First", "content": None}, {"reasoning_content": " this"}],
    ),
    ("reasoning", [{"reasoning": "First", "content": ""}, {"reasoning": " this"}]),
    # Under both names it is one thought.
    (
        "reasoning_content",
        [{"reasoning": t, "reasoning_content": t, "content": ""} for t in ("First", " this")],
    ),
    (
        "reasoning",
        [
            {"reasoning": t, "reasoning_details": [{"type": "reasoning.text", "text": t}]}
            for t in ("First", " this")
        ],
    ),
    (
        "reasoning_details",
        [
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "First"}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "c2VjcmV0"}]},
            {"reasoning_details": [{"type": "reasoning.text", "text": " this"}, 5]},
        ],
    ),
    ("thinking_blocks", [{"thinking_blocks": [{"type": "thinking", "thinking": "First this"}]}]),
    ("thinking", [{"content": thinks("First")}, {"content": [*thinks(" this"), {"type": "text"}]}]),
    (
        "thought",
        [
            {"content": t, "extra_content": {"google": {"thought": True}}}
            for t in ("First", " this")
        ],
    ),
]


@pytest.mark.parametrize(("source", "deltas"), THINKING)
def test_what_a_model_thinks_aloud_is_one_thought(source: str, deltas: list[Any]) -> None:
    result = stream(*map(chat_chunk, deltas), TEXT, STOP, DONE)
    assert [(t.content, t.metadata) for t in result.thoughts] == [
        ("First this", {"source": source})
    ]
    assert result.outcome == Outcome()
    whole: dict[str, Any] = {"content": None}
    for name in {name for delta in deltas for name in delta} - {"content"}:
        given = [delta[name] for delta in deltas if name in delta]
        whole[name] = (
            given[0] if isinstance(given[0], dict) else functools.reduce(operator.add, given)
        )
    said_of = [delta["content"] for delta in deltas if delta.get("content")]
    if said_of:
        whole["content"] = functools.reduce(operator.add, said_of)
    assert [(t.content, t.metadata) for t in blocking(said(**whole)).thoughts] == [
        ("First this", {"source": source})
    ]


@pytest.mark.parametrize(
    "nothing",
    [
        {"content": "<think>First this</think>Hi"},
        {"content": "Hi", "reasoning_content": ""},
        {"content": "Hi", "reasoning": None, "reasoning_details": []},
        {"content": [{"type": "text", "text": "Hi"}]},
        {"content": "Hi", "reasoning": {"effort": "high"}},
        {"content": "Hi", "extra_content": {"google": {"thought_signature": "x"}}},
    ],
)
def test_text_and_nothing_are_no_thoughts(nothing: dict[str, Any]) -> None:
    assert stream(chat_chunk(nothing), STOP, DONE).thoughts == []
    assert blocking(said(**nothing)).thoughts == []


def test_each_choice_has_its_thought() -> None:
    result = stream(
        chat_chunk({"reasoning_content": "a"}),
        chat_chunk({"reasoning_content": "x"}, index=1),
        chat_chunk({"reasoning_content": "b"}),
        chat_chunk({"content": "."}),
        chat_chunk({"reasoning_content": "y"}, "stop", index=1),
        chat_chunk({"reasoning_content": "c"}, "stop"),
        DONE,
        n=2,
    )
    assert [t.content for t in result.thoughts] == ["xy", "abc"]


@pytest.mark.parametrize("end", ["cut", "left", "unframed"])
def test_a_thought_that_was_cut_off_is_recorded_as_such(end: str) -> None:
    result = stream(*[chat_chunk({"reasoning_content": w}) for w in "abcd"], end=end)
    assert [(t.content, t.metadata) for t in result.thoughts] == [
        ("abcd", {"source": "reasoning_content", "truncated": True})
    ]


@pytest.mark.parametrize("blank", ["", " "])
def test_texts_of_many_like_chunks_are_taken_exactly(blank: str) -> None:
    words = ["Ghent\n", '"', "\\", "é\u00e9", "", "\U0001f600", '\\"', "}", '{"a" 1}', "end"]

    def like(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return chat_chunk(delta, finish).replace(b'":', b'":' + blank.encode())

    arguments = json.dumps({"words": words, "more": {"a": [1, "x"]}})
    pieces = [arguments[at : at + 3] for at in range(0, len(arguments), 3)]
    events = [
        *[like({"reasoning_content": word}) for word in words],
        *[like({"content": word}) for word in words],
        like(call_delta(0, "call_1", "first", "")),
        *[like(call_delta(0, None, None, piece)) for piece in pieces],
        like(call_delta(1, "call_2", "second", "")),
        *[like(call_delta(1, None, None, piece)) for piece in pieces],
        *[like({"reasoning_content": word}) for word in words],
        like({}, "tool_calls"),
        DONE,
    ]
    data = b"".join(events)
    for reads in ([data], in_pieces(data, [7] * len(data))):
        result = exchange("chat-completions", CHAT_REQUEST, reads)
        assert result.client == data
        assert [t.content for t in result.thoughts] == ["".join(words * 2)]
        assert [(t.tool, json.loads(t.input)) for t in result.tools] == [
            ("first", json.loads(arguments)),
            ("second", json.loads(arguments)),
        ]


def test_a_chunk_that_only_begins_and_ends_like_text_is_read() -> None:
    # The same head and tail as the chunks of text before, with a call in between.
    text = chat_chunk({"content": "a", "refusal": None})
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    odd = chat_chunk({"content": "x", "tool_calls": [call], "role": "", "refusal": None})
    head, tail = text.split(b"a", 1)[0], text[-40:]
    assert odd.startswith(head[:80])
    assert odd.endswith(tail)
    result = stream(text, text, odd, chat_chunk(finish="tool_calls"), DONE)
    assert calls(result) == [("a", "f", "{}")]


# -- framing


@pytest.mark.parametrize("step", [1, 5, 10_000])
@pytest.mark.parametrize(
    "dress",
    [
        lambda data: data.replace(b"data: ", b"data:"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"data: ", b"event: message\ndata: "),
        lambda data: data.replace(b"data: ", b"id: 7\ndata: "),
        lambda data: data.replace(b"data: ", b": OPENROUTER PROCESSING\n\ndata: "),
        lambda data: data.replace(b"\n\n", b"\n"),
    ],
)
def test_streams_are_read_in_any_dress(step: int, dress: Any) -> None:
    plain = b"".join(chat_chunk({"reasoning_content": w}) for w in "abc") + CHAT_STREAM
    data = dress(plain)
    request = {**CHAT_REQUEST, "stream_options": {"include_usage": True}}
    result = exchange("chat-completions", request, in_pieces(data, [step] * (len(data) // step)))
    assert result.client == data
    assert result.records == exchange("chat-completions", request, plain).records
    assert [t.content for t in result.thoughts] == ["abc"]
    assert result.interception.complete


def test_a_whole_completion_may_be_the_only_event() -> None:
    result = stream(chunk(**CHAT_BODY), DONE)
    assert calls(result) == [("call_1", "weather", '{"city":"Ghent"}')]
    # One that repeats what was streamed says nothing new.
    assert calls(stream(CHAT_TEXT, chunk(**CHAT_BODY), DONE)) == [
        ("call_1", "weather", '{"city":"Ghent"}')
    ]
