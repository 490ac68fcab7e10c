"""What is not part of an injected call reaches the client before the next piece is sent.

The provider sends a piece and waits until the client has got it: a gateway that keeps anything
back makes the client wait for ever.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from attrs import frozen
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, Tell, WaitFor, stream
from mcp_scripted_server import Exchange, ScriptedServer
from round_answers import Call, completion_parts, message_parts, response_parts

FIRST: Call = ("call_1", "bmcp_s_echo", {"n": 1})
SECOND: Call = ("call_2", "bmcp_s_echo", {"n": 2})


@frozen
class Api:
    path: str
    request: dict[str, Any]
    parts: Callable[..., list[list[bytes]]]


ASKED = [{"role": "user", "content": "hi"}]
APIS = {
    "messages": Api("/anthropic/v1/messages", {"max_tokens": 9, "messages": ASKED}, message_parts),
    "chat": Api("/openai/v1/chat/completions", {"messages": ASKED}, completion_parts),
    "responses": Api("/openai/v1/responses", {"input": ASKED}, response_parts),
}
each_api = pytest.mark.parametrize("api", APIS.values(), ids=list(APIS))


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rounds_provider: ScriptedProvider,
    server: ScriptedServer,
) -> Iterator[GatewayProcess]:
    """A gateway that sends no keepalives: what a client gets came from the provider."""
    folder = tmp_path_factory.mktemp("unbuffered")
    config = folder / "gateway.yaml"
    config.write_text(f"ai_gateway:\n  mcp_servers:\n    - {{id: s, url: '{server.url}'}}\n")
    upstreams = [
        Upstream("anthropic", rounds_provider.url),
        Upstream("openai", rounds_provider.url),
    ]
    options = ["--config", str(config), "--worker-class", request.param, "--keepalive-ping", "0"]
    with GatewayProcess(folder, upstreams, options) as gateway:
        yield gateway


class Reader:
    """A client that reads until it has seen something."""

    def __init__(self, answer: requests.Response) -> None:
        assert answer.status_code == 200
        self._pieces = answer.iter_content(None)
        self.seen = b""

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += next(self._pieces)

    def to_the_end(self) -> None:
        self.seen += b"".join(self._pieces)


@contextmanager
def asking(gateway: GatewayProcess, api: Api) -> Iterator[Reader]:
    with requests.post(
        f"{gateway.url}{api.path}",
        json={"model": "m", "stream": True, **api.request},
        headers={"Authorization": f"Bearer {gateway.key()}"},
        stream=True,
        timeout=20,
    ) as answer:
        yield Reader(answer)


@each_api
def test_texts_before_between_and_behind_calls_come_at_once(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, api: Api
) -> None:
    said: list[str | Call] = ["Before.", FIRST, "Between.", SECOND, "Behind."]
    opening, *parts, end = api.parts(said)
    gates = {part: threading.Event() for part in said if isinstance(part, str)}
    steps: list[Any] = [*opening]
    for part, events in zip(said, parts, strict=True):
        if isinstance(part, str):
            # The second half of a text is sent when the client has the first.
            half = next(n for n, event in enumerate(events, 1) if part[:3].encode() in event)
            steps += [*events[:half], WaitFor(gates[part], 15), *events[half:]]
        else:
            steps += events
    rounds_provider.play(stream([*steps, *end]))
    rounds_provider.play(
        stream(itertools.chain.from_iterable(api.parts(["That is all."], number=2)))
    )
    with asking(gateway, api) as reader:
        for part, gate in gates.items():
            reader.until(f'"{part[:3]}"'.encode())
            gate.set()
        reader.to_the_end()
    assert b"bmcp_" not in reader.seen
    assert b'"t is all."' in reader.seen


@each_api
def test_the_head_comes_before_the_tool_is_run(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, server: ScriptedServer, api: Api
) -> None:
    """Also when a call is the first thing that the model says."""
    client_has_the_head = threading.Event()
    in_time: list[bool] = []

    def wait(exchange: Exchange) -> None:
        in_time.append(client_has_the_head.wait(5))
        exchange.text("echo")

    opening, *rest = api.parts([FIRST])
    if api.parts is completion_parts:
        # Some providers begin with the call, without a role.
        opening = []
    rounds_provider.play(stream([*opening, *itertools.chain.from_iterable(rest)]))
    rounds_provider.play(stream(itertools.chain.from_iterable(api.parts(["Good."], number=2))))
    server.on["tools/call"] = wait
    try:
        with asking(gateway, api) as reader:
            client_has_the_head.set()
            reader.to_the_end()
    finally:
        del server.on["tools/call"]
    assert in_time == [True]
    assert b"bmcp_" not in reader.seen
    assert b'"Goo"' in reader.seen


@each_api
def test_the_text_of_a_later_round_comes_at_once(
    gateway: GatewayProcess, rounds_provider: ScriptedProvider, api: Api
) -> None:
    gate, sent = threading.Event(), threading.Event()
    rounds_provider.play(stream(itertools.chain.from_iterable(api.parts([FIRST]))))
    opening, text, end = api.parts(["Done now."], number=2)
    half = next(n for n, event in enumerate(text, 1) if b'"Don"' in event)
    rounds_provider.play(
        stream([*opening, *text[:half], Tell(sent), WaitFor(gate, 15), *text[half:], *end])
    )
    with asking(gateway, api) as reader:
        reader.until(b'"Don"')
        # The provider says so just behind the text, which may be here before.
        assert sent.wait(10)
        gate.set()
        reader.to_the_end()
    assert b'"e now."' in reader.seen
