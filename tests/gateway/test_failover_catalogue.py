"""What a client sees of each way in which a provider can fail while another one could answer.

The table is the documentation: a fault, and what becomes of it in a stream and in a blocking
request.

=========  ===========================================================================
``pass``   the client gets the other provider's whole answer, and the records say whose
``safe``   an answer had begun: the client sees it break off or gets the provider's error
           event, never a clean end; the records have the error, and nobody else is asked
=========  ===========================================================================
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import frozen
from gateway_process import GatewayProcess, Upstream
from imitation_provider import (
    Close,
    Reset,
    ScriptedProvider,
    Stall,
    Step,
    WaitFor,
    answer,
    chunk,
    cut,
    error,
    head,
    imitate,
    stream,
)

from aigateway.http.demo import imitation

AFTER = 1.0
"""Seconds after which a stream falls back on time alone, in the first gateway."""
PATH = {"messages": "/v1/messages", "chat": "/v1/chat/completions"}
TYPE = {"messages": "anthropic", "chat": "openai"}
EVENTS = "text/event-stream"
PAGE = b"<html><body>502 Bad Gateway</body></html>"
ERRORS = {
    "messages": {"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}},
    "chat": {"error": {"message": "too busy", "type": "server_error", "code": None}},
}


@frozen
class Ask:
    """A question in one of the APIs, and the parts of which scripts make a provider's answer."""

    api: str
    streaming: bool

    @property
    def body(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hello there"}]
        body = {"model": "m", "max_tokens": 99, "stream": self.streaming, "messages": messages}
        if self.api == "chat" and self.streaming:
            # Asked for already, so the request goes out as it came.
            body["stream_options"] = {"include_usage": True}
        return body

    @property
    def good(self) -> list[bytes]:
        """A right answer: a stream's events, or the one document."""
        headers = {"x-api-key": "k", "authorization": "Bearer k"}
        body = json.dumps(self.body).encode()
        found = imitation.answer(imitation.HeardRequest("POST", PATH[self.api], headers, body))
        return list(found.events) if found.events is not None else [found.body]

    @property
    def error(self) -> bytes:
        document = json.dumps(ERRORS[self.api]).encode()
        if not self.streaming:
            return document
        name = b"event: error\n" if self.api == "messages" else b""
        return name + b"data: " + document + b"\n\n"

    @property
    def content_type(self) -> str:
        return EVENTS if self.streaming else "application/json"

    def says(self, *parts: Step, end: bool = True) -> list[Step]:
        """A 200 with these parts, each in a chunk of its own."""
        return list(stream(parts, content_type=self.content_type, end=end))


Script = Callable[[Ask], list[Step]]


def first_half(ask: Ask) -> list[bytes]:
    """The first event and the half of the second; half of a document."""
    if not ask.streaming:
        return [ask.good[0][: len(ask.good[0]) // 2]]
    return [ask.good[0], ask.good[1][: len(ask.good[1]) // 2]]


def half_of_the_first(ask: Ask) -> bytes:
    return ask.good[0][: len(ask.good[0]) // 2]


def truncated(ask: Ask) -> list[Step]:
    """JSON that ends too early in an answer that is framed as whole."""
    rest = b"\n\n" if ask.streaming else b""
    return ask.says(half_of_the_first(ask).rstrip() + rest)


def bad_chunk(ask: Ask) -> list[Step]:
    fields = [("Content-Type", ask.content_type), ("Transfer-Encoding", "chunked")]
    return [head(200, fields) + b"zz\r\n" + ask.good[0], Close()]


def bad_chunk_later(ask: Ask) -> list[Step]:
    return [*ask.says(*first_half(ask), end=False), b"zz\r\nmore", Close()]


FAULTS: dict[str, tuple[Script, str, str]] = {
    # What the first provider does; what becomes of a stream; and of a blocking request.
    # -- before the head
    "no answer": (lambda ask: [Stall()], "pass", "pass"),
    "a reset before the head": (lambda ask: [Reset()], "pass", "pass"),
    "a close before the head": (lambda ask: [Close()], "pass", "pass"),
    "half a head": (lambda ask: [b"HTTP/1.1 200 OK\r\nConte", Reset()], "pass", "pass"),
    "no HTTP": (lambda ask: [b"SSH-2.0-OpenSSH_9\r\n", Close()], "pass", "pass"),
    "a huge head": (
        lambda ask: [head(200, [("X-Fill", "x" * 1000)] * 300)],
        "pass",
        "pass",
    ),
    # -- statuses
    "429": (lambda ask: error(429), "pass", "pass"),
    "429 with Retry-After": (lambda ask: error(429, retry_after="1"), "pass", "pass"),
    "503": (lambda ask: error(503), "pass", "pass"),
    "503 with Retry-After": (lambda ask: error(503, retry_after="1"), "pass", "pass"),
    "500": (lambda ask: error(500), "pass", "pass"),
    "529": (lambda ask: error(529), "pass", "pass"),
    "a proxy's 502": (lambda ask: answer(PAGE, 502, content_type="text/html"), "pass", "pass"),
    # -- a 200 that is none
    "a reset after the head": (lambda ask: cut([]), "pass", "pass"),
    "a close after the head": (lambda ask: cut([], Close()), "pass", "pass"),
    "an empty 200": (
        lambda ask: answer(b"", content_type=ask.content_type),
        "pass",
        "pass",
    ),
    "an empty chunked 200": (lambda ask: ask.says(), "pass", "pass"),
    "an HTML page": (lambda ask: answer(PAGE, content_type="text/html"), "pass", "pass"),
    "an HTML page without a type": (lambda ask: answer(PAGE, content_type=None), "pass", "pass"),
    "an HTML page labelled as the answer": (
        lambda ask: answer(PAGE, content_type=ask.content_type),
        "pass",
        "pass",
    ),
    "the wrong type": (
        lambda ask: answer(b"upstream error", content_type="text/plain"),
        "pass",
        "pass",
    ),
    "the other form of answer": (
        lambda ask: Ask(ask.api, not ask.streaming).says(*Ask(ask.api, not ask.streaming).good),
        "pass",
        "pass",
    ),
    "an error in a 200": (lambda ask: ask.says(ask.error), "pass", "pass"),
    "an error in a 200, behind a comment": (
        lambda ask: ask.says(*([b": wait\n\n"] if ask.streaming else []), ask.error),
        "pass",
        "pass",
    ),
    "an error document, whatever was asked": (
        lambda ask: answer(ERRORS[ask.api]),
        "pass",
        "pass",
    ),
    "truncated JSON": (truncated, "pass", "pass"),
    "a cut inside the first event": (lambda ask: cut([half_of_the_first(ask)]), "pass", "pass"),
    "bad chunking": (bad_chunk, "pass", "pass"),
    "a broken content coding": (
        lambda ask: answer(
            b"no gzip", headers=[("Content-Encoding", "gzip")], content_type=ask.content_type
        ),
        "pass",
        "pass",
    ),
    "silence behind the head": (lambda ask: [*ask.says(end=False), Stall()], "pass", "pass"),
    "comments for ever": (
        lambda ask: [*ask.says(*[b": wait\n\n"] * 9, end=False), Stall()],
        "pass",
        "pass",
    ),
    # -- an answer that has begun; of a blocking one nothing was relayed yet
    "a reset inside an event": (lambda ask: cut(first_half(ask)), "safe", "pass"),
    "a close inside an event": (lambda ask: cut(first_half(ask), Close()), "safe", "pass"),
    "an end inside an event": (lambda ask: ask.says(*first_half(ask)), "safe", "pass"),
    "bad chunking behind an event": (bad_chunk_later, "safe", "pass"),
    "an error event behind an event": (
        lambda ask: ask.says(ask.good[0], ask.error) if ask.streaming else ask.says(ask.error),
        "safe",
        "pass",
    ),
    "silence inside an answer": (
        lambda ask: [*ask.says(*first_half(ask), end=False), Stall()],
        "safe",
        "safe",
    ),
}


@pytest.fixture(scope="module")
def providers() -> Iterator[tuple[ScriptedProvider, ScriptedProvider]]:
    with ScriptedProvider() as first, ScriptedProvider(otherwise=imitate()) as second:
        yield first, second


@pytest.fixture(autouse=True)
def _forgotten(providers: tuple[ScriptedProvider, ScriptedProvider]) -> Iterator[None]:
    """A test that fails leaves no answer to the next one."""
    yield
    for provider in providers:
        provider.forget()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    providers: tuple[ScriptedProvider, ScriptedProvider],
) -> Iterator[GatewayProcess]:
    """Gives up heads after three seconds, streams after one, and silence after two."""
    first, second = (provider.url for provider in providers)
    patience = {
        "FALLBACK_AFTER": f"{AFTER:g}s",
        "FIRST_BYTE_TIMEOUT": "3s",
        "IDLE_TIMEOUT": "2s",
        # Over before a next request can come, however soon.
        "KEY_REST_MAX": "1ms",
    }
    upstreams = []
    for api, kind in TYPE.items():
        extra = {"FALLBACK": f"{api}-b", **patience}
        upstreams += [
            Upstream(kind, first, f"{api}-a", "sk-first", extra),
            Upstream(kind, second, f"{api}-b", "sk-second"),
        ]
    options = ["--drain-timeout", "1s"]
    with GatewayProcess(tmp_path_factory.mktemp("failover"), upstreams, options) as gateway:
        yield gateway


@frozen
class Seen:
    """What the client saw: ``broke`` when the answer had no proper end."""

    status: int
    body: bytes
    broke: bool
    id: str


def send(gateway: GatewayProcess, ask: Ask) -> Seen:
    key = gateway.key()
    with requests.post(
        f"{gateway.url}/{ask.api}-a{PATH[ask.api]}",
        json=ask.body,
        headers={"X-Api-Key": key, "Authorization": f"Bearer {key}"},
        stream=True,
        timeout=30,
    ) as got:
        body, broke = b"", False
        try:
            for piece in got.raw.stream(decode_content=True):
                body += piece
        except Exception:
            broke = True
        return Seen(got.status_code, body, broke, got.headers["X-AI-Gateway-Interception-Id"])


asks = pytest.mark.parametrize(
    "ask",
    [Ask(api, streaming) for api in TYPE for streaming in (True, False)],
    ids=lambda ask: f"{ask.api}-{'stream' if ask.streaming else 'blocking'}",
)


@asks
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_the_catalogue_ends_well(
    gateway: GatewayProcess,
    providers: tuple[ScriptedProvider, ScriptedProvider],
    ask: Ask,
    name: str,
) -> None:
    script, streamed, blocking = FAULTS[name]
    expected = streamed if ask.streaming else blocking
    first, second = providers
    asked, others = len(first.requests), len(second.requests)
    first.play(script(ask))
    seen = send(gateway, ask)
    found = gateway.records(seen.id)
    assert len(first.requests) == asked + 1
    if expected == "pass":
        assert (seen.status, seen.body, seen.broke) == (200, b"".join(ask.good), False)
        assert (found["provider_name"], found["error_type"]) == (f"{ask.api}-b", None)
        assert sum(each["output_tokens"] for each in found["token_usages"]) > 0
        assert len(second.requests) == others + 1
    else:
        assert seen.broke or ask.error in seen.body
        assert found["error_type"] is not None
        assert found["provider_name"] == f"{ask.api}-a"
        assert len(second.requests) == others


WHY = {
    # What the record says of the first provider, which may bill its attempt all the same.
    "no answer": "slow",
    "silence behind the head": "slow",
    "a reset before the head": "broke_off",
    "a reset after the head": "broke_off",
    "an empty 200": "empty",
    "an HTML page": "bad_answer",
    "503": None,
    "429": None,
    "an error in a 200": None,
}


@pytest.mark.parametrize(("name", "why"), WHY.items())
def test_an_attempt_that_may_be_billed_is_recorded_as_abandoned(
    gateway: GatewayProcess,
    providers: tuple[ScriptedProvider, ScriptedProvider],
    name: str,
    why: str | None,
) -> None:
    ask = Ask("messages", True)
    providers[0].play(FAULTS[name][0](ask))
    found = gateway.records(send(gateway, ask).id)
    attempts = json.loads(found["metadata"] or "{}").get("abandoned_attempts", [])
    if why is None:
        assert attempts == []
        return
    (attempt,) = attempts
    assert attempt.pop("after_seconds") >= (AFTER if why == "slow" else 0)
    assert attempt == {"provider": "messages-a", "model": "m", "why": why}


def test_a_blocking_request_waits_for_a_slow_head_where_a_stream_does_not(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider]
) -> None:
    first, _ = providers
    blocking, streaming = Ask("messages", False), Ask("messages", True)
    late = threading.Event()
    asked = len(first.requests)
    first.play([WaitFor(late), *blocking.says(*blocking.good)])
    first.play([Stall()])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, gateway, blocking)
        first.wait_for_request(asked + 1)
        # It began later, and is answered by the other provider before.
        hurried = send(gateway, streaming)
        late.set()
        patient = waiting.result(30)
    assert gateway.records(hurried.id)["provider_name"] == "messages-b"
    assert gateway.records(patient.id)["provider_name"] == "messages-a"
    assert patient.body == b"".join(blocking.good)


@asks
def test_an_endless_answer_ends_when_its_client_has_had_enough(
    gateway: GatewayProcess, providers: tuple[ScriptedProvider, ScriptedProvider], ask: Ask
) -> None:
    first, second = providers
    asked, others = len(first.requests), len(second.requests)
    more = chunk(ask.good[1] if ask.streaming else b" " * 4096)
    first.play(
        [*ask.says(ask.good[0][: None if ask.streaming else -1], end=False)] + [more] * 10**6
    )
    key = gateway.key()
    with requests.post(
        f"{gateway.url}/{ask.api}-a{PATH[ask.api]}",
        json=ask.body,
        headers={"X-Api-Key": key, "Authorization": f"Bearer {key}"},
        stream=True,
        timeout=30,
    ) as got:
        assert got.raw.read(2048)
        id = got.headers["X-AI-Gateway-Interception-Id"]
    assert first.wait_for_request(asked + 1).client_left.wait(30)
    found = gateway.records(id)
    assert (found["provider_name"], found["error_type"]) == (f"{ask.api}-a", "unknown")
    assert len(second.requests) == others


def test_a_provider_that_was_away_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    ask = Ask("messages", True)
    with (
        ScriptedProvider(otherwise=imitate()) as first,
        ScriptedProvider(otherwise=imitate()) as second,
    ):
        upstreams = [
            Upstream("anthropic", first.url, "messages-a", "sk-first", {"FALLBACK": "b"}),
            Upstream("anthropic", second.url, "b", "sk-second"),
        ]
        first.refuse()
        with GatewayProcess(tmp_path, upstreams) as gateway:
            away = send(gateway, ask)
            first.listen()
            back = send(gateway, ask)
            assert away.body == back.body == b"".join(ask.good)
            names = [gateway.records(seen.id)["provider_name"] for seen in (away, back)]
            assert names == ["b", "messages-a"]
