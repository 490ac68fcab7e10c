"""What injected tools cost a stream's first text.

Three gateways stand before one imitation provider: two plain ones and one whose users have the
tools of an MCP server.  The same request goes to them in turns, one at a time, and a client
on the same machine measures the time to the first text, and how long each later text is on
its way.  The second plain gateway shows what the method itself cannot tell apart.  Nothing
calls the tools: this is the price of offering them.

The provider thinks for a while before it answers.  With no thinking at all the gateway is
nearly all there is to measure; a real provider thinks for longer than the second figure.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
from attrs import frozen

from bench.load import DriverFailed
from bench.options import Options
from bench.payloads import Endpoint, body_of, raw_request
from bench.processes import CHECKOUT
from bench.scenarios.base import Column, Outcome, Variant
from bench.scenarios.parts import OfOurs
from bench.stand import Stand
from bench.systems import Running

__all__ = ["Injected"]

_APIS: Final = ("messages", "chat", "responses")
_THINKING: Final = {0: 60, 200: 12}
"""Milliseconds until the provider's first byte, and requests of a round to each gateway."""
EVENTS = 12
INTERVAL = 0.004
"""Seconds between two texts."""
TOOLS = 25
PLAIN, AGAIN, TOOLED = "plain", "plain again", "with tools"

_MARK = re.compile(rb"#(\d+)#")
_THINK = b"x-bench-think"


# -- the provider


def _event(name: str, **data: Any) -> bytes:
    payload = json.dumps({"type": name, **data}, separators=(",", ":"))
    return f"event: {name}\ndata: {payload}\n\n".encode()


def _chat_chunk(**choice: Any) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
    return b"data: " + json.dumps({**base, "choices": choices}).encode() + b"\n\n"


@frozen
class _Script:
    """A stream of one API: ``text`` holds ``#MARK#`` where the time of sending goes."""

    opening: bytes
    text: bytes
    closing: bytes


def _scripts() -> dict[str, _Script]:
    text = "#MARK# and some words"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    usage = {"input_tokens": 9, "output_tokens": 1}
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    counts = {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18}
    item = {"id": "item_1", "type": "message", "role": "assistant", "content": []}
    done = {**response, "status": "completed", "output": [item], "usage": counts}
    place = {"item_id": "item_1", "output_index": 0, "content_index": 0, "sequence_number": 2}
    return {
        "messages": _Script(
            _event("message_start", message={**message, "usage": usage})
            + _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
            _event("content_block_stop", index=0)
            + _event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
            + _event("message_stop"),
        ),
        "chat": _Script(
            _chat_chunk(delta={"role": "assistant", "content": ""}),
            _chat_chunk(delta={"content": text}),
            _chat_chunk(finish_reason="stop") + b"data: [DONE]\n\n",
        ),
        "responses": _Script(
            _event("response.created", response=response, sequence_number=0)
            + _event("response.output_item.added", output_index=0, item=item, sequence_number=1),
            _event("response.output_text.delta", delta=text, **place),
            _event("response.completed", response=done, sequence_number=3),
        ),
    }


_API_OF = {b"messages": "messages", b"completions": "chat", b"responses": "responses"}


def _provide(listener: socket.socket) -> None:
    """In a process of its own: a thread for each connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    scripts = _scripts()
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock, scripts), daemon=True).start()


def _serve(sock: socket.socket, scripts: dict[str, _Script]) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with contextlib.suppress(OSError), sock:
        while True:
            while b"\r\n\r\n" not in received:
                data = sock.recv(1 << 16)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            fields = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
            }
            left = int(fields.get(b"content-length", b"0")) - len(received)
            received = received[len(received) + left :] if left < 0 else b""
            while left > 0:
                left -= len(sock.recv(1 << 20))
            time.sleep(int(fields.get(_THINK, b"0")) / 1000)
            path = head.split(b" ", 2)[1]
            _answer(sock, scripts[_API_OF[path.rpartition(b"/")[2]]])


def _answer(sock: socket.socket, script: _Script) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    opening = head + b"\r\n" + _chunk(script.opening)
    began = time.monotonic()
    for number in range(EVENTS):
        left = began + number * INTERVAL - time.monotonic()
        if left > 0:
            time.sleep(left)
        text = script.text.replace(b"#MARK#", b"#%020d#" % time.monotonic_ns())
        # Provider and gateway see the opening and the first text at once, as with real ones.
        sock.sendall(opening + _chunk(text))
        opening = b""
    sock.sendall(_chunk(script.closing) + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- the client


@frozen
class Taken:
    """What a client measured of one stream, in seconds."""

    first_text: float
    later: tuple[float, ...]
    """For each later text: from the provider's hand to the client's."""


class Client:
    """One connection to one gateway; asks one thing after the other."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> Taken:
        received = bytearray()
        marks: list[float] = []
        seen, first = 0, 0.0
        began = time.monotonic()
        self._sock.sendall(request)
        while not received.endswith(b"\r\n0\r\n\r\n"):
            data = self._sock.recv(1 << 16)
            now = time.monotonic_ns()
            if not data:
                raise DriverFailed(f"the gateway broke off: {bytes(received[:500])!r}")
            received += data
            for mark in _MARK.finditer(received, seen):
                first = first or now / 1e9 - began
                marks.append((now - int(mark[1])) / 1e9)
                seen = mark.end()
        if not received.startswith(b"HTTP/1.1 200") or len(marks) != EVENTS:
            raise DriverFailed(f"{len(marks)} texts of {EVENTS}: {bytes(received[:500])!r}")
        return Taken(first, tuple(marks[1:]))

    def close(self) -> None:
        self._sock.close()


# -- the comparison


class Injected(OfOurs):
    name = "injected"
    title = "Tools that the gateway adds"
    about = (
        "Three gateways, two plain ones and one that adds 25 tools of an MCP server to each"
        " request, are asked in turns, one request at a time, with prompts of {tokens} tokens,"
        " before a provider that thinks for 0 or 200 ms. The second plain one shows what the"
        " method cannot tell apart. Later texts: how long one is on its way."
    )
    columns = (
        Column("plain_ms", "first text ms, plain", 2),
        Column("tools_ms", "with tools", 2, better="low"),
        Column("tools_percent", "more %", 1),
        Column("again_percent", "the other plain one %", 1),
        Column("later_p50_us", "later text p50 µs, plain"),
        Column("later_p99_us", "p99"),
        Column("later_tools_p50_us", "with tools p50", better="low"),
        Column("later_tools_p99_us", "p99"),
    )

    def variants(self, options: Options) -> list[Variant]:
        cases = [(api, thinking) for api in _APIS for thinking in _THINKING]
        return [
            Variant(f"{api}, {thinking} ms", number) for number, (api, thinking) in enumerate(cases)
        ]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        api, thinking = divmod(int(variant.value), len(_THINKING))
        case = (_APIS[api], list(_THINKING)[thinking])
        with _gateways(stand) as gateways:
            _ready(gateways, stand.options.tokens)
            taken = _round(case, gateways, stand.options.tokens)
        first = {name: statistics.median(each.first_text for each in taken[name]) for name in taken}
        plain, tooled = (
            [text * 1e6 for each in taken[name] for text in each.later] for name in (PLAIN, TOOLED)
        )
        return Outcome(
            numbers={
                "plain_ms": first[PLAIN] * 1e3,
                "tools_ms": first[TOOLED] * 1e3,
                "tools_percent": (first[TOOLED] / first[PLAIN] - 1) * 100,
                "again_percent": (first[AGAIN] / first[PLAIN] - 1) * 100,
                "later_p50_us": statistics.median(plain),
                "later_p99_us": statistics.quantiles(plain, n=100)[98],
                "later_tools_p50_us": statistics.median(tooled),
                "later_tools_p99_us": statistics.quantiles(tooled, n=100)[98],
            }
        )


def _definitions() -> list[dict[str, Any]]:
    """Tools of a usual size: about 700 bytes each."""
    properties = {
        f"parameter_{n}": {"type": "string", "description": "What it is good for. " * 4}
        for n in range(4)
    }
    schema = {"type": "object", "properties": properties, "required": ["parameter_0"]}
    return [
        {
            "name": f"tool_{n:02}",
            "description": "What the tool does, and when. " * 8,
            "inputSchema": schema,
        }
        for n in range(TOOLS)
    ]


@contextlib.contextmanager
def _gateways(stand: Stand) -> Iterator[dict[str, Running]]:
    # A module of the tests.
    sys.path[:0] = [str(CHECKOUT / "tests" / "mcp")]
    from mcp_scripted_server import ScriptedServer

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        provider = multiprocessing.get_context("fork").Process(
            target=_provide, args=(listener,), daemon=True
        )
        provider.start()
        stack.callback(provider.kill)
        server = stack.enter_context(ScriptedServer(*_definitions()))
        config = stand.file("tools.yaml")
        config.write_text(
            f"ai_gateway:\n  mcp_servers:\n    - {{id: bench, url: '{server.url}'}}\n"
        )
        ports = [listener.getsockname()[1]] * 2
        yield {
            name: stack.enter_context(
                # Only streams can be had of this provider.
                stand.another(
                    ports,
                    settled=False,
                    options=("--config", str(config)) if name == TOOLED else (),
                )
            )
            for name in (PLAIN, AGAIN, TOOLED)
        }


def _request(running: Running, api: str, thinking: int, tokens: int) -> bytes:
    body = body_of("messages" if api == "messages" else "chat", tokens=tokens, stream=True)
    endpoint = running.endpoints["messages" if api == "messages" else "chat"]
    if api == "responses":
        fields = json.loads(body)
        fields = {"model": "m", "stream": True, "input": fields["messages"]}
        body = json.dumps(fields, separators=(",", ":")).encode()
        endpoint = attrs.evolve(endpoint, path="/openai/v1/responses")
    headers = {**endpoint.headers, _THINK.decode(): str(thinking)}
    return raw_request(Endpoint(endpoint.port, endpoint.path, headers), body)


def _round(
    case: tuple[str, int], gateways: dict[str, Running], tokens: int
) -> dict[str, list[Taken]]:
    api, thinking = case
    clients = {name: Client(one.endpoints["chat"].port) for name, one in gateways.items()}
    bodies = {name: _request(one, api, thinking, tokens) for name, one in gateways.items()}
    found: dict[str, list[Taken]] = {name: [] for name in gateways}
    names = list(gateways)
    for number in range(_THINKING[thinking] + 2):
        # Each gateway is the first, the second and the third equally often.
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken = clients[name].ask(bodies[name])
            if number >= 2:
                found[name].append(taken)
    for client in clients.values():
        client.close()
    return found


def _ready(gateways: dict[str, Running], tokens: int) -> None:
    """Wait until all answer, and until the tools are known."""
    for running in gateways.values():
        end = time.monotonic() + 60
        while True:
            request = _request(running, "messages", 0, tokens)
            client = Client(running.endpoints["messages"].port)
            try:
                client.ask(request)
                break
            except DriverFailed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            finally:
                client.close()
