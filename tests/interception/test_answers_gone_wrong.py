"""What the client, the records and the holder get when an answer is not what it should be."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from interception_answers import BODIES, REQUESTS, STREAMS
from interception_driver import (
    APIS,
    EVENT_STREAM,
    JSON,
    NOW,
    Exchange,
    begin,
    exchange,
    finish,
    open_one,
)

from aigateway.actors.codec.decoding import encode
from aigateway.actors.codec.sse import EventReader
from aigateway.actors.interception import (
    Interception,
    InvalidRequest,
    Outcome,
    open_interception,
)
from aigateway.actors.interception import relay as relay_module
from aigateway.actors.interception._record_maker import Text

pytestmark = pytest.mark.parametrize("api", APIS)

ERROR_STARTS = {
    "messages": b'event: error\ndata: {"type":"error","error":{',
    "chat-completions": b'data: {"error":{',
    "responses": b'event: error\ndata: {"type":"error",',
    "gemini": b'data: {"error":{"code":500,',
}
ODD = b"event: odd\ndata: 1\n\n"


def request(api: str, *, streaming: bool = True, **more: Any) -> dict[str, Any]:
    asked = {"stream_options": {"include_usage": True}} if api == "chat-completions" else {}
    return {**REQUESTS[api], "stream": streaming, **asked, **more}


def whole_records(api: str, *, streaming: bool) -> list[Any]:
    answer, content_type = (STREAMS[api], EVENT_STREAM) if streaming else (BODIES[api], JSON)
    return list(exchange(api, request(api), answer, content_type=content_type).records)


# -- requests


@pytest.mark.parametrize("body", [b"", b" \n", b"{", b'{"a":}', b"nonsense", b'{"a":1}{}', b"\xff"])
def test_a_request_that_is_no_json_is_refused_in_the_apis_shape(api: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_interception(api, id="1", body=body)
    assert caught.value.status == 400
    answer = json.loads(caught.value.body)
    assert "request body is" in answer["error"]["message"]
    if api == "gemini":
        assert (answer["error"]["code"], answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    else:
        assert answer["error"]["type"] == "invalid_request_error"
    assert (answer.get("type") == "error") is (api == "messages")


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "deflate"])
def test_an_encoded_request_is_read_and_sent_as_it_came(api: str, coding: str) -> None:
    body = encode(json.dumps(request(api)).encode(), coding)
    interception = open_one(api, body, content_encoding=coding)
    assert interception.model == REQUESTS[api]["model"]
    assert interception.streaming
    assert interception.upstream_body() == body


@pytest.mark.parametrize("coding", ["gzip", "lzma"])
def test_a_request_that_does_not_decode_is_refused(api: str, coding: str) -> None:
    with pytest.raises(InvalidRequest, match=f"does not decode as {coding}"):
        open_interception(api, id="1", body=b"{}", content_encoding=coding)


def test_a_bomb_of_a_request_is_refused(api: str) -> None:
    bomb = gzip.compress(b" " * 70_000_000)
    with pytest.raises(InvalidRequest, match="unpacks to more than") as caught:
        open_interception(api, id="1", body=bomb, content_encoding="gzip")
    assert caught.value.status == 413


def test_a_request_with_half_characters_is_taken_as_it_is(api: str) -> None:
    body = rb'{"model":"m \ud83d","messages":[],"input":[]}'
    interception = open_interception(api, id="1", body=body)
    assert interception.model == ("" if api == "gemini" else "m \ufffd")
    assert interception.upstream_body() == body


def test_an_unknown_api_is_a_mistake_of_ours(api: str) -> None:
    with pytest.raises(ValueError, match="unknown API"):
        open_interception(api + "-2", id="1", body=b"{}")


def test_the_request_is_let_go_of_when_the_answer_begins(api: str) -> None:
    assert begin(open_one(api, request(api))).upstream_body() == b""


# -- answers of another kind than was asked for


@pytest.mark.parametrize("content_type", [JSON, "text/plain; charset=utf-8", None, EVENT_STREAM])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("step", [1, 100_000])
def test_an_answer_is_read_as_what_it_is(
    api: str, content_type: str | None, asked: bool, answered: bool, step: int
) -> None:
    answer = STREAMS[api] if answered else BODIES[api]
    reads = [answer[at : at + step] for at in range(0, len(answer), step)]
    result = exchange(api, request(api, streaming=asked), reads, content_type=content_type)
    assert result.client == answer
    assert result.records == whole_records(api, streaming=answered)
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome()
    is_stream = content_type == EVENT_STREAM or (content_type is None and asked)
    # Who asks Gemini's API for a stream may get it as JSON, in one array.
    is_stream |= api == "gemini" and content_type == JSON and asked
    assert result.interception.event_stream is is_stream


@pytest.mark.parametrize(
    "start", [b"\xef\xbb\xbf", b"\n\n", b"\xef\xbb\xbf\n", b": hello\n\n", b" "]
)
@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON])
def test_a_stream_may_begin_with_marks_blanks_and_comments(
    api: str, start: bytes, content_type: str
) -> None:
    answer = start + STREAMS[api]
    for step in (1, 100_000):
        reads = [answer[at : at + step] for at in range(0, len(answer), step)]
        result = exchange(api, request(api), reads, content_type=content_type)
        assert result.client == answer
        if start != b" ":
            assert result.records == whole_records(api, streaming=True)


def test_blanks_without_end_are_what_the_label_says(api: str) -> None:
    blanks = b"\n" * 2000
    result = exchange(api, request(api), [blanks, STREAMS[api]])
    assert result.client == blanks + STREAMS[api]
    assert result.records == whole_records(api, streaming=True)
    body = exchange(api, request(api), [blanks, BODIES[api]], content_type=JSON)
    assert body.client == blanks + BODIES[api]
    assert body.records == whole_records(api, streaming=False)


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/xml"])
def test_a_web_page_is_not_relayed_as_an_answer(api: str, content_type: str) -> None:
    interception = begin(open_one(api, request(api)), content_type)
    assert interception.refusal is not None
    status, body = interception.refusal
    assert status == 502
    assert "invalid response" in json.loads(body)["error"]["message"]
    result = finish(interception, end="cut")
    assert result.client == b""
    assert result.outcome.error_type == "server_error"
    assert "content type" in str(result.outcome.error_message)
    assert result.tokens == []


@pytest.mark.parametrize("answer", [b"Hello", b"{broken", b"dat", b"17 18", b"  "])
def test_an_answer_that_is_no_json_is_relayed_and_counts_as_failed(api: str, answer: bytes) -> None:
    result = exchange(api, request(api, streaming=False), answer, content_type=JSON)
    assert result.client == answer
    assert result.outcome.error_type == "server_error"
    assert "invalid response" in str(result.outcome.error_message)
    assert not result.interception.complete
    assert not result.interception.cut
    assert result.records == []


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b'[{"error":{"code":400,"message":"no such model"}}]', ("bad_request", "no such model")),
        (b'{"error":{"code":429,"message":"slow down"}}', ("rate_limited", "slow down")),
        (b'{"error":true,"message":"it broke"}', ("unknown", "it broke")),
        (b'{"error":"it broke"}', ("unknown", "it broke")),
        (b'{"detail":"it broke"}', ("unknown", "it broke")),
        (b'{"detail":[{"loc":["body","n"],"msg":"missing"}]}', ("unknown", "body.n: missing")),
        (b'{"object":"error","message":"bad","code":400}', ("bad_request", "bad")),
        (b'{"error":{"type":"overloaded_error"}}', ("overloaded", None)),
        (b'"it broke"', ("unknown", "it broke")),
        (b"{}", ("server_error", None)),
        (b"[]", ("server_error", None)),
        (b"null", ("server_error", None)),
        (b'{"status":"ok"}', ("server_error", None)),
    ],
)
def test_json_that_is_no_answer_is_relayed_and_counts_as_failed(
    api: str, answer: bytes, outcome: tuple[str, str | None]
) -> None:
    result = exchange(api, request(api, streaming=False), answer, content_type=JSON)
    assert result.client == answer
    assert not result.interception.cut
    assert result.records == []
    assert result.outcome.error_type == outcome[0]
    assert result.outcome.error_message
    if outcome[1] is not None:
        assert result.outcome.error_message == outcome[1]


def test_no_answer_at_all_counts_as_failed(api: str) -> None:
    result = exchange(api, request(api, streaming=False), b"", content_type=JSON)
    assert result.outcome.error_type == "server_error"
    assert "did not return a response" in str(result.outcome.error_message)
    assert result.records == []


@pytest.mark.parametrize("content_type", [EVENT_STREAM, None])
def test_an_empty_stream_is_told_in_an_error_event(api: str, content_type: str | None) -> None:
    result = exchange(api, request(api), b"", content_type=content_type)
    assert result.client.startswith(ERROR_STARTS[api])
    assert b"did not return a response" in result.client
    assert result.interception.cut


# -- error answers


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limited"), (529, "overloaded"), (401, "unauthorized")]
)
@pytest.mark.parametrize("streaming", [True, False])
def test_an_error_answer_is_relayed_and_says_why(
    api: str, status: int, kind: str, streaming: bool
) -> None:
    body = b'{ "error": {"message":"not now", "type":"x"} }'
    reads = [body[:10], body[10:]]
    result = exchange(
        api, request(api, streaming=streaming), reads, content_type=JSON, status=status
    )
    assert result.client == body
    assert result.outcome == Outcome(kind, "not now")
    assert not result.interception.cut
    assert not result.interception.event_stream
    assert result.tokens == result.tools == result.thoughts == []


def test_an_error_answer_may_be_a_page_or_a_stream(api: str) -> None:
    for content_type, body in (("text/html", b"<h1>Bad gateway</h1>"), (EVENT_STREAM, ODD)):
        result = exchange(api, request(api), body, content_type=content_type, status=502)
        assert result.client == body
        assert result.outcome == Outcome("server_error", body.decode().strip())
        assert result.interception.refusal is None
        assert result.interception.keepalive() == b""


@pytest.mark.parametrize(
    ("body", "end", "cut"),
    [
        (b'{"error":', "framed", False),
        (b'{"error":', "unframed", True),
        (b'{"error":{}}', "unframed", False),
        (b"Too many", "unframed", False),
        (b"Too many", "cut", True),
        (b"Too many", "left", True),
    ],
)
def test_an_error_answer_may_be_cut_too(api: str, body: bytes, end: str, cut: bool) -> None:
    result = exchange(api, request(api), body, status=429, content_type=JSON, end=end)
    assert result.client == body
    assert result.interception.cut is cut
    assert result.outcome.error_type == "rate_limited"


def test_a_long_error_answer_is_relayed_whole(api: str) -> None:
    body = b"x" * 3_000_000
    result = exchange(api, request(api), body, status=500, content_type="text/plain")
    assert result.client == body
    assert result.outcome.error_message == "x" * 2000


def test_a_redirect_is_no_answer_either(api: str) -> None:
    result = exchange(api, request(api), b"", status=302, content_type=None)
    assert result.outcome == Outcome("unknown", "The AI provider answered with HTTP status 302")


# -- cuts


@pytest.mark.parametrize("begun", [b"", b"event: odd", b"event: odd\ndata: {", b"data: 1\n"])
def test_a_client_never_gets_half_an_event_before_an_error(api: str, begun: bytes) -> None:
    result = exchange(api, request(api), [ODD, begun], end="cut")
    assert result.client.startswith(ODD + ERROR_STARTS[api])
    assert b"connection reset by peer" in result.client
    assert b"[DONE]" not in result.client
    assert result.client.endswith(b"\n\n")
    assert result.interception.cut
    assert not result.interception.complete
    assert result.outcome == Outcome("server_error", "connection reset by peer")


def test_a_long_event_that_is_half_with_the_client_is_ended_before_an_error(api: str) -> None:
    half = b"data: " + b"x" * 100_000
    result = exchange(api, request(api), [ODD, half[:100], half[100:]], end="cut")
    assert result.client.startswith(ODD + half + b"\n\n" + ERROR_STARTS[api])


@pytest.mark.parametrize("framed", [True, False])
def test_an_end_before_the_apis_last_event_is_a_cut(api: str, framed: bool) -> None:
    stream = STREAMS[api].partition(b"\n\n")[0] + b"\n\n"
    result = exchange(api, request(api), stream, end="framed" if framed else "unframed")
    assert result.client.startswith(stream + ERROR_STARTS[api])
    assert result.interception.cut
    assert "ended its answer before" in str(result.outcome.error_message)
    assert result.tokens[0].metadata == {"usage_complete": False}


@pytest.mark.parametrize("end", ["framed", "unframed", "cut", "left"])
def test_after_the_apis_last_event_every_end_is_a_good_one(api: str, end: str) -> None:
    tail = b": bye"
    result = exchange(api, request(api), [STREAMS[api], tail], end=end)
    assert result.client == STREAMS[api] + (b"" if end == "left" else tail)
    assert result.interception.complete
    assert not result.interception.cut
    assert result.outcome == Outcome()
    assert result.records == whole_records(api, streaming=True)


def test_before_the_head_nothing_can_be_told_to_the_client(api: str) -> None:
    for end in ("cut", "framed", "left"):
        result = finish(open_one(api, request(api)), end=end)
        assert result.client == b""
        assert result.interception.cut
        assert result.outcome.error_type == ("unknown" if end == "left" else "server_error")
        assert result.tokens == []


@pytest.mark.parametrize("end", ["unframed", "cut", "left"])
def test_half_a_body_is_a_cut_without_a_word(api: str, end: str) -> None:
    half = BODIES[api][:-10]
    result = exchange(api, request(api, streaming=False), half, content_type=JSON, end=end)
    assert result.client == half
    assert result.interception.cut
    assert not result.interception.complete
    assert [(t.input_tokens, t.metadata) for t in result.tokens] == [(0, {"usage_complete": False})]


@pytest.mark.parametrize("end", ["unframed", "cut", "left"])
def test_a_whole_body_is_whole_however_it_ends(api: str, end: str) -> None:
    result = exchange(api, request(api), BODIES[api], content_type=JSON, end=end)
    assert result.client == BODIES[api]
    assert not result.interception.cut
    assert result.outcome == Outcome()
    assert result.records == whole_records(api, streaming=False)


def test_a_body_labelled_as_a_stream_gets_no_event(api: str) -> None:
    half = BODIES[api][:-10]
    result = exchange(api, request(api), half, content_type=EVENT_STREAM, end="cut")
    assert result.client == half
    assert result.interception.keepalive() == b""


def test_a_stream_not_labelled_as_one_gets_no_event(api: str) -> None:
    result = exchange(api, request(api), [ODD, b"data: 1"], content_type=JSON, end="cut")
    assert result.client == ODD + b"data: 1"
    assert result.interception.cut


def test_a_cut_after_an_error_of_the_upstream_adds_nothing(api: str) -> None:
    error = b'event: error\ndata: {"type":"error","error":{"message":"busy"}}\n\n'
    for end in ("cut", "unframed", "left"):
        result = exchange(api, request(api), [error, b"data: "], end=end)
        assert result.client == error + (b"data: " if end == "unframed" else b"")
        assert result.interception.cut
        assert result.outcome.error_message == "busy"
        assert result.tokens == []


# -- keepalives


PINGS = {"messages": b'event: ping\ndata: {"type": "ping"}\n\n', "gemini": b"\n\n"}
COMMENT = b": keepalive\n"


def wanting(api: str, keepalives: bool | None = True) -> Interception:
    interception = open_one(api, request(api))
    interception.keepalives = keepalives
    return interception


def test_a_silent_stream_is_kept_alive_between_events(api: str) -> None:
    # Behind a comment comes no blank line: some SDKs take it for the end of an event.
    ping = PINGS.get(api, COMMENT)
    interception = wanting(api)
    assert interception.keepalive() == b""
    begin(interception)
    assert interception.keepalive() == ping
    interception.receive_data(ODD, NOW)
    assert interception.keepalive() == ping
    # The client stands between two events, half of the next is held.
    interception.receive_data(b"data: half", NOW)
    assert interception.keepalive() == ping
    interception.receive_data(b"x" * 100_000, NOW)
    assert interception.keepalive() == b""
    interception.receive_data(b"\n\n", NOW)
    assert interception.keepalive() == ping
    interception.receive_data(STREAMS[api], NOW)
    assert interception.keepalive() == b""


@pytest.mark.parametrize("ends", [b"data: 1\r\n\r", b'data: {"a":1}\ndata: {"a":2}\n'])
def test_no_keepalive_comes_into_a_line_or_an_event(api: str, ends: bytes) -> None:
    interception = begin(wanting(api))
    assert interception.receive_data(ends, NOW) == ends
    assert interception.keepalive() == b""


def test_only_clients_of_messages_are_kept_waiting_unless_it_is_switched_on(api: str) -> None:
    assert begin(wanting(api, None)).keepalive() == (PINGS[api] if api == "messages" else b"")
    assert begin(wanting(api, False)).keepalive() == b""


def test_nothing_but_a_running_stream_is_kept_alive(api: str) -> None:
    assert begin(wanting(api), JSON).keepalive() == b""
    assert begin(wanting(api), status=500).keepalive() == b""
    assert begin(wanting(api), encoding="gzip").keepalive() == b""
    failed = begin(wanting(api))
    failed.receive_data(b'event: error\ndata: {"error":{"message":"x"}}\n\n', NOW)
    assert failed.keepalive() == b""
    cut = begin(wanting(api))
    cut.receive_cut("gone", NOW)
    assert cut.keepalive() == b""


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", gzip.compress(b"", mtime=0) * 100_000, 413),
        ("gzip", gzip.compress(b" " * 20_000_000 + b"{}", mtime=0), 413),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 20_000_000, mtime=0), mtime=0), 413),
        ("gzip, gzip, gzip", b"junk", 415),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400),
        ("br", b"", 400),
    ],
    ids=["members", "ratio", "ratio in two layers", "layers", "cut short", "empty"],
)
def test_a_body_that_is_work_to_unpack_is_refused_in_the_apis_shape(
    api: str, coding: str, body: bytes, status: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_interception(api, id="1", body=body, content_encoding=coding)
    assert caught.value.status == status
    assert "request body" in json.loads(caught.value.body)["error"]["message"]


# -- encoded answers


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("step", [1, 100_000])
def test_an_encoded_answer_is_read_and_relayed_as_it_came(
    api: str, coding: str, streaming: bool, step: int
) -> None:
    answer = encode(STREAMS[api] if streaming else BODIES[api], coding)
    reads = [answer[at : at + step] for at in range(0, len(answer), step)]
    content_type = EVENT_STREAM if streaming else JSON
    result = exchange(api, request(api), reads, content_type=content_type, encoding=coding)
    assert result.client == answer
    assert result.records == whole_records(api, streaming=streaming)
    assert result.interception.complete
    assert result.outcome == Outcome()


def test_an_encoded_error_answer_is_read(api: str) -> None:
    body = gzip.compress(b'{"error":{"message":"not now"}}')
    for encoding, message in (("gzip", "not now"), ("lzma", "The AI provider answered")):
        result = exchange(api, request(api), body, status=503, content_type=JSON, encoding=encoding)
        assert result.client == body
        assert str(result.outcome.error_message).startswith(message)
    broken = exchange(api, request(api), b"junk", status=503, encoding="gzip")
    assert broken.client == b"junk"
    assert str(broken.outcome.error_message).startswith("The AI provider answered")


@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON])
def test_an_encoded_stream_whose_last_event_is_not_ended_stays_as_it_came(
    api: str, content_type: str
) -> None:
    answer = gzip.compress(STREAMS[api] + b": bye")
    for step in (1, 100_000):
        reads = [answer[at : at + step] for at in range(0, len(answer), step)]
        result = exchange(api, request(api), reads, content_type=content_type, encoding="gzip")
        assert result.client == answer
        assert result.records == whole_records(api, streaming=True)


def test_a_cut_in_an_encoded_stream_has_no_words(api: str) -> None:
    half = gzip.compress(STREAMS[api])[:-20]
    result = exchange(api, request(api), half, encoding="gzip", end="cut")
    assert result.client == half
    assert result.interception.cut


@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON])
@pytest.mark.parametrize(("encoding", "answer"), [("lzma", ODD), ("gzip", b"junk" * 9)])
@pytest.mark.parametrize("framed", [True, False])
def test_what_cannot_be_decoded_is_relayed_without_its_usage(
    api: str, content_type: str, encoding: str, answer: bytes, framed: bool
) -> None:
    end = "framed" if framed else "unframed"
    reads = [answer, answer]
    result = exchange(
        api, request(api), reads, content_type=content_type, encoding=encoding, end=end
    )
    assert result.client == answer * 2
    assert result.interception.complete is framed
    assert result.interception.cut is not framed
    assert [(t.input_tokens, t.metadata) for t in result.tokens] == [(0, {"usage_complete": False})]


def test_junk_behind_an_encoded_stream_takes_nothing_away(api: str) -> None:
    answer = gzip.compress(STREAMS[api]) + b"junk"
    result = exchange(api, request(api), [answer[:-4], answer[-4:]], encoding="gzip")
    assert result.client == answer
    assert result.records == whole_records(api, streaming=True)


# -- limits


def test_a_body_over_the_limit_is_relayed_and_not_read(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "BODY_LIMIT", len(BODIES[api]) - 1)
    half = len(BODIES[api]) // 2
    reads = [BODIES[api][:half], BODIES[api][half:], b" "]
    result = exchange(api, request(api, streaming=False), reads, content_type=JSON)
    assert result.client == BODIES[api] + b" "
    assert result.interception.complete
    assert result.outcome == Outcome(metadata={"unread": True})
    assert [(t.input_tokens, t.metadata) for t in result.tokens] == [(0, {"usage_complete": False})]


def test_a_body_over_the_limit_needs_a_framed_end(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "BODY_LIMIT", 10)
    result = exchange(api, request(api), BODIES[api], content_type=JSON, end="unframed")
    assert result.interception.cut


def long_events(api: str, *reads: bytes) -> Exchange:
    """A framed stream of ``reads`` to a reader that holds 100,000 bytes."""
    interception = begin(open_one(api, request(api)))
    interception._reader = EventReader(limit=100_000, lenient=True)  # type: ignore[attr-defined]
    client = b"".join(interception.receive_data(read, NOW) for read in reads)
    return finish(interception, client)


LONG = b"x" * 150_000


@pytest.mark.parametrize(
    "head",
    [
        b"event: response.completed\ndata: ",
        b"event:response.incomplete\r\ndata: ",
        b'data: {"type":"response.done","response":"',
        b'data: {"sequence_number":9, "type": "response.failed","response":"',
    ],
)
def test_a_last_event_over_the_limit_is_an_end_all_the_same(api: str, head: bytes) -> None:
    result = long_events(api, ODD, head + LONG, b"\n\n")
    assert result.client == ODD + head + LONG + b"\n\n"
    assert result.interception.complete
    assert not result.interception.cut
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}]


@pytest.mark.parametrize(
    "reads",
    [
        (b"data: " + LONG, b"\n\n"),
        (b"data: " + LONG,),
        (b"data: " + LONG, b"\n\n", ODD),
        (b"event: response.completed\ndata: " + LONG, b"\n\n", ODD),
        (b'event: x\ndata: {"text":"\\"type\\":\\"response.completed\\"' + LONG, b'"}\n\n'),
    ],
    ids=["alone", "unfinished", "another behind it", "a last one that is not", "quoted"],
)
def test_behind_an_event_over_the_limit_a_cut_is_still_a_cut(
    api: str, reads: tuple[bytes, ...]
) -> None:
    result = long_events(api, ODD, *reads)
    assert result.interception.cut
    assert not result.interception.complete
    assert result.outcome.error_type == "server_error"
    assert result.client.startswith(ODD + b"".join(reads))
    # The error event stands by itself, also behind half an event.
    said = result.client[len(ODD + b"".join(reads)) :]
    assert said.startswith(b"\n\n") == (len(reads) == 1)


def test_behind_an_event_over_the_limit_the_end_is_read(api: str) -> None:
    result = long_events(api, b"event: odd\ndata: " + LONG, b"\n\n", STREAMS[api])
    assert result.interception.complete
    assert result.outcome == Outcome()


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON])
def test_an_answer_whose_coding_is_broken_has_failed(
    api: str, content_type: str, streaming: bool
) -> None:
    data = STREAMS[api] if streaming else BODIES[api]
    whole = gzip.compress(data)
    for answer in (b"junk" * 9, b"\x1f\x8b\x08" + b"\xff" * 40, whole[:12] + b"\xff" * 30):
        result = exchange(api, request(api), [answer], content_type=content_type, encoding="gzip")
        assert result.client == answer
        assert result.outcome.error_type == "server_error"
        assert "broken" in str(result.outcome.error_message)


def test_a_truncated_answer_has_failed_whatever_was_read_of_it(api: str) -> None:
    whole = gzip.compress(BODIES[api])
    for length in (len(whole) - 1, len(whole) - 8, len(whole) // 2, 11, 0):
        result = exchange(api, request(api), [whole[:length]], content_type=JSON, encoding="gzip")
        assert result.outcome.error_type == "server_error", length
    assert (
        exchange(api, request(api), [whole], content_type=JSON, encoding="gzip").outcome
        == Outcome()
    )
    for length in (len(BODIES[api]) // 2, 1, 0):
        result = exchange(api, request(api), [BODIES[api][:length]], content_type=JSON)
        assert result.outcome.error_type == "server_error", length


def test_a_text_too_long_to_travel_is_cut_and_says_so(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigateway.actors.interception._record_maker.TEXT_LIMIT", 12)
    text = Text("0123456789")
    text.write("ab")
    assert not text.truncated
    text.write("c")
    assert text.truncated
    assert text.value() == "0123456789ab"
    result = exchange(api, request(api), STREAMS[api])
    assert result.client == STREAMS[api]
    if api == "messages":
        assert [t.metadata for t in result.thoughts] == [{"source": "thinking", "truncated": True}]
        assert [t.metadata for t in result.tools] == [{"truncated": True}]
    if api == "chat-completions":
        assert result.tools[0].metadata["truncated"] is True


# -- mistakes of ours


@pytest.mark.parametrize("name", ["_read_event", "_read_body", "_finish"])
def test_a_mistake_in_reading_does_not_disturb_relaying(
    api: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise RuntimeError("a mistake")

    for answer, content_type in ((STREAMS[api], EVENT_STREAM), (BODIES[api], JSON)):
        interception = begin(open_one(api, request(api)), content_type)
        monkeypatch.setattr(type(interception), name, fail)
        relayed = interception.receive_data(answer, NOW) + interception.receive_end(NOW)
        assert relayed.startswith(answer)


def test_errors_of_the_gateway_have_the_apis_shape(api: str) -> None:
    body = json.loads(open_one(api, request(api)).error_body(503, "later"))
    assert body["error"]["message"] == "later"
    assert ("type" in body) is (api == "messages")
