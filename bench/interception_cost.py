"""What interception costs beside relaying the same bytes: ``python -m bench.interception_cost``.

One process relays a stream from a socket to a socket, as the gateway's relay does: it reads
what has arrived and writes it on.  It does so with nothing in between and with each API's
interception in between, in turns.  CPU time of the relaying process is what counts; the
sender and the reader are processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from aigateway.actors.interception import open_interception

__all__ = ["main"]

EVENTS = 20_000
"""Text events of one stream."""
BODY = 8 << 20
"""Bytes of one blocking answer."""
ROUNDS = 5


def _event(name: str | None, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _messages() -> list[bytes]:
    usage = {"input_tokens": 9, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": usage}}
    delta = {"type": "text_delta", "text": " some words of text"}
    text = {"type": "content_block_delta", "index": 0, "delta": delta}
    return [
        _event("message_start", start),
        *[_event("content_block_delta", text)] * EVENTS,
        _event("message_delta", {"type": "message_delta", "usage": {"output_tokens": 9}}),
        _event("message_stop", {"type": "message_stop"}),
    ]


def _chat() -> list[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "g"}
    delta = {"index": 0, "delta": {"content": " some words of text"}, "finish_reason": None}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    return [
        *[_event(None, {**base, "choices": [delta]})] * EVENTS,
        _event(None, {**base, "choices": [stop]}),
        _event(None, {**base, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


def _responses() -> list[bytes]:
    response = {"id": "resp_1", "output": [], "usage": {"input_tokens": 9, "output_tokens": 9}}
    text = {"type": "response.output_text.delta", "item_id": "m", "delta": " some words of text"}
    return [
        _event("response.created", {"type": "response.created", "response": response}),
        *[_event("response.output_text.delta", text)] * EVENTS,
        _event("response.completed", {"type": "response.completed", "response": response}),
    ]


REQUESTS = {
    "messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "chat-completions": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": True},
    },
    "responses": {"model": "m", "input": "hi"},
}
STREAMS: dict[str, Callable[[], list[bytes]]] = {
    "messages": _messages,
    "chat-completions": _chat,
    "responses": _responses,
}


def _blocking(api: str) -> bytes:
    text = "some words of text, " * (BODY // 20)
    usage = {"input_tokens": 9, "output_tokens": 9}
    documents: dict[str, dict[str, Any]] = {
        "messages": {"id": "m", "content": [{"type": "text", "text": text}], "usage": usage},
        "chat-completions": {
            "id": "c",
            "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9},
        },
        "responses": {
            "id": "r",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
            "usage": usage,
        },
    }
    return json.dumps(documents[api]).encode()


def _send(sock: socket.socket, pieces: list[bytes]) -> None:
    """In a process of its own: each piece is one send, as a provider flushes each event."""
    with sock:
        for piece in pieces:
            sock.sendall(piece)
        # Other processes have copies of this socket: closing it would end nothing.
        sock.shutdown(socket.SHUT_WR)


def _sink(sock: socket.socket) -> None:
    with sock:
        while sock.recv(1 << 20):
            pass


def _relay(pieces: list[bytes], api: str | None, content_type: str) -> float:
    """Relay once; CPU seconds of this process, ``api`` None: nothing in between."""
    inlet, far_inlet = socket.socketpair()
    outlet, far_outlet = socket.socketpair()
    context = multiprocessing.get_context("fork")
    sender = context.Process(target=_send, args=(far_inlet, pieces))
    reader = context.Process(target=_sink, args=(far_outlet,))
    interception = None
    if api is not None:
        body = {**REQUESTS[api], "stream": content_type == "text/event-stream"}
        interception = open_interception(api, id="i", body=json.dumps(body).encode())
        interception.begin_answer(200, [("Content-Type", content_type)])
    reader.start()
    sender.start()
    far_inlet.close()
    far_outlet.close()
    began = time.process_time()
    while data := inlet.recv(65536):
        if interception is not None:
            data = interception.receive_data(data, 1.0)
            interception.take_records()
        if data:
            outlet.sendall(data)
    if interception is not None:
        outlet.sendall(interception.receive_end(1.0))
        interception.take_records()
    spent = time.process_time() - began
    outlet.shutdown(socket.SHUT_WR)
    inlet.close()
    outlet.close()
    sender.join()
    reader.join()
    return spent


def _compare(pieces: list[bytes], api: str, content_type: str) -> tuple[float, float]:
    """Medians of CPU seconds without and with interception, in turns."""
    bare, read = [], []
    for _ in range(ROUNDS):
        bare.append(_relay(pieces, None, content_type))
        read.append(_relay(pieces, api, content_type))
    return statistics.median(bare), statistics.median(read)


def main() -> None:
    """Print a Markdown table."""
    lines = [
        "| API | relayed, per event | with interception | ratio | relayed, per MB |"
        " with interception | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for api, events in STREAMS.items():
        pieces = events()
        bare, read = _compare(pieces, api, "text/event-stream")
        scale = 1e6 / len(pieces)
        body = _blocking(api)
        whole_bare, whole_read = _compare([body], api, "application/json")
        per_mb = 1e3 / (len(body) / 1e6)
        lines.append(
            f"| {api} | {bare * scale:.1f} µs | {read * scale:.1f} µs | {read / bare:.2f} |"
            f" {whole_bare * per_mb:.2f} ms | {whole_read * per_mb:.2f} ms |"
            f" {whole_read / whole_bare:.2f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
