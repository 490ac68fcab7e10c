"""Embeddings, images, sound, moderations and ranks: what is recorded of calls without a talk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interception_driver import (
    EVENT_STREAM,
    JSON,
    Exchange,
    begin,
    event,
    exchange,
    finish,
    open_one,
)
from request_bodies import FILE, form

from aigateway.actors.interception import InvalidRequest
from aigateway.actors.interception.estimate import LONGEST_OUTPUT, MADE_PICTURE, most_used

CALL = "model-call"
FORM = (("Content-Type", "multipart/form-data; boundary=xYz"),)
EMBED = {"model": "embed-imaginary", "input": ["a", "b"]}
DRAW = {"model": "image-imaginary", "prompt": "a cat on a pin"}
SOUND = bytes(range(256)) * 40


def call(document: Any, request: Any = EMBED, **more: Any) -> Exchange:
    answer = document if isinstance(document, bytes) else json.dumps(document).encode()
    result = exchange(CALL, request, answer, **{"content_type": JSON, **more})
    assert more.get("end") == "left" or result.client == answer
    return result


def tokens(result: Exchange) -> tuple[list[int], dict[str, int], bool]:
    """The counts of the only record, those of other kinds, and whether they are all."""
    (told,) = result.tokens
    counts = [told.input_tokens, told.output_tokens, told.cache_read_input_tokens]
    complete = told.metadata.get("usage_complete", True)
    return counts, dict(told.extra_token_types), bool(complete)


@pytest.mark.parametrize(
    ("usage", "counts", "extra"),
    [
        # Embeddings of OpenAI, ranks of vLLM and Jina.
        ({"prompt_tokens": 8, "total_tokens": 8}, [8, 0, 0], {}),
        ({"total_tokens": 56}, [56, 0, 0], {}),
        # Images.
        (
            {
                "input_tokens": 50,
                "output_tokens": 272,
                "total_tokens": 322,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens_details": {"image_tokens": 270, "text_tokens": 2},
            },
            [50, 272, 0],
            {"prompt_image": 40, "completion_image": 270},
        ),
        # Transcriptions by the token and by the second.
        (
            {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                "output_tokens": 45,
                "total_tokens": 59,
            },
            [14, 45, 0],
            {"prompt_audio": 14},
        ),
        ({"type": "duration", "seconds": 8.2}, [0, 0, 0], {"audio_seconds": 9}),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}},
            [5, 0, 4],
            {},
        ),
    ],
)
def test_usage_is_read_as_each_kind_of_model_tells_it(
    usage: dict[str, Any], counts: list[int], extra: dict[str, int]
) -> None:
    result = call({"model": "embed-imaginary", "usage": usage})
    assert tokens(result) == (counts, extra, True)
    assert result.outcome.error_type is None
    assert result.prompts == []


def test_cohere_tells_what_it_bills_beside_the_ranks() -> None:
    ranked = {"results": [{"index": 1}], "meta": {"billed_units": {"search_units": 2}}}
    assert tokens(call(ranked)) == ([0, 0, 0], {"search_units": 2}, True)


@pytest.mark.parametrize(
    "usage", [{"seconds": -1}, {"seconds": "9"}, {"seconds": True}, {}, 7, None]
)
def test_usage_that_says_nothing_leaves_the_cost_unknown(usage: Any) -> None:
    told = usage if not isinstance(usage, dict) else {"type": "duration", **usage}
    counts, extra, _ = tokens(call({"data": [], "usage": told}))
    assert (counts, extra) == ([0, 0, 0], {})
    assert tokens(call({"data": []})) == ([0, 0, 0], {}, False)


def test_a_picture_has_its_prompt_and_written_tokens_are_those_of_pictures() -> None:
    usage = {"input_tokens": 5, "output_tokens": 200}
    result = call({"data": [{"b64_json": "aGk="}], "usage": usage}, DRAW)
    assert [each.prompt for each in result.prompts] == ["a cat on a pin"]
    assert tokens(result) == ([5, 200, 0], {"completion_image": 200}, True)
    older = call({"data": [{"url": "https://x.test"}, {"url": "https://y.test"}]}, DRAW)
    assert tokens(older) == ([0, 0, 0], {"images": 2}, True)


def test_moderations_cost_nothing_and_are_not_counted() -> None:
    answer = json.dumps({"results": [{"flagged": False}]}).encode()
    result = exchange("moderation", {"input": "x"}, answer, content_type=JSON)
    assert result.tokens == []
    assert result.outcome.error_type is None


def test_an_error_costs_nothing() -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error"}}
    for status in (200, 400):
        result = call(error, status=status)
        assert result.tokens == []
        assert result.outcome.error_message == "no"


# -- sound, text and other bytes


@pytest.mark.parametrize("content_type", ["audio/mpeg", "text/plain; charset=utf-8", "image/png"])
def test_what_nobody_reads_is_relayed_at_once_and_not_kept(content_type: str) -> None:
    interception = begin(open_one(CALL, EMBED), content_type)
    for at in range(0, len(SOUND), 100):
        assert interception.receive_data(SOUND[at : at + 100], 1.0) == SOUND[at : at + 100]
    assert not interception._kept  # type: ignore[attr-defined]
    result = finish(interception)
    assert interception.complete
    assert not interception.cut
    assert result.outcome.error_type is None
    assert tokens(result) == ([0, 0, 0], {}, False)


def test_text_that_looks_like_events_stays_text() -> None:
    result = call(b"data: {\n\n", content_type="text/plain")
    assert not result.interception.event_stream
    assert result.outcome.metadata == {}


@pytest.mark.parametrize("end", ["unframed", "cut", "left"])
def test_sound_that_breaks_off_is_cut(end: str) -> None:
    result = call(SOUND, content_type="audio/wav", end=end)
    assert result.outcome.error_type is not None
    assert result.interception.cut
    assert tokens(result)[2] is False


# -- streams

DONE = {
    "image_generation.completed": {
        "b64_json": "aGk=",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    },
    "speech.audio.done": {"usage": {"input_tokens": 3, "output_tokens": 9}},
    "transcript.text.done": {"text": "hi", "usage": {"input_tokens": 3, "output_tokens": 9}},
}
DRAFT = event("image_generation.partial_image", b64_json="aGk=", partial_image_index=0)


@pytest.mark.parametrize("kind", DONE)
def test_a_stream_ends_with_what_it_has_cost(kind: str) -> None:
    stream = DRAFT + event(kind, **DONE[kind])
    whole = call(stream, {**DRAW, "stream": True}, content_type=EVENT_STREAM)
    byte_by_byte = exchange(
        CALL, {**DRAW, "stream": True}, [stream[i : i + 1] for i in range(len(stream))]
    )
    for result in (whole, byte_by_byte):
        assert result.client == stream
        assert tokens(result)[0] == [3, 9, 0]
        assert result.interception.complete


@pytest.mark.parametrize("end", ["framed", "unframed", "cut"])
def test_a_stream_without_its_last_event_never_looks_complete(end: str) -> None:
    result = exchange(CALL, {**DRAW, "stream": True}, DRAFT, end=end)
    assert result.interception.cut
    assert json.loads(result.client.rpartition(b"data: ")[2])["error"]["message"]
    assert tokens(result) == ([0, 0, 0], {}, False)


def test_an_error_in_a_stream_is_the_outcome() -> None:
    stream = DRAFT + event("error", error={"message": "full", "type": "rate_limit_error"})
    result = exchange(CALL, {**DRAW, "stream": True}, stream)
    assert (result.outcome.error_type, result.outcome.error_message) == ("rate_limited", "full")


# -- requests


def test_a_stream_is_asked_for_in_three_ways() -> None:
    sound = (FILE, SOUND)
    streamed = form(('name="stream"', b"true"), sound)
    for asked, streaming in (
        ({**EMBED, "stream": True}, True),
        ({**EMBED, "stream_format": "sse"}, True),
        ({**EMBED, "stream_format": "audio"}, False),
        (EMBED, False),
    ):
        assert open_one(CALL, asked).streaming is streaming
    assert open_one(CALL, streamed, headers=FORM).streaming
    assert not open_one(CALL, form(sound), headers=FORM).streaming


def test_a_form_is_read_and_leaves_as_it_came() -> None:
    body = form(
        ('name="model"', b"listen-imaginary"), ('name="prompt"', b"Ghent, pins"), (FILE, SOUND)
    )
    interception = open_one(CALL, body, headers=FORM)
    assert interception.model == "listen-imaginary"
    assert interception.upstream_body() == body
    heard = finish(begin(interception, "text/plain"))
    # How words are spelt in a recording is nothing that anybody asks.
    assert heard.prompts == []
    picture = 'name="image[]"; filename="a.png"'
    drawn = form(('name="prompt"', b"more cats"), (picture, SOUND))
    result = finish(begin(open_one(CALL, drawn, headers=FORM), JSON))
    assert [each.prompt for each in result.prompts] == ["more cats"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", ()),
        (b"{", ()),
        (b"{}", FORM),
        (form(('name="model"', b"a"), ('name="model"', b"b")), FORM),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, headers: Any) -> None:
    with pytest.raises(InvalidRequest) as found:
        open_one(CALL, body, headers=headers)
    assert json.loads(found.value.body)["error"]["message"].startswith("request body is ")


# -- what a request may use at most


@pytest.mark.parametrize(
    ("request_body", "output"),
    [
        (EMBED, 0),
        ({"model": "m", "query": "q", "documents": ["a"]}, 0),
        (DRAW, MADE_PICTURE),
        ({**DRAW, "n": 3}, 3 * MADE_PICTURE),
        ({"model": "m", "input": "Hello.", "voice": "alloy"}, LONGEST_OUTPUT),
        (form((FILE, SOUND)), LONGEST_OUTPUT),
    ],
)
def test_only_what_makes_something_may_cost_output(request_body: Any, output: int) -> None:
    body = request_body if isinstance(request_body, bytes) else json.dumps(request_body).encode()
    assert most_used("model-call", body).output_tokens == output
