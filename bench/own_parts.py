"""What parts of our own save beside those of the libraries: ``python -m bench.own_parts``.

WebSocket frames against websocket-client's, and what ``http/server/`` puts in the place of
gunicorn's request, response and the things around them.  Each pair does the same work on the same
bytes, in turns in one process under gevent, as a gateway's worker is; the table has the median of
the rounds in microseconds of CPU, and the difference as a part of a blocking request's CPU time.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402 - patched first
import os  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gunicorn.config import Config  # noqa: E402
from gunicorn.http.message import Request  # noqa: E402
from gunicorn.http.unreader import IterUnreader  # noqa: E402
from gunicorn.http.wsgi import Response, WSGIErrorsWrapper  # noqa: E402
from websocket import ABNF  # noqa: E402
from websocket._abnf import frame_buffer  # noqa: E402

from aigateway.actors.control.coderd._websocket_frames import (  # noqa: E402
    BINARY,
    FrameReader,
    encode_frame,
)
from aigateway.actors.upstream.waiting import patient  # noqa: E402
from aigateway.http.server.application import gunicorn_options  # noqa: E402
from aigateway.http.server.parts import GatewayRequest, GatewayResponse  # noqa: E402
from aigateway.http.settings import Settings  # noqa: E402

REQUEST_CPU = 390.0
"""Microseconds of CPU of a blocking request, of the whole process tree (docs/performance.md)."""
ROUNDS = 9
TIMES = 2000
"""Repetitions in a round."""

HEAD = (
    b"POST /anthropic/v1/messages?beta=true HTTP/1.1\r\n"
    b"Host: gateway.example\r\nAccept: application/json\r\nX-Stainless-Retry-Count: 0\r\n"
    b"X-Stainless-Timeout: 600\r\nX-Stainless-Lang: js\r\nX-Stainless-Package-Version: 0.60.0\r\n"
    b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: node\r\n"
    b"X-Stainless-Runtime-Version: v22.9.0\r\nanthropic-dangerous-direct-browser-access: true\r\n"
    b"anthropic-version: 2023-06-01\r\nauthorization: Bearer " + b"x" * 60 + b"\r\nx-app: cli\r\n"
    b"User-Agent: claude-cli/2.1.0 (external, cli)\r\ncontent-type: application/json\r\n"
    b"anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14\r\n"
    b"accept-language: *\r\nsec-fetch-mode: cors\r\naccept-encoding: gzip, deflate\r\n"
    b"content-length: 4\r\nConnection: keep-alive\r\n\r\nbody"
)
ANSWER = [
    ("Content-Type", "application/json"), ("Content-Length", "1000"), ("request-id", "req_1"),
    ("anthropic-ratelimit-requests-limit", "50"), ("anthropic-ratelimit-requests-remaining", "49"),
    ("strict-transport-security", "max-age=31536000"), ("x-robots-tag", "none"), ("via", "1.1 x"),
    ("X-AI-Gateway-Interception-Id", "3f0b8c1e-7a34-4b7c-9a51-8f0c3f0e5a11"),
]  # fmt: skip
BODY = b"x" * 1000
PIECES = 10
"""Events of a streamed answer."""

Work = Callable[[], object]
Row = tuple[str, Work, Work, int]
"""What it is, the library's way, ours, and how many of it a request has (0: it has none)."""


def _cpu(work: Work) -> float:
    """Microseconds of CPU for one time."""
    began = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - began) / TIMES * 1e6


# -- frames

SIZES = (12, 200, 12, 12)
"""Of the frames that coderd sends for one answer."""


def _frame_rows() -> Iterator[Row]:
    payloads = [bytes(size) for size in SIZES]
    for size in (200, 4096):
        payload = bytes(size)
        yield (
            f"write a frame of {size} bytes",
            lambda p=payload: ABNF.create_frame(p, ABNF.OPCODE_BINARY).format(),
            lambda p=payload: encode_frame(BINARY, p, os.urandom(4)),
            0,
        )
    # A server's frames are not masked.
    sent = b"".join(bytes((0x82, 126 if n > 125 else n)) + (n.to_bytes(2, "big") if n > 125 else b"") + bytes(n) for n in SIZES)  # fmt: skip  # noqa: E501
    assert sum(map(len, payloads)) == sum(SIZES)

    def library() -> bytes:
        at = 0

        def receive(size: int) -> bytes:
            nonlocal at
            data = sent[at : at + size]
            at += len(data)
            return data

        frames = frame_buffer(receive, skip_utf8_validation=True)
        return b"".join(frames.recv_frame().data for _ in SIZES)

    reader = FrameReader()

    def own() -> bytes | object:
        reader.receive_data(sent)
        return reader.next()

    assert library() == own()
    yield "read the four frames of an answer (no socket)", library, own, 0


# -- gunicorn


def _config(*, plain: bool) -> Any:
    config = Config()
    for name, value in gunicorn_options(Settings()).items():
        if name in config.settings:
            config.set(name, value)
    if plain:
        vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    return config


def _parsed(kind: type[Any], config: Any) -> Any:
    return kind(config, IterUnreader([HEAD]), ("127.0.0.1", 1))


def _request_rows() -> Iterator[Row]:
    slow, plain = _config(plain=False), _config(plain=True)
    yield (
        "request.py: read a request's head",
        lambda: _parsed(Request, plain),
        lambda: _parsed(GatewayRequest, plain),
        1,
    )
    yield (
        "parts.py: settings as attributes, in that",
        lambda: _parsed(GatewayRequest, slow),
        lambda: _parsed(GatewayRequest, plain),
        1,
    )
    errors = WSGIErrorsWrapper(plain)
    yield "parts.py: one wsgi.errors", lambda: WSGIErrorsWrapper(plain), lambda: errors, 1
    yield "parts.py: wait, then receive", *_receivers(), 1


def _receivers() -> tuple[Work, Work]:
    """Ask a peer and receive what it says, which is not there yet."""

    def way(wrap: Callable[[Any], Any]) -> Work:
        near, far = socket.socketpair()

        def answer() -> None:
            while data := far.recv(100):
                far.sendall(data)

        gevent.spawn(answer)
        receiver = wrap(near)

        def ask() -> bytes:
            near.sendall(b"x")
            data: bytes = receiver.recv(100)
            return data

        return ask

    return way(lambda sock: sock), way(patient)


def _response_rows() -> Iterator[Row]:
    config = _config(plain=True)
    request = _parsed(Request, config)
    near, far = socket.socketpair()

    def answer(kind: type[Any], headers: list[tuple[str, str]], pieces: int) -> int:
        response = kind(request, near, config)
        response.start_response("200 OK", headers)
        for _ in range(pieces):
            response.write(BODY)
        response.close()
        return len(far.recv(1 << 20))

    for what, headers, pieces in (
        ("response.py: a blocking answer", ANSWER, 1),
        (f"response.py: a stream of {PIECES} events", [ANSWER[0], *ANSWER[2:]], PIECES),
    ):
        yield (
            what,
            lambda h=headers, p=pieces: answer(Response, h, p),
            lambda h=headers, p=pieces: answer(GatewayResponse, h, p),
            1 if pieces == 1 else 0,
        )


def main() -> None:
    logging.disable()
    print(f"{'':46} library     ours  saved  of a request")
    for what, library, own, share in (*_frame_rows(), *_request_rows(), *_response_rows()):
        pairs = [(_cpu(library), _cpu(own)) for _ in range(ROUNDS)]
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        part = f"{(theirs - ours) / REQUEST_CPU * 100:10.1f} %" if share else ""
        print(f"{what:46} {theirs:7.1f}  {ours:7.1f}  {theirs / ours:4.1f}x {part}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
