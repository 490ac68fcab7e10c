"""What parts of our own cost beside those of the libraries.

WebSocket frames against websocket-client's, and what ``http/server/`` puts in the place of
gunicorn's request, response and the things around them.  Each pair does the same work on the same
bytes, in turns in one process under gevent, as a gateway's worker is; the numbers are medians of
the rounds in microseconds of CPU.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - patched first
import logging  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gunicorn.config import Config  # noqa: E402
from gunicorn.http.message import Request  # noqa: E402
from gunicorn.http.unreader import IterUnreader  # noqa: E402
from gunicorn.http.wsgi import Response, WSGIErrorsWrapper  # noqa: E402
from websocket import ABNF  # noqa: E402
from websocket._abnf import frame_buffer  # noqa: E402

from aigateway.actors.codec.websocket import BINARY, encode_frame  # noqa: E402
from aigateway.actors.control.coderd._websocket_frames import FrameReader  # noqa: E402
from aigateway.actors.upstream.waiting import patient  # noqa: E402
from aigateway.http.server.application import gunicorn_options  # noqa: E402
from aigateway.http.server.parts import GatewayRequest, GatewayResponse  # noqa: E402
from aigateway.http.settings import Settings  # noqa: E402

ROUNDS = 9

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
Work = Callable[[], object]
Pair = tuple[Work, Work]
"""The library's way, and ours."""


def _cpu(work: Work, times: int) -> float:
    """Microseconds of CPU for one time."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


# -- frames

SIZES = (12, 200, 12, 12)
"""Of the frames that coderd sends for one answer."""


def _written_frame(size: int) -> Pair:
    payload = bytes(size)
    return (
        lambda: ABNF.create_frame(payload, ABNF.OPCODE_BINARY).format(),
        lambda: encode_frame(BINARY, payload, os.urandom(4)),
    )


def _read_frames() -> Pair:
    """No socket is read."""
    # A server's frames are not masked.
    sent = b"".join(
        bytes((0x82, 126 if size > 125 else size))
        + (size.to_bytes(2, "big") if size > 125 else b"")
        + bytes(size)
        for size in SIZES
    )

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
    return library, own


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


def _read_head() -> Pair:
    plain = _config(plain=True)
    return lambda: _parsed(Request, plain), lambda: _parsed(GatewayRequest, plain)


def _settings() -> Pair:
    """As gunicorn has them and as attributes, while a head is read."""
    slow, plain = _config(plain=False), _config(plain=True)
    return lambda: _parsed(GatewayRequest, slow), lambda: _parsed(GatewayRequest, plain)


def _errors() -> Pair:
    plain = _config(plain=True)
    errors = WSGIErrorsWrapper(plain)
    return lambda: WSGIErrorsWrapper(plain), lambda: errors


def _receivers() -> Pair:
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


def _answer(headers: list[tuple[str, str]], pieces: int) -> Pair:
    config = _config(plain=True)
    request = _parsed(Request, config)
    near, far = socket.socketpair()

    def answer(kind: type[Any]) -> int:
        response = kind(request, near, config)
        response.start_response("200 OK", headers)
        for _ in range(pieces):
            response.write(BODY)
        response.close()
        return len(far.recv(1 << 20))

    return lambda: answer(Response), lambda: answer(GatewayResponse)


PAIRS: dict[str, Callable[[], Pair]] = {
    "write a frame of 200 bytes": partial(_written_frame, 200),
    "write a frame of 4096 bytes": partial(_written_frame, 4096),
    "read the four frames of an answer": _read_frames,
    "read a request's head": _read_head,
    "settings as attributes": _settings,
    "wsgi.errors": _errors,
    "wait, then receive": _receivers,
    "a blocking answer": partial(_answer, ANSWER, 1),
    "a stream of 10 events": partial(_answer, [ANSWER[0], *ANSWER[2:]], 10),
}


def main() -> None:
    """Options: ``part``, one of PAIRS, and how many ``times`` in a round."""
    options = json.loads(sys.argv[1])
    times = options["times"]
    logging.disable()
    library, own = PAIRS[options["part"]]()
    pairs = [(_cpu(library, times), _cpu(own, times)) for _ in range(ROUNDS)]
    theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    numbers = {
        "library_us": theirs,
        "own_us": ours,
        "saved_us": theirs - ours,
        "ratio": theirs / ours,
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
