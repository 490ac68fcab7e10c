"""What interception costs beside relaying the same bytes.

One process relays a stream from a socket to a socket, as the gateway's relay does: it reads
what has arrived and writes it on.  It does so with nothing in between and with an API's
interception in between.  CPU time of the relaying process is what counts; the sender and the
reader are processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from aigateway.actors.interception import open_interception

__all__ = ["main"]


def _event(name: str | None, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _messages(events: int) -> list[bytes]:
    usage = {"input_tokens": 9, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": usage}}
    delta = {"type": "text_delta", "text": " some words of text"}
    text = {"type": "content_block_delta", "index": 0, "delta": delta}
    return [
        _event("message_start", start),
        *[_event("content_block_delta", text)] * events,
        _event("message_delta", {"type": "message_delta", "usage": {"output_tokens": 9}}),
        _event("message_stop", {"type": "message_stop"}),
    ]


def _chat(events: int) -> list[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "g"}
    delta = {"index": 0, "delta": {"content": " some words of text"}, "finish_reason": None}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    return [
        *[_event(None, {**base, "choices": [delta]})] * events,
        _event(None, {**base, "choices": [stop]}),
        _event(None, {**base, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


def _responses(events: int) -> list[bytes]:
    response = {"id": "resp_1", "output": [], "usage": {"input_tokens": 9, "output_tokens": 9}}
    text = {"type": "response.output_text.delta", "item_id": "m", "delta": " some words of text"}
    return [
        _event("response.created", {"type": "response.created", "response": response}),
        *[_event("response.output_text.delta", text)] * events,
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
STREAMS: dict[str, Callable[[int], list[bytes]]] = {
    "messages": _messages,
    "chat-completions": _chat,
    "responses": _responses,
}


def _blocking(api: str, size: int) -> bytes:
    text = "some words of text, " * (size // 20)
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


def main() -> None:
    """Options: ``api``, ``events`` of the stream, ``bytes`` of the blocking answer."""
    options = json.loads(sys.argv[1])
    api = options["api"]
    pieces = STREAMS[api](options["events"])
    body = _blocking(api, options["bytes"])
    per_event, per_mb = 1e6 / len(pieces), 1e3 / (len(body) / 1e6)
    numbers = {
        "event_bare_us": _relay(pieces, None, "text/event-stream") * per_event,
        "event_us": _relay(pieces, api, "text/event-stream") * per_event,
        "mb_bare_ms": _relay([body], None, "application/json") * per_mb,
        "mb_ms": _relay([body], api, "application/json") * per_mb,
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
