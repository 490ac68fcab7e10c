"""Answers of Bedrock as the client sees them and as they are recorded."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import frozen
from aws_imitation import FRAMES, chunk_frame, error_frame, exception_frame
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.interception.interface import Interception
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.values.records import PromptUsage, TokenUsage, ToolUsage, UsageRecord

NOW = 1_700_000_000.5
REQUEST = {
    "model": "claude-x",
    "max_tokens": 100,
    "stream": True,
    "messages": [{"role": "user", "content": "Good morning."}],
}
EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {"id": "msg_bdrk_1", "usage": {"input_tokens": 10, "output_tokens": 4}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10}},
]
STREAM = b"".join(map(chunk_frame, EVENTS))
SSE = b"".join(
    b"event: %s\ndata: %s\n\n"
    % (event["type"].encode(), json.dumps(event, separators=(",", ":")).encode())
    for event in EVENTS
)
BODY = {
    "id": "msg_bdrk_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi"}],
    "usage": {"input_tokens": 10, "output_tokens": 10},
}


def bedrock(status: int = 200, kind: str = FRAMES, **headers: str) -> BedrockInterception:
    inner = open_interception("messages", id="int-1", body=json.dumps(REQUEST).encode())
    found = BedrockInterception(inner, "beddel")
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    found.begin_answer(status, [("Content-Type", kind), ("Content-Length", "77"), *more])
    return found


@frozen
class Seen:
    client: bytes
    records: Sequence[UsageRecord]
    interception: Interception

    @property
    def tokens(self) -> list[tuple[str, int, int]]:
        return [
            (r.msg_id, r.input_tokens, r.output_tokens)
            for r in self.records
            if isinstance(r, TokenUsage)
        ]

    @property
    def error(self) -> tuple[str | None, str | None]:
        outcome = self.interception.outcome()
        return outcome.error_type, outcome.error_message


def feed(interception: BedrockInterception, *pieces: bytes, end: str = "framed") -> Seen:
    client = b"".join(interception.receive_data(piece, NOW) for piece in pieces)
    if end == "cut":
        client += interception.receive_cut("connection reset", NOW)
    elif end == "left":
        interception.receive_lost_client(NOW)
    else:
        client += interception.receive_end(NOW, framed=end == "framed")
    return Seen(client, interception.take_records(), interception)


# -- before the answer


def test_it_is_the_interception_of_the_request_under_another_model() -> None:
    inner = open_interception("messages", id="int-1", body=json.dumps(REQUEST).encode())
    found: Interception = BedrockInterception(inner, "beddel")
    assert (found.id, found.model, found.streaming) == ("int-1", "beddel", True)
    assert (found.correlating_tool_call_id, found.refusal, found.event_stream) == (
        None,
        None,
        False,
    )
    assert json.loads(found.upstream_body()) == REQUEST
    assert (found.cut, found.complete, found.keepalive()) == (False, False, b"")
    assert found.error_body(400, "no") == inner.error_body(400, "no")


# -- streams


def test_frames_become_the_event_stream_of_anthropics_api() -> None:
    found = bedrock()
    assert found.event_stream
    seen = feed(found, STREAM)
    assert seen.client == SSE
    assert seen.tokens == [("msg_bdrk_1", 10, 10)]
    assert [r.prompt for r in seen.records if isinstance(r, PromptUsage)] == ["Good morning."]
    assert seen.error == (None, None)
    assert (found.complete, found.cut) == (True, False)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_boundaries_of_reads_do_not_matter(splits: list[int]) -> None:
    places = [0, *sorted(splits), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    seen = feed(bedrock(), *pieces)
    assert seen.client == SSE
    assert len(seen.tokens) == 1


def test_events_leave_as_soon_as_their_frame_is_whole() -> None:
    found = bedrock()
    first = chunk_frame(EVENTS[0])
    assert found.receive_data(first[:-1], NOW) == b""
    assert found.receive_data(first[-1:], NOW) == SSE[: SSE.index(b"\n\n") + 2]
    assert found.keepalive() != b""


def test_the_clients_headers_fit_what_it_gets() -> None:
    found = bedrock(x_amzn_RequestId="r")
    headers = [
        ("content-type", FRAMES),
        ("Content-Length", "5"),
        ("x-amzn-RequestId", "r"),
        ("content-encoding", "gzip"),
    ]
    assert found.answer_headers(headers) == [
        ("Content-Type", "text/event-stream"),
        ("x-amzn-RequestId", "r"),
    ]


def test_a_tool_call_is_recorded() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    events = [
        EVENTS[0],
        {"type": "content_block_start", "index": 0, "content_block": call},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
        },
        {"type": "content_block_stop", "index": 0},
        *EVENTS[4:],
    ]
    seen = feed(bedrock(), b"".join(map(chunk_frame, events)))
    (tool,) = [r for r in seen.records if isinstance(r, ToolUsage)]
    assert (tool.tool, tool.tool_call_id, tool.input) == ("Read", "toolu_1", '{"a":1}')


# -- streams that go wrong


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        (exception_frame("throttlingException", "slow down"), "rate_limited", "slow down"),
        (exception_frame("modelTimeoutException", "late"), "timeout", "late"),
        (error_frame("Internal", "oh no"), "server_error", "received error Internal: oh no"),
    ],
)
def test_an_error_frame_ends_the_stream_as_an_error(frame: bytes, kind: str, text: str) -> None:
    seen = feed(bedrock(), chunk_frame(EVENTS[0]) + frame)
    assert seen.client.count(b"event: error\n") == 1
    assert text.encode() in seen.client
    assert seen.error[0] == kind
    assert text in (seen.error[1] or "")
    assert seen.tokens == [("msg_bdrk_1", 10, 4)]


def test_a_damaged_frame_is_a_cut() -> None:
    found = bedrock()
    bad = bytearray(chunk_frame(EVENTS[1]))
    bad[30] ^= 1
    seen = feed(found, chunk_frame(EVENTS[0]) + bytes(bad), b"more", STREAM)
    assert seen.client.startswith(SSE[: SSE.index(b"\n\n") + 2] + b"event: error\n")
    assert b"damaged" in seen.client
    assert seen.client.count(b"event: ") == 2
    assert found.cut
    assert not found.complete
    assert seen.error[0] == "server_error"


def test_an_end_inside_a_frame_is_a_cut() -> None:
    found = bedrock()
    seen = feed(found, STREAM[:-5])
    assert found.cut
    assert seen.client.count(b"event: error\n") == 1
    assert seen.error[0] == "server_error"


@pytest.mark.parametrize("end", ["cut", "unframed"])
def test_a_stream_that_breaks_off_ends_with_an_error_event(end: str) -> None:
    found = bedrock()
    seen = feed(found, chunk_frame(EVENTS[0]), end=end)
    assert seen.client.count(b"event: error\n") == 1
    assert found.cut


def test_a_client_that_left_leaves_incomplete_usage() -> None:
    seen = feed(bedrock(), chunk_frame(EVENTS[0]), end="left")
    assert seen.tokens == [("msg_bdrk_1", 10, 4)]
    assert seen.interception.cut


# -- other answers


def test_a_blocking_answer_passes_as_it_is() -> None:
    found = bedrock(kind="application/json")
    body = json.dumps(BODY).encode()
    headers = [("Content-Length", "77")]
    assert found.answer_headers(headers) is headers
    seen = feed(found, body[:10], body[10:])
    assert seen.client == body
    assert seen.tokens == [("msg_bdrk_1", 10, 10)]
    assert not found.event_stream


def test_a_plain_event_stream_passes_as_it_is() -> None:
    seen = feed(bedrock(kind="text/event-stream"), SSE)
    assert seen.client == SSE
    assert len(seen.tokens) == 1


def test_a_web_page_is_refused() -> None:
    found = bedrock(kind="text/html")
    assert found.refusal is not None
    assert found.refusal[0] == 502


# -- errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "recorded"),
    [
        (400, b'{"message":"bad"}', "invalid_request_error", "bad", "bad_request"),
        (403, b'{"Message":"not you"}', "permission_error", "not you", "unauthorized"),
        (429, b'{"message":"slow"}', "rate_limit_error", "slow", "rate_limited"),
        (503, b"overloaded", "overloaded_error", "overloaded", "server_error"),
        (307, b"", "api_error", "The AI provider answered with HTTP status 307", "unknown"),
    ],
)
def test_an_error_of_aws_gets_anthropics_shape(
    status: int, body: bytes, kind: str, message: str, recorded: str
) -> None:
    found = bedrock(status, "application/json")
    assert dict(found.answer_headers([("Content-Length", "5"), ("x-amzn-ErrorType", "T")])) == {
        "Content-Type": "application/json",
        "x-amzn-ErrorType": "T",
    }
    seen = feed(found, body[:3], body[3:])
    assert json.loads(seen.client) == {
        "type": "error",
        "error": {"type": kind, "message": message},
    }
    assert seen.error == (recorded, message)


def test_an_error_in_anthropics_shape_passes() -> None:
    body = b'{"type":"error", "error":{"type":"x","message":"m"}}'
    seen = feed(bedrock(400), body)
    assert seen.client == body


def test_an_endless_error_is_not_kept() -> None:
    found = bedrock(500, "text/plain")
    seen = feed(found, *[b"x" * 500_000] * 5)
    assert len(seen.client) < 1_200_000


def test_an_error_that_breaks_off_is_recorded_with_what_it_said() -> None:
    seen = feed(bedrock(400), b'{"message":"bad"}', end="cut")
    assert seen.error == ("bad_request", "bad")
    assert feed(bedrock(400), b'{"message":"b"}', end="left").error == ("bad_request", "b")


# -- content codings


def test_encoded_frames_are_decoded() -> None:
    seen = feed(bedrock(Content_Encoding="gzip"), gzip.compress(STREAM))
    assert seen.client == SSE
    zipped = gzip.compress(b'{"message":"bad"}')
    assert b'"bad"' in feed(bedrock(400, Content_Encoding="gzip"), zipped).client


def test_a_coding_that_is_broken_or_unknown_is_a_cut() -> None:
    found = bedrock(Content_Encoding="gzip")
    assert b"content coding" in feed(found, b"no gzip at all", b"and more").client
    assert found.cut
    found = bedrock(Content_Encoding="unknown")
    assert b"damaged" in feed(found, gzip.compress(STREAM)).client
    assert found.cut
