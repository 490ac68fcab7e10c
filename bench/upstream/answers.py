"""The bytes of the imitation's answers, prepared as far as they can be.

A content event holds ``#NNNNNN.TTTTTTTTTTTTTTT#`` in its text: its number within the stream
and CLOCK_MONOTONIC in microseconds when it was sent.
"""

from __future__ import annotations

import json
import re

from attrs import frozen

__all__ = [
    "MARKER",
    "Answers",
    "Stream",
    "answer_of_agents",
    "answers_for",
    "is_complete",
    "without_times",
]

MARKER = b"#%06d.%015d#"
_MARKERS = re.compile(rb"#(\d{6})\.\d{15}#")

_WORDS = "a gateway relays what a provider says to whoever asked and keeps the books "
_DELTA_TEXT = " some words of it"
_MODEL = {"chat": "gpt-bench", "messages": "claude-bench"}
_INPUT_TOKENS = 1234
"""What every answer claims to have read; the imitation counts nothing."""


@frozen
class Stream:
    """One kind of event stream, ready to be sent."""

    opening: bytes
    """Head of the answer and what comes before the first content event."""
    before: bytes
    after: bytes
    """Around the marker of a content event, chunk framing included."""
    closing: bytes
    closing_with_usage: bytes
    """What ends the stream, the last chunk included."""


@frozen
class Answers:
    """All answers of one behaviour; ``blocking`` has a ``%012d`` for the answer's number."""

    blocking: dict[str, bytes]
    streams: dict[str, Stream]
    input_tokens: int
    output_tokens: int
    stream_tokens: int
    whole: bytes = b""
    """A stream of Messages that is sent in one piece."""


_PIECES: tuple[tuple[dict[str, object], dict[str, object]], ...] = (
    ({"type": "text", "text": ""}, {"type": "text_delta", "text": _DELTA_TEXT}),
    (
        {"type": "thinking", "thinking": ""},
        {"type": "thinking_delta", "thinking": _DELTA_TEXT},
    ),
    (
        {"type": "tool_use", "id": "toolu_stream", "name": "Tool1", "input": {}},
        {"type": "input_json_delta", "partial_json": " " * len(_DELTA_TEXT)},
    ),
)
"""What a stream that comes at once consists of: its block and each of its events."""


def answers_for(answer_bytes: int, events: int, agents: bool = False, at_once: int = 0) -> Answers:
    """Prepare what a behaviour asks for.

    With ``agents``, streams of Messages think before the text and call a tool after it.
    """
    output_tokens = max(1, answer_bytes // 4)
    text = (_WORDS * (answer_bytes // len(_WORDS) + 1))[:answer_bytes]
    return Answers(
        blocking={
            "chat": _blocking_chat(text, output_tokens),
            "messages": _blocking_messages(text, output_tokens),
        },
        streams={"chat": _chat_stream(events), "messages": _messages_stream(events, agents)},
        input_tokens=_INPUT_TOKENS,
        output_tokens=output_tokens,
        stream_tokens=events,
        whole=_messages_at_once(events, at_once) if at_once else b"",
    )


def answer_of_agents(events: int) -> bytes:
    """The body of the stream that an agent's request is answered with, its times all zero."""
    stream = _messages_stream(events, agents=True)
    texts = (stream.before + MARKER % (number, 0) + stream.after for number in range(events))
    chunks = stream.opening.removeprefix(_STREAM_HEAD) + b"".join(texts) + stream.closing
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    return body


def without_times(body: bytes) -> bytes:
    """An answer without the moments at which its events were sent."""
    return _MARKERS.sub(rb"#\1#", body)


def is_complete(body: bytes, events: int) -> bool:
    """Whether a stream of Messages has all its texts, in order, and its end."""
    found = [int(number) for number in _MARKERS.findall(body)]
    return found == list(range(events)) and b"message_stop" in body


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _with_head(body: bytes) -> bytes:
    # The number that replaces %012d is 12 bytes, the place-holder 5.
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body) + 7}"
        "\r\nx-request-id: req_bench\r\n\r\n"
    )
    return head.encode() + body


def _blocking_chat(text: str, output_tokens: int) -> bytes:
    return _with_head(
        _compact(
            {
                "id": "chatcmpl-%012d",
                "object": "chat.completion",
                "created": 1750000000,
                "model": _MODEL["chat"],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text, "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": _chat_usage(output_tokens),
                "service_tier": "default",
            }
        )
    )


def _chat_usage(output_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": _INPUT_TOKENS,
        "completion_tokens": output_tokens,
        "total_tokens": _INPUT_TOKENS + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _blocking_messages(text: str, output_tokens: int) -> bytes:
    return _with_head(
        _compact(
            {
                "id": "msg_%012d",
                "type": "message",
                "role": "assistant",
                "model": _MODEL["messages"],
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {
                    "input_tokens": _INPUT_TOKENS,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": output_tokens,
                },
            }
        )
    )


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\nx-request-id: req_bench\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _around_marker(event: bytes) -> tuple[bytes, bytes]:
    """Split an event that contains one marker, in chunk framing, around that marker."""
    marker = MARKER % (0, 0)
    before, _, after = _chunk(event).partition(marker)
    return before, after


def _chat_stream(events: int) -> Stream:
    def chunk(delta: object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + _compact({**base, "choices": [choice]}) + b"\n\n"

    base = {
        "id": "chatcmpl-stream",
        "object": "chat.completion.chunk",
        "created": 1750000000,
        "model": _MODEL["chat"],
        "system_fingerprint": "fp_bench",
    }
    text = (MARKER % (0, 0)).decode() + _DELTA_TEXT
    before, after = _around_marker(chunk({"content": text}))
    end = _chunk(chunk({}, "stop"))
    usage = {**base, "choices": [], "usage": _chat_usage(events)}
    done = _chunk(b"data: [DONE]\n\n") + _LAST_CHUNK
    return Stream(
        opening=_STREAM_HEAD + _chunk(chunk({"role": "assistant", "content": ""})),
        before=before,
        after=after,
        closing=end + done,
        closing_with_usage=end + _chunk(b"data: " + _compact(usage) + b"\n\n") + done,
    )


_MESSAGE: dict[str, object] = {
    "id": "msg_stream",
    "type": "message",
    "role": "assistant",
    "model": _MODEL["messages"],
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {
        "input_tokens": _INPUT_TOKENS,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        # Zero, so that it does not matter whether a reader adds it to the final count.
        "output_tokens": 0,
    },
}


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _compact({"type": kind, **fields}))


def _messages_at_once(events: int, kind: int) -> bytes:
    """Head, all events, and the last chunk, in chunks of about 16 KB."""
    content, delta = _PIECES[kind - 1]
    one = _event("content_block_delta", index=0, delta=delta)
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    body = b"".join(
        (
            _event("message_start", message=_MESSAGE),
            _event("content_block_start", index=0, content_block=content),
            one * events,
            _event("content_block_stop", index=0),
            _event("message_delta", delta=stop, usage={"output_tokens": events}),
            _event("message_stop"),
        )
    )
    size = 16384
    chunks = (_chunk(body[at : at + size]) for at in range(0, len(body), size))
    return _STREAM_HEAD + b"".join(chunks) + _LAST_CHUNK


def _messages_stream(events: int, agents: bool) -> Stream:
    event = _event

    def block(index: int, content: dict[str, object], *deltas: dict[str, object]) -> bytes:
        return b"".join(
            (
                event("content_block_start", index=index, content_block=content),
                *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
                event("content_block_stop", index=index),
            )
        )

    start = event("message_start", message=_MESSAGE)
    if agents:
        thought = {"type": "thinking_delta", "thinking": _WORDS}
        signed = {"type": "signature_delta", "signature": "c2lnbmVk" * 30}
        start += block(0, {"type": "thinking", "thinking": ""}, thought, thought, signed)
    text_at = int(agents)
    start += event("content_block_start", index=text_at, content_block={"type": "text", "text": ""})
    start += event("ping")
    text = (MARKER % (0, 0)).decode() + _DELTA_TEXT
    delta = {"type": "text_delta", "text": text}
    before, after = _around_marker(event("content_block_delta", index=text_at, delta=delta))
    stop = {"stop_reason": "tool_use" if agents else "end_turn", "stop_sequence": None}
    closing = _chunk(event("content_block_stop", index=text_at))
    if agents:
        call = {"type": "tool_use", "id": "toolu_stream", "name": "Tool1", "input": {}}
        pieces = ('{"path": "/src/', 'module.py", "limit"', ": 200}")
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        closing += _chunk(block(text_at + 1, call, *deltas))
    closing += _chunk(event("message_delta", delta=stop, usage={"output_tokens": events}))
    closing += _chunk(event("message_stop")) + _LAST_CHUNK
    return Stream(_STREAM_HEAD + _chunk(start), before, after, closing, closing)
