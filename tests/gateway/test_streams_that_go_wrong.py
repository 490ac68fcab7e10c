"""Upstreams and clients that break off, keep silent or answer oddly: what each side sees."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    Close,
    Reset,
    ScriptedProvider,
    Stall,
    Step,
    Tell,
    WaitFor,
    answer,
    cut,
    encoded,
    error,
    event,
    imitate,
    stream,
)
from raw_client import RawAnswer, RawClient, unzip


@frozen
class Api:
    """One API in the words that these tests need."""

    path: str
    ask: dict[str, Any]
    events: tuple[bytes, ...]
    """A whole stream: its usage says 7 tokens in and 9 out in all."""
    last: bytes
    """What no client must see of a cut stream."""
    blocking: dict[str, Any]

    def is_error_event(self, data: bytes) -> bool:
        """Whether the last event of ``data`` is an error in this API's shape."""
        text = data.rstrip(b"\n").rpartition(b"\n\n")[2].decode()
        found = next(line for line in text.split("\n") if line.startswith("data:"))
        document = json.loads(found.removeprefix("data:"))
        return "error" in document or document.get("type") == "error"


def _claude(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, name=kind)


MESSAGES = Api(
    path="/anthropic/v1/messages",
    ask={"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    events=(
        _claude(
            "message_start",
            message={
                "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
                "content": [], "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": 7, "output_tokens": 1},
            },
        ),
        _claude("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _claude("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
        _claude("content_block_stop", index=0),
        _claude("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}),
        _claude("message_stop"),
    ),
    last=b"message_stop",
    blocking={
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 9},
    },
)  # fmt: skip


def _chunk(**data: Any) -> bytes:
    return event(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "g", **data}
    )


def _choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": reason}]


CHAT = Api(
    path="/openai/v1/chat/completions",
    ask={
        "model": "g",
        "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": True},
    },
    events=(
        _chunk(choices=_choice({"role": "assistant", "content": ""})),
        _chunk(choices=_choice({"content": "Hello"})),
        _chunk(choices=_choice({}, "stop")),
        _chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}),
        event("[DONE]"),
    ),
    last=b"[DONE]",
    blocking={
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "g",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16},
    },
)  # fmt: skip

_RESPONSE = {"id": "resp_1", "object": "response", "model": "g", "output": []}
_COMPLETED = {
    **_RESPONSE,
    "status": "completed",
    "output": [
        {
            "type": "message", "id": "m", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16},
}  # fmt: skip

RESPONSES = Api(
    path="/openai/v1/responses",
    ask={"model": "g", "input": "hi"},
    events=(
        _claude("response.created", sequence_number=0, response={**_RESPONSE, "status": "queued"}),
        _claude("response.output_text.delta", sequence_number=1, item_id="m", delta="Hello"),
        _claude("response.completed", sequence_number=2, response=_COMPLETED),
    ),
    last=b"response.completed",
    blocking=_COMPLETED,
)

APIS = pytest.mark.parametrize(
    "api", [MESSAGES, CHAT, RESPONSES], ids=["messages", "chat", "responses"]
)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    """Short patience, so that silence shows within a second."""
    options = ["--keepalive-ping", "200ms", "--idle-timeout", "1500ms", "--drain-timeout", "5s"]
    upstreams = [
        Upstream("anthropic", provider.url),
        Upstream("openai", provider.url, extra={"KEEPALIVE_PING": "200ms"}),
        Upstream("openai", provider.url, "quiet", extra={"IDLE_TIMEOUT": "900ms"}),
        Upstream("anthropic", provider.url, "off", extra={"KEEPALIVE_PING": "0"}),
    ]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams, options) as gateway:
        yield gateway


@pytest.fixture(params=["gevent", "gthread"], scope="module")
def each_gateway(request: pytest.FixtureRequest) -> GatewayProcess:
    name = "gateway" if request.param == "gevent" else "thread_gateway"
    found = request.getfixturevalue(name)
    assert isinstance(found, GatewayProcess)
    return found


@pytest.fixture(scope="module")
def thread_gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    options = ["--keepalive-ping", "200ms", "--idle-timeout", "1500ms", "--drain-timeout", "5s"]
    upstreams = [
        Upstream("anthropic", provider.url),
        Upstream("openai", provider.url, extra={"KEEPALIVE_PING": "200ms"}),
        Upstream("openai", provider.url, "quiet", extra={"IDLE_TIMEOUT": "900ms"}),
        Upstream("anthropic", provider.url, "off", extra={"KEEPALIVE_PING": "0"}),
    ]
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, ["--worker-class", "gthread", *options]) as gateway:
        yield gateway


def _stream(gateway: GatewayProcess, api: Api, script: list[Step], provider: Any) -> RawAnswer:
    provider.play(script)
    with RawClient(gateway) as client:
        client.post(api.path, {**api.ask, "stream": True})
        return client.answer()


def _tokens(found: dict[str, Any]) -> tuple[int, int]:
    return (
        sum(row["input_tokens"] for row in found["token_usages"]),
        sum(row["output_tokens"] for row in found["token_usages"]),
    )


# -- the upstream breaks off


@APIS
def test_a_whole_stream_is_relayed_and_ended(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    got = _stream(each_gateway, api, stream(api.events), provider)
    assert (got.status, got.body, got.ended) == (200, b"".join(api.events), True)
    found = each_gateway.records(got.interception_id)
    assert found["error_type"] is None
    assert _tokens(found) == (7, 9)


@APIS
@pytest.mark.parametrize("how", [Reset(), Close()], ids=["reset", "close"])
def test_an_upstream_that_breaks_off_before_its_head_is_a_502(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api, how: Step
) -> None:
    got = _stream(each_gateway, api, [b"HTTP/1.1 2", how], provider)
    assert (got.status, got.headers["content-type"]) == (502, "application/json")
    assert json.loads(got.body)["error"]["message"]
    found = each_gateway.records(got.interception_id)
    assert found["error_type"] == "server_error"
    assert found["error_message"]


@APIS
@pytest.mark.parametrize("how", [Reset(), Close()], ids=["reset", "close"])
@pytest.mark.parametrize("sent", [0, 1, 2])
def test_a_cut_stream_never_looks_complete(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api, sent: int, how: Step
) -> None:
    got = _stream(
        each_gateway, api, cut(list(api.events[:sent]) or [b": hello\n\n"], how), provider
    )
    assert got.status == 200
    assert not got.ended
    assert api.last not in got.body.replace(b"".join(api.events[:sent]), b"")
    assert got.body.startswith(b"".join(api.events[:sent]))
    assert api.is_error_event(got.body)
    found = each_gateway.records(got.interception_id)
    assert found["error_type"] == "server_error"


@APIS
def test_a_stream_cut_inside_an_event_ends_in_an_event_of_its_own(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    half = api.events[1][: len(api.events[1]) // 2]
    got = _stream(each_gateway, api, cut([api.events[0], half], Reset()), provider)
    assert not got.ended
    assert got.body.startswith(api.events[0])
    assert api.is_error_event(got.body)


@APIS
def test_a_clean_http_end_before_the_streams_own_end_is_a_cut_all_the_same(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    got = _stream(each_gateway, api, stream(api.events[:2]), provider)
    assert not got.ended
    assert api.is_error_event(got.body)


def test_an_error_event_of_the_upstream_is_relayed_as_its_own_end(
    each_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    overloaded = _claude("error", error={"type": "overloaded_error", "message": "Overloaded"})
    events = [MESSAGES.events[0], overloaded]
    got = _stream(each_gateway, MESSAGES, stream(events), provider)
    assert (got.body, got.ended) == (b"".join(events), True)
    found = each_gateway.records(got.interception_id)
    assert found["error_type"] == "overloaded"
    assert "Overloaded" in found["error_message"]
    assert _tokens(found) == (7, 1)


@APIS
def test_a_silent_upstream_is_waited_for_and_then_cut(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    hangup = threading.Event()
    got = _stream(each_gateway, api, stream([api.events[0], Stall(hangup)], end=False), provider)
    assert not got.ended
    waiting = got.body.removeprefix(api.events[0])
    ping = b"event: ping\n" if api is MESSAGES else b": keepalive\n"
    assert waiting.count(ping) >= 3
    assert api.is_error_event(got.body)
    assert hangup.wait(10), "the upstream's connection was not closed"
    assert each_gateway.records(got.interception_id)["error_type"] == "timeout"


@APIS
def test_only_anthropics_api_has_keepalives_unless_a_provider_says_otherwise(
    gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    name = "off" if api is MESSAGES else "quiet"
    provider.play(stream([api.events[0], Stall()], end=False))
    with RawClient(gateway) as client:
        path = api.path.split("/", 2)[2]
        client.post(f"/{name}/{path}", {**api.ask, "stream": True})
        got = client.answer()
    assert got.body.startswith(api.events[0])
    assert api.is_error_event(got.body)
    assert b"ping" not in got.body
    assert b"keepalive" not in got.body


# -- odd answers


@APIS
def test_a_blocking_answer_to_a_streaming_request_is_read_as_what_it_is(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    got = _stream(each_gateway, api, answer(api.blocking), provider)
    assert (got.status, json.loads(got.body), got.ended) == (200, api.blocking, True)
    assert _tokens(each_gateway.records(got.interception_id)) == (7, 9)


@APIS
def test_a_stream_that_nobody_asked_for_is_read_as_what_it_is(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    provider.play(stream(api.events))
    with RawClient(each_gateway) as client:
        client.post(api.path, {k: v for k, v in api.ask.items() if k != "stream_options"})
        got = client.answer()
    assert (got.body, got.ended) == (b"".join(api.events), True)
    assert _tokens(each_gateway.records(got.interception_id)) == (7, 9)


@APIS
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_an_encoded_stream_is_relayed_as_it_came_and_read_beside_it(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api, coding: str
) -> None:
    got = _stream(each_gateway, api, stream(api.events, encoding=coding), provider)
    assert got.headers["content-encoding"] == coding
    assert got.ended
    assert unzip(got.body, coding) == b"".join(api.events)
    assert _tokens(each_gateway.records(got.interception_id)) == (7, 9)


@APIS
def test_an_encoded_body_is_relayed_as_it_came_and_read_beside_it(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    provider.play(answer(api.blocking, encoding="gzip"))
    with RawClient(each_gateway) as client:
        client.post(api.path, api.ask)
        got = client.answer()
    assert got.body == encoded(json.dumps(api.blocking).encode(), "gzip")
    assert _tokens(each_gateway.records(got.interception_id)) == (7, 9)


@APIS
def test_a_page_instead_of_an_answer_is_an_error(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    page = b"<html>hello from a proxy</html>"
    got = _stream(each_gateway, api, answer(page, content_type="text/html"), provider)
    assert (got.status, got.headers["content-type"]) == (502, "application/json")
    assert "invalid response" in json.loads(got.body)["error"]["message"]
    assert each_gateway.records(got.interception_id)["error_type"] is not None


@APIS
@pytest.mark.parametrize(("status", "kind"), [(529, "overloaded"), (500, "server_error")])
def test_an_error_answer_is_relayed_with_its_headers(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api, status: int, kind: str
) -> None:
    # A key that was limited rests for as long as the provider says.
    script = error(status, retry_after="1" if status == 429 else "17")
    got = _stream(each_gateway, api, script, provider)
    assert got.status == status
    assert json.loads(got.body)["error"]
    assert "retry-after" in got.headers
    found = each_gateway.records(got.interception_id)
    assert found["error_type"] == kind


# -- the client goes away


@APIS
def test_a_client_that_left_in_mid_stream_costs_no_usage(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    gone = threading.Event()
    script = stream([*api.events[:1], WaitFor(gone), *api.events[1:]])
    provider.play(script)
    client = RawClient(each_gateway)
    client.post(api.path, {**api.ask, "stream": True})
    head = client.read_until(api.events[0])
    client.reset()
    gone.set()
    line = next(x for x in head.split(b"\r\n") if x.lower().startswith(b"x-ai-gateway-inter"))
    found = each_gateway.records(line.split(b":")[1].strip().decode())
    assert _tokens(found) == (7, 9)
    assert found["error_type"] is None


@APIS
def test_a_client_that_left_before_the_head_costs_no_usage(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    before = {row["id"] for row in each_gateway.rows("SELECT id FROM interceptions")}
    here, gone = threading.Event(), threading.Event()
    provider.play([Tell(here), WaitFor(gone), *stream(api.events)])
    client = RawClient(each_gateway)
    client.post(api.path, {**api.ask, "stream": True})
    assert here.wait(10)
    client.reset()
    gone.set()
    (new,) = wait_until(
        lambda: {r["id"] for r in each_gateway.rows("SELECT id FROM interceptions")} - before,
        "the interception is recorded",
    )
    assert _tokens(each_gateway.records(new)) == (7, 9)


@APIS
def test_a_client_that_left_after_the_last_event_costs_nothing(
    each_gateway: GatewayProcess, provider: ScriptedProvider, api: Api
) -> None:
    gone = threading.Event()
    provider.play(stream([*api.events, WaitFor(gone)]))
    client = RawClient(each_gateway)
    client.post(api.path, {**api.ask, "stream": True})
    head = client.read_until(api.events[-1])
    client.reset()
    gone.set()
    line = next(x for x in head.split(b"\r\n") if x.lower().startswith(b"x-ai-gateway-inter"))
    found = each_gateway.records(line.split(b":")[1].strip().decode())
    assert _tokens(found) == (7, 9)
    assert found["error_type"] is None


def test_a_connection_is_used_again_only_when_it_is_clean(tmp_path_factory: Any) -> None:
    with ScriptedProvider(otherwise=imitate()) as provider:
        upstreams = [Upstream("anthropic", provider.url)]
        with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams) as gateway:
            for _ in range(3):
                assert _stream(gateway, MESSAGES, stream(MESSAGES.events), provider).ended
            assert provider.connections == 1
            script = cut(list(MESSAGES.events[:2]), Close())
            assert not _stream(gateway, MESSAGES, script, provider).ended
            assert _stream(gateway, MESSAGES, stream(MESSAGES.events), provider).ended
            assert provider.connections == 2
