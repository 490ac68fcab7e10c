"""Answers of MCP servers are read alike however their bytes arrive."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.mcp import answers
from aigateway.actors.mcp.answers import AnswerReader, Expect, Notification, ServerRequest
from aigateway.actors.mcp.errors import (
    BadAnswer,
    HttpRefused,
    McpError,
    RpcRefused,
    SessionLost,
    StreamCut,
    Unauthorized,
    Unreachable,
)

JSON = [("Content-Type", "application/json; charset=utf-8")]
STREAM = [("content-type", "text/event-stream")]


def rpc(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


def event(data: bytes, *lines: str) -> bytes:
    return b"".join(line.encode() + b"\n" for line in lines) + b"data: " + data + b"\n\n"


ANSWER = rpc(id=7, result={"content": []})
STREAMED = (
    b": hello\n\n"
    + event(b"", "id: e1")
    + event(rpc(method="notifications/progress", params={}), "event: message", "id: e2")
    + event(rpc(id="s1", method="ping"), "retry: 1500")
    + event(b"not for us", "event: other")
    + event(rpc(id=99, result={"for": "somebody else"}))
    + event(ANSWER, "id: e3")
    + event(rpc(method="notifications/late"))
)
NOTICES = [Notification("notifications/progress"), ServerRequest("ping", b'"s1"')]


def read(pieces: list[bytes], reader: AnswerReader, status: int = 200, headers=STREAM):
    reader.begin(status, headers)
    notices = []
    for piece in pieces:
        notices += reader.receive(piece)
    notices += reader.end()
    return notices


def error_of(reader: AnswerReader) -> McpError:
    with pytest.raises(McpError) as caught:
        reader.result()
    return caught.value


@pytest.mark.parametrize("split", ["whole", "bytes"])
@pytest.mark.parametrize(
    ("body", "headers", "notices"), [(ANSWER, JSON, []), (STREAMED, STREAM, NOTICES)]
)
def test_an_answer_is_read_from_json_and_from_a_stream(split, body, headers, notices):
    pieces = [body] if split == "whole" else [body[i : i + 1] for i in range(len(body))]
    reader = AnswerReader(7)
    assert read(pieces, reader, headers=headers) == notices
    assert json.loads(reader.result()) == {"content": []}


@given(st.sets(st.integers(1, len(STREAMED) - 1)), st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_stream_may_be_split_anywhere_and_use_any_line_end(cuts, line_end):
    stream = STREAMED.replace(b"\n", line_end.encode())
    edges = [0, *sorted(cuts), len(stream)]
    reader = AnswerReader(7)
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert read(pieces, reader) == NOTICES
    assert json.loads(reader.result()) == {"content": []}
    assert (reader.last_event_id, reader.retry) == ("e3", 1.5)


@given(st.binary(max_size=200), st.sampled_from([JSON, STREAM, []]), st.integers(100, 599))
def test_rubbish_raises_nothing_but_errors_of_ours(body, headers, status):
    reader = AnswerReader(1)
    read([body], reader, status, headers)
    with pytest.raises(McpError):
        reader.result()


def test_ids_as_text_are_ours_too():
    reader = AnswerReader(7)
    read([rpc(id="7", result={})], reader, headers=JSON)
    assert reader.result() == b"{}"


def test_a_batch_is_read_message_by_message():
    batch = json.dumps(
        [
            {"jsonrpc": "2.0", "method": "notifications/message"},
            {"jsonrpc": "2.0", "id": 7, "result": {}},
        ]
    ).encode()
    reader = AnswerReader(7)
    assert read([batch], reader, headers=JSON) == [Notification("notifications/message")]
    assert reader.result() == b"{}"


@pytest.mark.parametrize("second", [{"result": {"n": 2}}, {"error": {"code": 1}}])
def test_the_first_answer_counts(second):
    answers = [{"jsonrpc": "2.0", "id": 7, **fields} for fields in ({"result": {}}, second)]
    reader = AnswerReader(7)
    read([json.dumps(answers).encode()], reader, headers=JSON)
    assert reader.result() == b"{}"


def test_a_json_rpc_error_is_raised_with_its_code_and_data():
    body = rpc(id=7, error={"code": -32602, "message": "no\n such tool", "data": {"a": 1}})
    for status in (200, 400, 404):
        reader = AnswerReader(7)
        read([body], reader, status, JSON)
        error = error_of(reader)
        assert isinstance(error, RpcRefused)
        assert (error.code, error.status, json.loads(error.data)) == (-32602, status, {"a": 1})
        assert str(error) == "MCP error -32602: no such tool"


def test_an_error_without_id_answers_the_request():
    reader = AnswerReader(7)
    read([rpc(id=None, error={"code": -32700, "message": "x"})], reader, headers=JSON)
    assert isinstance(error_of(reader), RpcRefused)


def test_long_texts_of_a_server_are_shortened():
    reader = AnswerReader(7)
    read([rpc(id=7, error={"code": 1, "message": "x" * 10_000})], reader, headers=JSON)
    assert len(str(error_of(reader))) < 600


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"5",
        b"[" * 100_000,
        rpc(id=8, result={}),
        rpc(id=7),
        rpc(id=7, error="gone"),
        b'{"id": 7, "result"',
    ],
)
def test_what_is_no_answer_is_refused(body):
    reader = AnswerReader(7)
    read([body], reader, headers=JSON)
    assert isinstance(error_of(reader), BadAnswer)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(202, []), (200, [("Content-Type", "text/html")]), (200, [("Content-Encoding", "odd")])],
)
def test_an_answer_of_another_kind_is_refused(status, headers):
    reader = AnswerReader(7)
    reader.begin(status, headers)
    assert reader.answered
    assert reader.receive(b"x") == []
    assert reader.end() == []
    assert isinstance(error_of(reader), BadAnswer)


def test_a_broken_event_ends_a_call_but_not_a_stream_of_changes():
    stream = event(b"{") + event(ANSWER)
    call = AnswerReader(7)
    read([stream], call)
    assert isinstance(error_of(call), BadAnswer)
    changes = AnswerReader(7, Expect.STREAM)
    changes.begin(200, STREAM)
    notices = changes.receive(event(b"{") + event(rpc(method="notifications/x")))
    assert notices == [Notification("notifications/x")]
    assert not changes.answered


def test_a_stream_of_changes_must_be_a_stream():
    reader = AnswerReader(None, Expect.STREAM)
    read([ANSWER], reader, headers=JSON)
    assert isinstance(error_of(reader), BadAnswer)


def test_without_an_id_nothing_is_an_answer():
    reader = AnswerReader(None, Expect.STREAM)
    reader.begin(200, STREAM)
    assert reader.receive(event(rpc(id=0, result={}))) == []
    assert not reader.answered


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b'{"id":7', JSON), (event(b"", "id: e9", "retry: 20", "retry: x") + b"data: {", STREAM)],
)
def test_a_cut_connection_is_reported(body, headers):
    reader = AnswerReader(7)
    reader.begin(200, headers)
    reader.receive(body)
    reader.cut("the connection broke")
    error = error_of(reader)
    assert str(error) == "the connection broke"
    if headers is JSON:
        assert type(error) is Unreachable
    else:
        assert isinstance(error, StreamCut)
        assert (error.last_event_id, error.retry) == ("e9", 0.02)


def test_a_stream_that_ends_before_its_answer_is_cut_at_the_last_event():
    reader = AnswerReader(7, last_event_id="before")
    # An event that no blank line ends does not count.
    read([rpc(id=7, result={})], reader)
    error = error_of(reader)
    assert isinstance(error, StreamCut)
    assert error.last_event_id == "before"
    assert reader.end() == []


def test_an_event_id_with_nul_is_ignored():
    reader = AnswerReader(7)
    reader.begin(200, STREAM)
    reader.receive(b"id: a\0b\nid\ndata: \n\n")
    assert reader.last_event_id == ""


def test_encoded_answers_are_decoded():
    headers = [*JSON, ("Content-Encoding", "gzip")]
    reader = AnswerReader(7)
    read([gzip.compress(ANSWER)], reader, headers=headers)
    assert json.loads(reader.result()) == {"content": []}
    broken = AnswerReader(7)
    read([b"no gzip at all"], broken, headers=headers)
    assert isinstance(error_of(broken), BadAnswer)


@pytest.mark.parametrize("headers", [JSON, STREAM])
def test_an_answer_over_the_limit_is_refused(headers, monkeypatch):
    monkeypatch.setattr(answers, "ANSWER_LIMIT", 1000)
    reader = AnswerReader(7)
    read([b"data: " + b"x" * 600, b"x" * 600], reader, headers=headers)
    assert "over 1000 bytes" in str(error_of(reader))


def test_of_a_huge_error_page_only_the_beginning_is_read():
    reader = AnswerReader(7)
    reader.begin(500, [])
    reader.receive(b"x" * 1_000_000)
    assert reader.answered
    assert isinstance(error_of(reader), HttpRefused)


def test_a_notification_is_accepted_or_refused():
    accepted = AnswerReader(None, Expect.NOTHING)
    accepted.begin(202, [])
    assert accepted.answered
    assert accepted.result() == b""
    refused = AnswerReader(None, Expect.NOTHING)
    read([b""], refused, 400)
    assert str(error_of(refused)) == "the server answered 400"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_named(status):
    for body, text in (
        (b"{}", f"the server answered {status}, the token was not accepted"),
        (rpc(error={"code": 1, "message": "expired"}), "not accepted: expired"),
    ):
        reader = AnswerReader(7)
        read([body], reader, status, JSON)
        error = error_of(reader)
        assert isinstance(error, Unauthorized)
        assert text in str(error)


NO_SESSION = rpc(error={"code": -32000, "message": "Bad Request: No valid session ID provided"})


@pytest.mark.parametrize(
    ("status", "body", "lost"),
    [
        (404, b"", True),
        (404, rpc(error={"code": -32001, "message": "Session not found"}), True),
        (400, NO_SESSION, True),
        (400, b"", False),
        (400, b'{"error": "Session not found"}', True),
        (400, b"no such Session", True),
        (400, b'{"error": "bad argument"}', False),
        (400, rpc(error={"code": -32602, "message": "session"}), True),
        (400, rpc(id=7, error={"code": -32602, "message": "session"}), False),
        (410, b"", True),
        (400, rpc(error={"code": -32000, "message": "other"}), False),
        (500, NO_SESSION, False),
    ],
)
def test_a_lost_session_is_known_by_its_status_or_by_what_is_said(status, body, lost):
    reader = AnswerReader(7, in_session=True)
    read([body], reader, status, JSON)
    assert isinstance(error_of(reader), SessionLost) is lost
    outside = AnswerReader(7)
    read([body], outside, status, JSON)
    assert not isinstance(error_of(outside), SessionLost)


@pytest.mark.parametrize(
    ("value", "kept"),
    [("abc-1.~", "abc-1.~"), ("a b", None), ("", None), ("é", None), ("x" * 5000, None)],
)
def test_a_session_id_is_visible_ascii(value, kept):
    reader = AnswerReader(7)
    reader.begin(200, [*JSON, ("Mcp-Session-Id", value)])
    assert reader.session_id == kept
