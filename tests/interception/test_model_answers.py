"""Texts of answers: recorded where they are asked for, of each API, whole and cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interception_answers import (
    MESSAGE_STOP,
    REQUESTS,
    RESPONSE_CREATED,
    RESPONSE_USAGE,
    chat_chunk,
    item_done,
    message_delta,
    message_start,
    response,
    text_block,
    thinking_block,
    tool_block,
)
from interception_driver import (
    APIS,
    EVENT_STREAM,
    JSON,
    NOW,
    Exchange,
    begin,
    chunk,
    event,
    finish,
    open_one,
)
from pieces import in_pieces

from aigateway.actors.values.records import ModelAnswer

PARTS = ["It is ", "raining", ' in "Ghent" \\ ', "ünd ☂", "."] * 3
TEXT = "".join(PARTS)


def run(
    api: str,
    answer: bytes,
    *,
    keep: bool = True,
    end: str = "framed",
    content_type: str = EVENT_STREAM,
    size: int = 1 << 20,
    request: Any = None,
) -> Exchange:
    opened: Any = open_one(api, request or REQUESTS[api])
    if keep:
        opened.keep_answers()
    begin(opened, content_type)
    reads = in_pieces(answer, [size] * (len(answer) // size + 1))
    return finish(opened, b"".join(opened.receive_data(read, NOW) for read in reads), end)


def answers(done: Exchange) -> list[tuple[str, bool]]:
    """Each text, and whether it is all of it."""
    return [
        (each.content, "truncated" not in each.metadata)
        for each in done.records
        if isinstance(each, ModelAnswer)
    ]


def delta(index: int, text: str, number: int, item: int = 0) -> bytes:
    return event(
        "response.output_text.delta",
        item_id=f"msg_{item}",
        output_index=index,
        content_index=0,
        delta=text,
        logprobs=[],
        obfuscation="x" * (number % 5),
        sequence_number=number,
    )


def said(text: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_0", "role": "assistant", "content": content, **more}


def gemini(*parts: dict[str, Any], reason: str | None = None) -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return chunk(candidates=[candidate], responseId="r-1", usageMetadata={"totalTokenCount": 3})


BEGUN = {
    "messages": message_start()
    + thinking_block(0, "hm ", "so")
    + text_block(1, *PARTS[:-1]).removesuffix(event("content_block_stop", index=1)),
    "chat-completions": chat_chunk({"role": "assistant", "content": ""})
    + b"".join(chat_chunk({"content": each}) for each in PARTS[:-1]),
    "responses": RESPONSE_CREATED
    + b"".join(delta(0, each, number) for number, each in enumerate(PARTS[:-1])),
    "gemini": b"".join(gemini({"text": each}) for each in PARTS[:-1]),
}
LAST = {
    "messages": event(
        "content_block_delta", index=1, delta={"type": "text_delta", "text": PARTS[-1]}
    )
    + event("content_block_stop", index=1)
    + tool_block(2, "toolu_1", "weather", '{"city":', '"Ghent"}')
    + message_delta()
    + MESSAGE_STOP,
    "chat-completions": chat_chunk({"content": PARTS[-1]})
    + chat_chunk({}, "stop")
    + b"data: [DONE]\n\n",
    "responses": delta(0, PARTS[-1], 99)
    + item_done(0, said(TEXT))
    + event(
        "response.completed",
        response=response(status="completed", output=[said(TEXT)], usage=RESPONSE_USAGE),
    ),
    "gemini": gemini({"text": PARTS[-1]}, reason="STOP"),
}
BODIES: dict[str, Any] = {
    "messages": {
        "id": "msg_1",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": TEXT}],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "chat-completions": {
        "id": "chatcmpl-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    },
    "responses": response(status="completed", output=[said(TEXT)], usage=RESPONSE_USAGE),
    "gemini": {
        "candidates": [
            {"content": {"parts": [{"text": TEXT}]}, "finishReason": "STOP", "index": 0}
        ],
        "responseId": "r-1",
    },
}


@pytest.mark.parametrize("size", [1 << 20, 1, 17])
@pytest.mark.parametrize("api", APIS)
def test_the_text_of_a_stream_is_recorded_once_and_whole(api: str, size: int) -> None:
    done = run(api, BEGUN[api] + LAST[api], size=size)
    assert answers(done) == [(TEXT, True)]
    assert done.outcome.error_type is None


@pytest.mark.parametrize("api", APIS)
def test_the_text_of_a_body_is_recorded(api: str) -> None:
    request = {**REQUESTS[api], "stream": False}
    body = json.dumps(BODIES[api]).encode()
    assert answers(run(api, body, content_type=JSON, request=request)) == [(TEXT, True)]


@pytest.mark.parametrize("end", ["cut", "left", "unframed"])
@pytest.mark.parametrize("api", APIS)
def test_what_came_of_a_stream_that_is_cut_is_recorded_as_cut(api: str, end: str) -> None:
    assert answers(run(api, BEGUN[api], end=end)) == [("".join(PARTS[:-1]), False)]


@pytest.mark.parametrize("api", APIS)
def test_nothing_of_an_answer_is_recorded_unless_it_is_asked_for(api: str) -> None:
    kept, plain = (run(api, BEGUN[api] + LAST[api], keep=keep) for keep in (True, False))
    assert answers(plain) == []
    assert [each for each in kept.records if not isinstance(each, ModelAnswer)] == plain.records
    assert kept.client == plain.client


@pytest.mark.parametrize("api", [api for api in APIS if api != "gemini"])
def test_a_further_answer_to_the_same_request_is_recorded_too(api: str) -> None:
    opened: Any = open_one(api, REQUESTS[api])
    opened.keep_answers()
    again = begin(opened.another())
    done = finish(again, again.receive_data(BEGUN[api] + LAST[api], NOW))
    assert answers(done) == [(TEXT, True)]


def test_texts_of_several_blocks_stay_apart_and_in_their_order() -> None:
    stream = (
        message_start()
        + text_block(0, "one ", "two ", "three")
        + tool_block(1, "toolu_1", "weather", '{"a":', "1", "}")
        + text_block(2, "four ", "five")
        + message_delta()
        + MESSAGE_STOP
    )
    done = run("messages", stream)
    assert answers(done) == [("one two three", True), ("four five", True)]
    assert [each.input for each in done.tools] == ['{"a":1}']


def test_thoughts_and_calls_are_read_as_without_the_short_way() -> None:
    thought = [f"step {number} \\n" for number in range(20)]
    arguments = ['{"text": "', *(f"{number}\\u00e9 " for number in range(20)), '"}']
    stream = (
        message_start()
        + thinking_block(0, *thought)
        + tool_block(1, "toolu_1", "write", *arguments)
        + message_delta()
        + MESSAGE_STOP
    )
    for size in (1 << 20, 13):
        done = run("messages", stream, keep=False, size=size)
        assert [each.content for each in done.thoughts] == ["".join(thought)]
        assert [each.input for each in done.tools] == ["".join(arguments)]


def test_each_choice_of_a_completion_is_an_answer() -> None:
    def of(index: int, text: str) -> bytes:
        choices = [{"index": index, "delta": {"content": text}}]
        return chunk(id="chatcmpl-1", choices=choices)

    ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in (0, 1)]
    stream = b"".join(of(n % 2, f"{n} ") for n in range(20)) + chunk(id="c", choices=ends)
    done = run("chat-completions", stream + b"data: [DONE]\n\n", request={
        **REQUESTS["chat-completions"], "n": 2,
    })  # fmt: skip
    assert answers(done) == [
        ("".join(f"{n} " for n in range(0, 20, 2)), True),
        ("".join(f"{n} " for n in range(1, 20, 2)), True),
    ]


def test_a_role_in_each_chunk_does_not_hide_the_text() -> None:
    stream = b"".join(
        chat_chunk({"role": "assistant", "content": each}) for each in ("", "a", "b", "c")
    )
    done = run("chat-completions", stream + chat_chunk({}, "stop") + b"data: [DONE]\n\n")
    assert answers(done) == [("abc", True)]


def test_refusals_are_answers() -> None:
    stream = chat_chunk({"refusal": "I will "}) + chat_chunk({"refusal": "not"})
    done = run("chat-completions", stream + chat_chunk({}, "stop") + b"data: [DONE]\n\n")
    assert answers(done) == [("I will not", True)]
    refused = said("") | {"content": [{"type": "refusal", "refusal": "I will not"}]}
    body = response(status="completed", output=[refused], usage=RESPONSE_USAGE)
    done = run("responses", json.dumps(body).encode(), content_type=JSON)
    assert answers(done) == [("I will not", True)]


def test_a_commentary_is_a_thought_and_no_answer() -> None:
    output = [said("looking", phase="commentary"), said("found", phase="final_answer")]
    body = response(status="completed", output=output, usage=RESPONSE_USAGE)
    done = run("responses", json.dumps(body).encode(), content_type=JSON)
    assert [each.content for each in done.thoughts] == ["looking"]
    assert answers(done) == [("found", True)]


def test_a_response_that_tells_its_text_in_deltas_alone_is_recorded_whole() -> None:
    stream = RESPONSE_CREATED + b"".join(delta(0, f"{n} ", n) for n in range(10_000))
    stream += event(
        "response.completed",
        response=response(status="completed", output=[], usage=RESPONSE_USAGE),
    )
    assert answers(run("responses", stream)) == [("".join(f"{n} " for n in range(10_000)), True)]


def test_of_a_cut_response_the_finished_item_and_the_begun_one_are_told() -> None:
    stream = (
        RESPONSE_CREATED
        + delta(0, "whole", 1)
        + item_done(0, said("whole"))
        + delta(1, "hal", 2, item=1)
    )
    assert answers(run("responses", stream, end="cut")) == [("whole", True), ("hal", False)]


def test_a_thought_in_the_place_of_an_answer_is_no_answer() -> None:
    stream = b"".join(
        chat_chunk({"content": text, "extra_content": {"google": {"thought": thought}}})
        for text, thought in (("hm", True), ("yes", False))
    )
    done = run("chat-completions", stream + chat_chunk({}, "stop") + b"data: [DONE]\n\n")
    assert [each.content for each in done.thoughts] == ["hm"]
    assert answers(done) == [("yes", True)]
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "yes"},
    ]
    done = run(
        "chat-completions",
        chat_chunk({"content": parts}) + chat_chunk({}, "stop") + b"data: [DONE]\n\n",
    )
    assert [each.content for each in done.thoughts] == ["hm"]
    assert answers(done) == [("yes", True)]


def test_a_very_long_text_is_kept_up_to_a_limit() -> None:
    stream = message_start() + text_block(0, *["x" * 1_000_000] * 5) + message_delta()
    done = run("messages", stream + MESSAGE_STOP)
    ((text, whole),) = answers(done)
    assert (len(text), whole) == (4 * 1024 * 1024, False)
