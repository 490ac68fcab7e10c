"""Injected tools behind vendors who speak Chat Completions in their own way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_what_providers_send import DONE, chunk, data_of, delta, opened, play, play_whole

from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.values.records import ModelThought, PromptUsage, TokenUsage, ToolUsage


def part(**members: Any) -> bytes:
    return chunk(delta(tool_calls=[members]))


def rounds(*parts: bytes) -> Any:
    """What the model says and is told in the second round, and what the client sees."""
    loop = opened("chat-completions", stream=True)
    shown = play(loop, *parts, chunk(delta("tool_calls")), DONE)
    return loop, json.loads(loop.upstream_body())["messages"][1:], data_of(shown)


def tools_of(loop: InjectedInterception) -> list[ToolUsage]:
    return [each for each in loop.take_records() if isinstance(each, ToolUsage)]


def function(arguments: Any = None, name: str | None = "bmcp_s_add") -> dict[str, Any]:
    given = {"name": name, "arguments": arguments}
    return {member: value for member, value in given.items() if value is not None}


@pytest.mark.parametrize("about", [{"index": 0}, {"index": 0, "id": ""}, {}])
def test_calls_without_numbers_and_ids_are_told_apart(about: dict[str, Any]) -> None:
    loop, (said, *results), shown = rounds(
        part(**about, function=function('{"a":')),
        part(**about, function=function("1}", None)),
        part(**about, function=function('{"a":2}')),
    )
    assert shown == []
    assert [call["function"] for call in said["tool_calls"]] == [
        {"name": "bmcp_s_add", "arguments": '{"a":1}'},
        {"name": "bmcp_s_add", "arguments": '{"a":2}'},
    ]
    # The provider is to know which result belongs to which call.
    ids = [call["id"] for call in said["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(ids)
    assert [each["tool_call_id"] for each in results] == ids
    assert [each.input for each in tools_of(loop)] == ['{"a":1}', '{"a":2}']


def test_own_calls_among_injected_ones_of_the_same_number_keep_their_parts() -> None:
    loop = opened("chat-completions", stream=True)
    shown = data_of(
        play(
            loop,
            part(index=0, function=function('{"a":1}')),
            part(index=0, function=function('{"x":', "mine")),
            part(index=0, function=function("2}", None)),
            chunk(delta("tool_calls")),
            DONE,
        )
    )
    given = [call for each in shown for call in each["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["function"].get("name") for call in given] == ["mine", None]
    assert "".join(call["function"]["arguments"] for call in given) == '{"x":2}'
    assert {(each.tool, each.input) for each in tools_of(loop)} == {
        ("add", '{"a":1}'),
        ("mine", '{"x":2}'),
    }


@pytest.mark.parametrize("arguments", [None, ""])
@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("streaming", [True, False])
def test_arguments_that_never_came_are_null_and_sent_back_as_none(
    arguments: str | None, index: int, streaming: bool
) -> None:
    call = {"index": index, "id": "call_1", "function": function(arguments)}
    if streaming:
        loop, (said, _result), _shown = rounds(part(**call))
    else:
        loop = opened("chat-completions")
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        play_whole(loop, {"choices": [{"message": message, "finish_reason": "tool_calls"}]})
        said, _result = json.loads(loop.upstream_body())["messages"][1:]
    assert said["tool_calls"][0]["function"]["arguments"] == (
        "{}" if streaming or arguments is None else ""
    )
    assert [each.input for each in tools_of(loop)] == ["null"]


@pytest.mark.parametrize("streaming", [True, False])
def test_arguments_may_be_an_object(streaming: bool) -> None:
    call = {"index": 0, "id": "call_1", "function": function({"a": 1})}
    if streaming:
        loop, (said, _result), _shown = rounds(part(**call))
        assert said["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    else:
        loop = opened("chat-completions")
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        play_whole(loop, {"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert [json.loads(each.input) for each in tools_of(loop)] == [{"a": 1}]


@pytest.mark.parametrize("unset", ["", "null"])
def test_an_empty_finish_reason_ends_nothing(unset: str) -> None:
    call = {"index": 0, "id": "call_1", "function": function('{"a"')}
    more = {"index": 0, "function": function(":1}", None)}
    loop, (said, result), shown = rounds(
        chunk(delta(unset, content="Let me see")),
        chunk(delta(unset, tool_calls=[call])),
        chunk(delta(unset, tool_calls=[more])),
    )
    assert said["content"] == "Let me see"
    assert [call["function"]["arguments"] for call in said["tool_calls"]] == ['{"a":1}']
    assert result["tool_call_id"] == "call_1"
    assert [each["choices"][0]["delta"] for each in shown] == [{"content": "Let me see"}]
    assert [(each.tool, each.input) for each in tools_of(loop)] == [("add", '{"a":1}')]


def test_thoughts_and_prompts_and_usage_of_all_rounds_are_recorded() -> None:
    loop = opened("chat-completions", stream=True)
    call = {"index": 0, "id": "call_1", "function": function("{}")}
    for round_events in (
        [chunk(delta(reasoning_content="Add it.")), part(**call), chunk(delta("tool_calls"))],
        [chunk(delta(reasoning_content="Done.")), chunk(delta("length", content="5"))],
    ):
        told = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        play(loop, *round_events, chunk(usage=told), DONE)
    records = loop.take_records()
    assert [r.content for r in records if isinstance(r, ModelThought)] == ["Add it.", "Done."]
    assert [r.prompt for r in records if isinstance(r, PromptUsage)] == ["hi"]
    tokens = [r for r in records if isinstance(r, TokenUsage)]
    assert [(t.input_tokens, t.output_tokens) for t in tokens] == [(10, 5), (10, 5)]
    assert [t.metadata for t in tokens] == [{}, {"stop_reason": "length"}]
    assert loop.outcome().metadata == {"stop_reason": "length"}


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "cached_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "cost": 0.25,
    "is_byok": False,
}
DOUBLED = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "cached_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
    "cost": 0.5,
    "is_byok": False,
}


@pytest.mark.parametrize("place", ["usage", "choice", "x_groq"])
def test_the_client_sees_the_usage_of_all_rounds_wherever_a_vendor_puts_it(place: str) -> None:
    def end(reason: str) -> bytes:
        if place == "choice":
            return chunk({**delta(reason), "usage": USAGE})
        return chunk(delta(reason), **({"x_groq": {"usage": USAGE}} if place == "x_groq" else {}))

    def seen(last: dict[str, Any]) -> Any:
        if place == "choice":
            return last["choices"][0]["usage"]
        return last["x_groq"]["usage"] if place == "x_groq" else last["usage"]

    loop = opened("chat-completions", stream=True, stream_options={"include_usage": True})
    call = {"index": 0, "id": "call_1", "function": function("{}")}
    extra = [chunk(usage=USAGE)] if place == "usage" else []
    play(loop, part(**call), end("tool_calls"), *extra, DONE)
    shown = data_of(play(loop, chunk(delta(content="5")), end("stop"), *extra, DONE))
    assert seen(shown[-1]) == DOUBLED
    tokens = [r for r in loop.take_records() if isinstance(r, TokenUsage)]
    assert [(t.input_tokens, t.cache_read_input_tokens) for t in tokens] == [
        (4, 4),
        (4, 4),
    ]


def test_thinking_parts_before_text_are_given_back_in_order() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    call = {"index": 0, "id": "call_1", "function": function("{}")}
    _loop, (said, _result), _shown = rounds(
        chunk(delta(role="assistant", content="")),
        chunk(delta(content=[thinking])),
        chunk(delta(content="Let me ")),
        chunk(delta(content="see.")),
        part(**call),
    )
    assert said["content"] == [thinking, {"type": "text", "text": "Let me see."}]


def test_an_error_inside_of_a_choice_runs_nothing() -> None:
    loop = opened("chat-completions", stream=True)
    call = {"index": 0, "id": "call_1", "function": function("{}")}
    failed = {**delta("error"), "error": {"code": 502, "message": "Down"}}
    play(loop, part(**call), chunk(failed), DONE)
    assert not loop.goes_on
    assert (loop.outcome().error_type, loop.outcome().error_message) == ("server_error", "Down")
    assert [bool(each.invocation_error) for each in tools_of(loop)] == [True]


def test_a_call_and_the_reason_to_finish_in_one_chunk_do_not_reach_the_client() -> None:
    """The model calls although it was asked for words: that is then the end of the answer."""
    loop = opened("chat-completions", max_rounds=1, stream=True)
    whole = chunk(delta("tool_calls", tool_calls=[{"index": 0, "function": function("{}")}]))
    play(loop, whole, DONE)
    shown = play(loop, whole, DONE)
    assert not loop.calls
    assert not loop.goes_on
    assert b"bmcp_s_add" not in shown
    (last,) = data_of(shown)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in last["choices"][0]["delta"]
