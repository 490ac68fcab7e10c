from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st
from interception_answers import (
    BODIES,
    CHAT_TEXT,
    DONE,
    GEMINI_ARRAY,
    MESSAGES_STREAM,
    REQUESTS,
    RESPONSES_STREAM,
    STREAMS,
    USAGE_CHUNK,
    chat_chunk,
    gemini_answer,
    message_start,
)
from interception_driver import (
    APIS,
    EVENT_STREAM,
    JSON,
    NOW,
    begin,
    chunk,
    event,
    exchange,
    open_one,
)
from pieces import in_pieces
from request_bodies import documents

from aigateway.actors.codec.sse import EventReader, parse_event
from aigateway.actors.interception import InvalidRequest, open_interception
from aigateway.actors.values.records import UsageRecord

ASKED = {"stream_options": {"include_usage": True}}


def events(data: bytes) -> list[tuple[bytes, bytes]]:
    reader = EventReader()
    pieces = [*reader.feed(data), reader.flush()]
    return [parsed for piece in pieces if any(parsed := parse_event(piece))]


UNREADABLE = b"\xff\xfe"


def without_doubt(records: list[UsageRecord]) -> list[UsageRecord]:
    """The records without a word on whether usage is complete."""
    return [
        evolve(each, metadata={k: v for k, v in each.metadata.items() if k != "usage_complete"})
        for each in records
    ]


_noise = st.sampled_from(
    [
        b": comment\n\n",
        b"\n",
        b"event: unknown\ndata: {}\n\n",
        b"data: {\ndata: }\n\n",
        b"id: 1\nretry: 5\n\n",
        b"data:\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data: " + UNREADABLE + b"\n\n",
    ]
)
_sizes = st.lists(st.integers(1, 300), max_size=200)


@st.composite
def _streams(draw: st.DrawFn) -> tuple[str, bytes]:
    """A whole stream of some API with noise between its events and any line ends."""
    api = draw(st.sampled_from(APIS))
    parts = STREAMS[api].split(b"\n\n")[:-1]
    noise = draw(st.lists(st.tuples(st.integers(0, len(parts)), _noise), max_size=6))
    stream = b""
    for place, part in enumerate(parts):
        stream += b"".join(each for at, each in noise if at == place) + part + b"\n\n"
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    return api, bom + stream.replace(b"\n", end)


@given(_streams(), _sizes)
def test_streams_are_relayed_exactly_and_read_however_they_arrive(
    stream: tuple[str, bytes], sizes: list[int]
) -> None:
    api, data = stream
    request = {**REQUESTS[api], **ASKED}
    expected = exchange(api, request, STREAMS[api]).records
    for reads in ([data], in_pieces(data, sizes), [data[i : i + 1] for i in range(len(data))]):
        result = exchange(api, request, reads)
        assert result.client == data
        if UNREADABLE not in data:
            assert result.records == expected
        # Who cannot read an event cannot know that it told no usage.
        assert without_doubt(result.records) == expected
        assert result.interception.complete


@given(_streams(), _sizes, st.integers(0, 5000))
def test_wherever_a_stream_is_cut_the_records_do_not_depend_on_the_reads(
    stream: tuple[str, bytes], sizes: list[int], at: int
) -> None:
    api, data = stream
    request = {**REQUESTS[api], **ASKED}
    whole = exchange(api, request, data[:at], end="cut")
    in_reads = exchange(api, request, in_pieces(data[:at], sizes), end="cut")
    byte_by_byte = exchange(api, request, [data[i : i + 1] for i in range(at)], end="cut")
    assert whole.records == in_reads.records == byte_by_byte.records
    assert whole.outcome == in_reads.outcome == byte_by_byte.outcome
    assert events(whole.client) == events(in_reads.client) == events(byte_by_byte.client)


@given(_sizes, st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_the_withheld_chunk_is_the_only_difference(sizes: list[int], end: bytes) -> None:
    sent = (CHAT_TEXT + USAGE_CHUNK + DONE).replace(b"\n", end)
    expected = (CHAT_TEXT + DONE).replace(b"\n", end)
    result = exchange("chat-completions", REQUESTS["chat-completions"], in_pieces(sent, sizes))
    assert result.client == expected


@given(documents, st.sampled_from(APIS))
def test_requests_leave_as_they_came(document: bytes, api: str) -> None:
    assert open_one(api, document).upstream_body() == document


@given(documents, st.sampled_from(APIS), _sizes, st.sampled_from([200, 400, 500]))
def test_answers_of_any_json_are_relayed_exactly(
    document: bytes, api: str, sizes: list[int], status: int
) -> None:
    reads = in_pieces(document, sizes)
    result = exchange(api, REQUESTS[api], reads, content_type=JSON, status=status)
    assert result.client == document


_DAMAGE = [
    *(b"null", b"{", b"}", b"[", b"]", b"[]", b'"', b"1e400", b"-5", b"\\ud800", b"\x0b"),
    *(b"\n", b"\n\n", b"\r", b"\r\n", b"\ndata: ", b"\ndata: {}\n", b": comment\n", b"event: x\n"),
    *(b"oops\n", b'\n{"error": {"code": 503, "message": "full"}}\n', b"data: [DONE]\n"),
]


def _mutated(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.integers(0, 30)))
        if draw(st.booleans()):
            # Where lines end is where most of it is decided.
            at = end = changed.find(b"\n", at) + 1
        changed[at:end] = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(_DAMAGE),
            )
        )
    return bytes(changed)


@st.composite
def _damaged(draw: st.DrawFn) -> tuple[str, str, bytes]:
    api = draw(st.sampled_from(APIS))
    content_type = draw(st.sampled_from([EVENT_STREAM, JSON]))
    answer = STREAMS[api] if content_type == EVENT_STREAM else BODIES[api]
    if api == "gemini" and content_type == JSON and draw(st.booleans()):
        answer = GEMINI_ARRAY
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    blank_line = draw(st.sampled_from([b"\n\n", b"\n\n", b"\n"]))
    answer = answer.replace(b"\n\n", blank_line).replace(b"\n", end)
    return api, content_type, _mutated(draw, answer)


@given(_damaged(), _sizes, st.sampled_from(["framed", "unframed", "cut", "left"]))
def test_damage_is_relayed_and_never_raises(
    damaged: tuple[str, str, bytes], sizes: list[int], end: str
) -> None:
    api, content_type, answer = damaged
    request = {**REQUESTS[api], **ASKED}
    whole = exchange(api, request, answer, content_type=content_type, end=end)
    results = [whole]
    for reads in (in_pieces(answer, sizes), [answer[i : i + 1] for i in range(len(answer))]):
        arrived = exchange(api, request, reads, content_type=content_type, end=end)
        assert events(whole.client) == events(arrived.client)
        assert whole.records == arrived.records
        assert whole.outcome == arrived.outcome
        results.append(arrived)
    for result in results:
        if end == "left":
            # Half an event at the end is held back, and nobody is there any more to get it.
            assert answer.startswith(result.client)
        elif not result.interception.cut:
            assert result.client == answer
    for record in whole.records:
        # Every character of it can travel.
        json.dumps(asdict(record), ensure_ascii=False).encode()


_TOLD = b'{"error": {"code": 503, "message": "full"}}\n'
_HALF = b'event: content_block_delta\ndata: {"half": "\n\n'
_DAMAGED_STREAMS = {
    "an error between two events that one line end separates": lambda first, second: (
        first + b"\n" + _TOLD + second + b"\n\n"
    ),
    "such events, and later an error behind an event's data": lambda first, second: (
        first + b"\n" + second + b"\n\n" + second + b"\n" + _TOLD + b"\n"
    ),
    "such events, of which later ones are broken": lambda first, second: (
        first + b"\n" + second + b"\n\ndata: {\ndata: }\n\n"
    ),
    "an error behind a comment": lambda first, second: (
        first + b"\n\n: comment\n" + _TOLD + second + b"\n\n"
    ),
    "an error behind a line of no meaning": lambda first, second: (
        first + b"\n\noops\n" + _TOLD + second + b"\n\n"
    ),
    "half an event behind blank lines": lambda first, second: (
        first + b"\n\n\n\n" + _HALF + second + b"\n\n"
    ),
    "half an event behind a comment": lambda first, second: (
        first + b"\n\n: comment\n" + _HALF + second + b"\n\n"
    ),
    "a line of no meaning behind an event's data, and all kinds of line ends": (
        lambda first, second: first + b"\rl\n\r\n" + second + b"\n\r\n"
    ),
}


@pytest.mark.parametrize("end", ["framed", "cut"])
@pytest.mark.parametrize("damage", _DAMAGED_STREAMS)
@pytest.mark.parametrize("api", APIS)
def test_what_a_damaged_stream_means_does_not_depend_on_its_reads(
    api: str, damage: str, end: str
) -> None:
    first, second = STREAMS[api].split(b"\n\n")[:2]
    stream = _DAMAGED_STREAMS[damage](first, second)
    request = {**REQUESTS[api], **ASKED}
    whole = exchange(api, request, stream, end=end)
    byte_by_byte = exchange(api, request, [stream[i : i + 1] for i in range(len(stream))], end=end)
    assert whole.records == byte_by_byte.records
    assert whole.outcome == byte_by_byte.outcome


@pytest.mark.parametrize("element", [b"[]", b"]", b"[[]]", b"{"])
@pytest.mark.parametrize("first", [True, False])
def test_what_a_damaged_array_means_does_not_depend_on_its_reads(
    element: bytes, first: bool
) -> None:
    chunk, rest = GEMINI_ARRAY[1:].split(b"\n,\n", 1)
    before, behind = (b"", chunk + b",") if first else (chunk + b",", b"")
    array = b"[" + before + element + b"," + behind + rest
    whole = exchange("gemini", REQUESTS["gemini"], array, content_type=JSON)
    reads = [array[i : i + 1] for i in range(len(array))]
    byte_by_byte = exchange("gemini", REQUESTS["gemini"], reads, content_type=JSON)
    assert whole.records == byte_by_byte.records
    assert whole.outcome == byte_by_byte.outcome


@given(st.data(), st.sampled_from(APIS))
def test_damaged_requests_are_refused_or_leave_as_they_came(data: Any, api: str) -> None:
    body = _mutated(data.draw, json.dumps({**REQUESTS[api], **ASKED}).encode())
    try:
        interception = open_interception(api, id="1", body=body)
    except InvalidRequest as ex:
        json.loads(ex.body)
        return
    if api != "chat-completions":
        assert interception.upstream_body() == body
    json.dumps([interception.model, interception.correlating_tool_call_id]).encode()


def test_a_megabyte_of_prompt_leaves_as_it_came_and_is_recorded() -> None:
    prompt = 'Repeat: "\\u00e9" \N{GRINNING FACE}\n' * 50_000
    request = {**REQUESTS["messages"], "messages": [{"role": "user", "content": prompt}]}
    body = json.dumps(request, ensure_ascii=False, indent=1).encode()
    interception = open_one("messages", body)
    assert interception.upstream_body() == body
    result = exchange("messages", body, MESSAGES_STREAM)
    assert [p.prompt for p in result.prompts] == [prompt]


_DELTAS = {
    "messages": event("content_block_delta", delta={"type": "text_delta", "text": "x" * 400}),
    "chat-completions": chat_chunk({"content": "x" * 400}),
    "responses": event("response.output_text.delta", delta="x" * 400),
    "gemini": chunk(**gemini_answer({"text": "x" * 400})),
}
_STARTS = {
    "messages": message_start(),
    "chat-completions": chat_chunk({"content": ""}),
    "responses": RESPONSES_STREAM.partition(b"\n\n")[0] + b"\n\n",
    "gemini": chunk(**gemini_answer({"text": ""})),
}


@pytest.mark.parametrize("size", [1000, 16_384])
@pytest.mark.parametrize("api", APIS)
def test_a_long_stream_costs_no_memory(api: str, size: int) -> None:
    interception = begin(open_one(api, REQUESTS[api]))
    interception.receive_data(_STARTS[api], NOW)
    data = _DELTAS[api] * 100
    reads = [data[at : at + size] for at in range(0, len(data), size)]
    tracemalloc.start()
    try:
        for _ in range(100):
            for read in reads:
                interception.receive_data(read, NOW)
        _current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000


@pytest.mark.parametrize("api", APIS)
def test_a_long_body_is_kept_once(api: str) -> None:
    body = json.dumps({**json.loads(BODIES[api]), "padding": "x" * 8_000_000}).encode()
    interception = begin(open_one(api, REQUESTS[api]), JSON)
    tracemalloc.start()
    try:
        for at in range(0, len(body), 65_536):
            interception.receive_data(body[at : at + 65_536], NOW)
        interception.receive_end(NOW)
        _current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(interception.take_records()) > 1
    # A buffer that grows is copied now and then, with some room to spare.
    assert peak < 2.5 * len(body)
