"""What cannot be read is relayed as it comes, and the records say that it could not be read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from interception_answers import BODIES, REQUESTS, STREAMS
from interception_driver import APIS, EVENT_STREAM, JSON, NOW, Exchange, begin, exchange, open_one
from pieces import in_pieces

pytestmark = pytest.mark.parametrize("api", APIS)


def request(api: str) -> dict[str, Any]:
    asked = {"stream_options": {"include_usage": True}} if api == "chat-completions" else {}
    return {**REQUESTS[api], **asked}


def relayed(api: str, answer: bytes, step: int = 1 << 20, **options: Any) -> Exchange:
    reads = [answer[at : at + step] for at in range(0, len(answer), step)]
    return exchange(api, request(api), reads, **options)


def single_lines(api: str, end: bytes = b"\n") -> bytes:
    return STREAMS[api].replace(b"\n\n", b"\n").replace(b"\n", end)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_events_that_one_line_end_separates_are_relayed_and_read(
    api: str, end: bytes, step: int
) -> None:
    answer = single_lines(api, end)
    result = relayed(api, answer, step)
    assert result.client == answer
    assert result.interception.complete
    assert result.outcome.error_type is None
    assert result.records == relayed(api, STREAMS[api]).records


def test_such_events_leave_as_they_come(api: str) -> None:
    interception = begin(open_one(api, request(api)))
    lines = single_lines(api).splitlines(keepends=True)
    behind = 0
    sent = b""
    for line in lines:
        sent += interception.receive_data(line, NOW)
        behind += len(line)
        # Never more than two events wait: with the second it shows how they are separated.
        assert behind - len(sent) <= sum(map(len, lines[:4]))
    assert behind == len(sent)


def test_a_cut_among_such_events_is_told_behind_a_blank_line(api: str) -> None:
    whole = single_lines(api).splitlines(keepends=True)
    begun = b"".join(whole[: 3 if api == "gemini" else 6])
    result = relayed(api, begun + b"da", end="cut")
    sent = result.client.removeprefix(begun)
    assert sent.startswith((b"\n\nevent: error", b'\n\ndata: {"error"'))
    assert result.interception.cut


def test_events_in_one_with_lines_of_their_own_are_read(api: str) -> None:
    parts = STREAMS[api].split(b"\n\n")
    data = [part.partition(b"data: ")[2] for part in parts[:-1]]
    answer = b"".join(b"data: " + each + b"\n" for each in data) + b"\n"
    result = relayed(api, answer)
    assert result.client == answer
    assert result.records == relayed(api, STREAMS[api]).records


def test_one_event_of_several_lines_is_one_event(api: str) -> None:
    # The lines of a document that a proxy has laid out for people.
    events = [part for part in STREAMS[api].split(b"\n\n") if part]
    answer = b""
    for each in events:
        name, _, data = each.rpartition(b"data: ")
        if data != b"[DONE]":
            data = json.dumps(json.loads(data), indent=1).encode()
        answer += name + b"".join(b"data: " + line + b"\n" for line in data.splitlines()) + b"\n"
    for step in (1, 1 << 20):
        result = relayed(api, answer, step)
        assert result.client == answer
        assert [type(each) for each in result.records] == [
            type(each) for each in relayed(api, STREAMS[api]).records
        ]
        assert result.interception.complete


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    "body", [b"upstream is busy", b"a line\nand another\n\nand more", b"%PDF" + b"\0" * 3000]
)
def test_what_is_only_labelled_as_a_stream_is_relayed(api: str, body: bytes, step: int) -> None:
    result = relayed(api, body, step)
    assert result.client == body
    assert not result.interception.cut
    assert result.outcome.error_type == "server_error"
    assert "invalid response" in (result.outcome.error_message or "")


def test_bytes_without_end_are_held_back_up_to_a_limit(api: str) -> None:
    interception = begin(open_one(api, request(api)))
    sent = 0
    for n in range(1, 400):
        sent += len(interception.receive_data(b"x" * 1000, NOW))
        assert n * 1000 - sent <= 64 * 1024


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_lines_that_are_no_events_leave_a_stream_at_once(api: str, step: int) -> None:
    first = STREAMS[api].partition(b"\n\n")[0] + b"\n\n"
    odd = b'{"error": "the machine is full"}\nretrying\n'
    interception = begin(open_one(api, request(api)))
    client = b"".join(
        interception.receive_data((first + odd)[at : at + step], NOW)
        for at in range(0, len(first + odd), step)
    )
    assert client == first + odd
    last_words = interception.receive_end(NOW)
    assert odd not in last_words
    assert interception.cut


BARE_ERROR = b'{"error":{"code":429,"message":"slow down"}}'


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("end", ["framed", "cut"])
@pytest.mark.parametrize(
    "odd",
    [
        b"data: [" + BARE_ERROR + b"]\n\n",
        BARE_ERROR + b"\n",
        BARE_ERROR + b"\n\n",
        b"[" + BARE_ERROR + b"]\n\n",
        json.dumps([json.loads(BARE_ERROR)], indent=2).encode() + b"\n\n",
        b'data: {"detail":"slow down","code":429}\n\n',
        BARE_ERROR,
    ],
)
def test_an_error_that_is_no_event_is_told_when_the_stream_ends(
    api: str, odd: bytes, end: str, step: int
) -> None:
    first = STREAMS[api].partition(b"\n\n")[0] + b"\n\n"
    result = relayed(api, first + odd, step, end=end)
    assert result.client.startswith(first + odd)
    assert b"slow down" in result.client.removeprefix(first + odd)
    assert result.interception.cut
    assert (result.outcome.error_type, result.outcome.error_message) == (
        "rate_limited",
        "slow down",
    )


def test_an_error_that_is_no_event_does_not_undo_an_answer_that_comes_after_all(api: str) -> None:
    first, blank, rest = STREAMS[api].partition(b"\n\n")
    answer = first + blank + BARE_ERROR + b"\n\n" + rest
    result = relayed(api, answer)
    assert result.client == answer
    assert result.outcome.error_type is None
    assert result.records == relayed(api, STREAMS[api]).records


def test_the_last_line_may_be_no_event(api: str) -> None:
    first = STREAMS[api].partition(b"\n\n")[0] + b"\n\n"
    odd = b"upstream connect error"
    for end in ("framed", "cut"):
        result = relayed(api, first + odd, end=end)
        assert result.client.startswith(first + odd + b"\n\n")
        assert result.interception.cut


@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON])
def test_an_unknown_coding_is_relayed_and_said_to_be_unread(api: str, content_type: str) -> None:
    answer = b"\x00\x01" * 5000
    result = relayed(api, answer, content_type=content_type, encoding="lz4")
    assert result.client == answer
    assert not result.interception.cut
    assert result.outcome.metadata["unread"] is True
    assert [t.metadata["usage_complete"] for t in result.tokens] == [False]


@pytest.mark.parametrize("step", [1, 50, 1 << 20])
def test_events_that_cannot_be_read_are_counted(api: str, step: int) -> None:
    odd = b'data: {"usage":broken\n\ndata: "error" \xff\xfe\n\n'
    events = STREAMS[api].partition(b"\n\n")
    answer = events[0] + b"\n\n" + odd + events[2]
    result = exchange(api, request(api), in_pieces(answer, [step] * len(answer)))
    assert result.client == answer
    assert result.interception.complete
    assert result.outcome.metadata["unread_events"] == 2


def with_last_usage(api: str, odd: bytes) -> bytes:
    """The stream with ``odd`` in place of the event that tells its usage last."""
    events = STREAMS[api].split(b"\n\n")
    at = max(n for n, each in enumerate(events) if re.search(rb'"usage(Metadata)?": ?\{', each))
    # The name of an event stays, and so does its end.
    name = events[at].partition(b"data: ")[0]
    return b"\n\n".join([*events[:at], name + odd, *events[at + 1 :]])


def test_usage_whose_last_event_cannot_be_read_is_incomplete(api: str) -> None:
    result = relayed(api, with_last_usage(api, b"data: {oops"))
    assert [t.metadata.get("usage_complete") for t in result.tokens] == [False]
    assert result.outcome.metadata["unread_events"] == 1


def test_usage_that_is_told_behind_what_cannot_be_read_is_complete(api: str) -> None:
    first, blank, rest = STREAMS[api].partition(b"\n\n")
    result = relayed(api, first + blank + b"data: {oops\n\n" + rest)
    assert result.records == relayed(api, STREAMS[api]).records


def test_what_cannot_be_read_behind_the_end_changes_no_usage(api: str) -> None:
    result = relayed(api, STREAMS[api] + b"data: {oops\n\n")
    assert result.records == relayed(api, STREAMS[api]).records


def test_a_body_in_the_wrong_clothes_is_read(api: str) -> None:
    result = relayed(api, BODIES[api], 10)
    assert result.client == BODIES[api]
    assert result.outcome.error_type is None


def test_a_long_event_in_small_reads_takes_linear_time(api: str) -> None:
    # A search of all that waits at each read would take minutes.
    interception = begin(open_one(api, request(api)))
    start = b'event: odd\ndata: {"text":"'
    interception.receive_data(start, NOW)
    for _ in range(200_000):
        interception.receive_data(b"words ", NOW)
    assert interception.receive_data(b'"}\n\n', NOW).endswith(b'"}\n\n')


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_stands_before_a_broken_event_is_read_without_a_blank_line_too(
    api: str, step: int
) -> None:
    first = STREAMS[api].partition(b"\n\n")[0]
    name = first.rpartition(b"data:")[0]
    result = relayed(api, first + b"\nout of order\n" + name + b"data: {oops\n\n", step, end="cut")
    assert [each.msg_id for each in result.prompts] == [
        each.msg_id for each in relayed(api, first + b"\n\n", end="cut").prompts
    ]
