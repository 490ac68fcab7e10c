"""What the first bytes of a 200 tell: whether it is an answer, at any split of the bytes."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from aws_imitation import chunk_frame, exception_frame

from aigateway.actors.providers.beginning import EVENT_LIMIT, HOLD_LIMIT, Beginning

SSE = [("Content-Type", "text/event-stream")]
JSON = [("Content-Type", "application/json")]
START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'

STREAMS: dict[str, tuple[bytes, str | None]] = {
    # All of a stream, and what is wrong with it.
    "messages": (START, None),
    "chat": (b'data: {"choices":[],"error":null}\n\n', None),
    "responses": (b'event: response.created\ndata: {"type":"response.created"}\n\n', None),
    "an unknown event": (b"event: new\ndata: {}\n\n", None),
    "lines instead of events": (b'data: {"a":1}\ndata: {"a":2}\ndata: {"a":3}\n', None),
    "no blank line at the end": (START.rstrip(), None),
    "an error of Anthropic": (b"event: error\ndata: " + OVERLOADED + b"\n\n", "error_event"),
    "an error without a name": (b"data: " + OVERLOADED + b"\n\n", "error_event"),
    "an error behind a ping": (
        b'event: ping\ndata: {"type": "ping"}\n\n: c\n\ndata: ' + OVERLOADED + b"\n\n",
        "error_event",
    ),
    "an error of OpenAI": (b'data: {"error":{"message":"x","code":500}}\n\n', "error_event"),
    "an error that is a text": (b'data: {"error":"boom"}\n\n', "error_event"),
    "an error event of Responses": (
        b'event: error\ndata: {"type":"error","code":"server_error","message":"x"}\n\n',
        "error_event",
    ),
    "a response that failed": (
        b'data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n',
        "error_event",
    ),
    "an error as a document": (OVERLOADED, "error_event"),
    "a limit": (b'data: {"error":{"type":"rate_limit_error"}}\n\n', "error_event"),
    "the client's fault": (b'data: {"error":{"type":"invalid_request_error"}}\n\n', None),
    "an error after the beginning": (START + b"data: " + OVERLOADED + b"\n\n", None),
    "nothing": (b"", "empty"),
    "blanks": (b"\n\n", "empty"),
    "comments": (b": c\n\n: c\n\n", "empty"),
    "an end without a beginning": (b"data: [DONE]\n\n", "empty"),
    "half a document": (b'data: {"type":"mess\n\n', "bad_answer"),
    "words": (b"upstream connect error", "bad_answer"),
    "a page": (b"<!doctype html><p>", "bad_answer"),
    "a document": (b'{"id":"msg_1"}', "bad_answer"),
}

DOCUMENTS: dict[str, tuple[bytes, str | None]] = {
    "an answer": (b'{"id":"msg_1","error":null}', None),
    "an answer behind blanks": (b' \n \n{"id":"msg_1"}', None),
    "an error": (OVERLOADED, "error_event"),
    "the client's fault": (b'{"error":{"code":"context_length_exceeded"}}', None),
    "nothing": (b"", "empty"),
    "blanks": (b" \n ", "empty"),
    "half of one": (b'{"id":"ms', "bad_answer"),
    "a stream": (START, "bad_answer"),
    "a page": (b"<html>", "bad_answer"),
}


def verdict(data: bytes, headers: Any, size: int, **how: Any) -> str | None:
    beginning = Beginning(headers, **how)
    for at in range(0, len(data), size):
        beginning.feed(data[at : at + size])
    beginning.end()
    assert beginning.over or beginning.bad is None
    return beginning.bad.fault if beginning.bad is not None else None


sizes = pytest.mark.parametrize("size", [1, 7, 10_000])


@sizes
@pytest.mark.parametrize(("data", "fault"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_judged_by_its_first_event(data, fault, size):
    assert verdict(data, SSE, size, streaming=True) == fault
    coded = [*SSE, ("Content-Encoding", "gzip")]
    if data:
        assert verdict(gzip.compress(data), coded, size, streaming=True) == fault


ARRAYS: dict[str, tuple[bytes, str | None]] = {
    "an element": (b'[{"candidates":[]}\n,', None),
    "an element behind marks and blanks": (b'\xef\xbb\xbf\r\n[ {"candidates":[]}', None),
    "an error": (b'[{"error":{"code":503,"message":"busy"}}]', "error_event"),
    "the client's fault": (b'[{"error":{"code":400,"message":"no"}}]', None),
    "an error after the beginning": (b'[{"a":1},{"error":{"code":503}}]', None),
    "no element": (b"[]", "empty"),
    "half an element": (b'[{"candidates":', "empty"),
    "what is no JSON": (b"[{oops}", "bad_answer"),
    "a document": (b'{"candidates":[]}', "bad_answer"),
    "an event": (b"data: {}\n\n", None),
}


@sizes
@pytest.mark.parametrize(("data", "fault"), ARRAYS.values(), ids=ARRAYS.keys())
def test_a_stream_that_may_be_an_array_is_judged_by_its_first_element(data, fault, size):
    assert verdict(data, JSON, size, streaming=True, arrays=True) == fault
    if data.startswith(b"["):
        # Of an API that has no such streams it is a document.
        assert verdict(data, JSON, size, streaming=True) == "bad_answer"


def test_an_array_is_known_with_its_first_element():
    beginning = Beginning(JSON, streaming=True, arrays=True)
    beginning.feed(b'[{"candidates":[]')
    assert not beginning.over
    beginning.feed(b"}")
    assert beginning.over
    assert beginning.bad is None


@sizes
@pytest.mark.parametrize(("data", "fault"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_blocking_answer_is_judged_as_a_whole(data, fault, size):
    assert verdict(data, JSON, size, streaming=False) == fault


@sizes
def test_awss_frames_are_judged_like_the_events_in_them(size):
    headers = [("Content-Type", "application/vnd.amazon.eventstream")]
    cases = {
        chunk_frame({"type": "message_start"}): None,
        exception_frame("serviceUnavailableException", "busy"): "error_event",
        exception_frame("validationException", "too long"): None,
        b"no frame at all, and long enough": "bad_answer",
        b"": "empty",
    }
    for data, fault in cases.items():
        assert verdict(data, headers, size, streaming=True, converted=True) == fault


def test_a_good_beginning_is_known_with_its_first_event():
    beginning = Beginning(SSE, streaming=True)
    beginning.feed(START[:-1])
    assert not beginning.over
    beginning.feed(START[-1:])
    assert beginning.over
    assert beginning.bad is None


def test_a_page_is_known_by_its_label_and_words_by_their_first_bytes():
    page = Beginning([("Content-Type", "text/html; charset=utf-8")], streaming=False)
    assert page.bad is not None
    assert "text/html" in page.bad.message
    words = Beginning(JSON, streaming=False)
    words.feed(b"upstream")
    assert words.bad is not None


@pytest.mark.parametrize("streaming", [True, False])
def test_what_is_long_or_in_an_unknown_coding_is_not_held_back(streaming):
    long = Beginning(SSE if streaming else JSON, streaming=streaming)
    long.feed(b'data: {"a":"' if streaming else b'{"a":"')
    while not long.over:
        long.feed(b"x" * 4096)
    assert long.bad is None
    assert long._size < (EVENT_LIMIT if streaming else HOLD_LIMIT) + 8192
    assert Beginning([("Content-Encoding", "new")], streaming=streaming).over


def test_what_breaks_off_is_bad_unless_all_of_it_was_there():
    for held, fault in ((b'{"a":', "broke_off"), (b'{"a":1}', None), (b"", "broke_off")):
        beginning = Beginning(JSON, streaming=False)
        beginning.feed(held)
        beginning.cut("reset")
        assert (beginning.bad.fault if beginning.bad else None) == fault
