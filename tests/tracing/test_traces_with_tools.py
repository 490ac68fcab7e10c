"""Traces of requests whose answer calls injected tools: each round, each call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, Step, Tell, WaitFor, answer, event, stream
from mcp_process import SDK_SERVER, mcp_server
from otlp_collector import Collector

HTTP = "POST /anthropic/v1/messages"
CALLS = [
    {"type": "tool_use", "id": "t1", "name": "bmcp_sdk_add", "input": {"a": 20_001, "b": 3}},
    {"type": "tool_use", "id": "t2", "name": "bmcp_sdk_broken", "input": {}},
]


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    with mcp_server(SDK_SERVER) as url:
        yield url


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
    collector: Collector,
    mcp_url: str,
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gw")
    config = folder / "gateway.yaml"
    config.write_text(f"ai_gateway:\n  mcp_servers:\n    - {{id: sdk, url: '{mcp_url}'}}\n")
    options = ["--config", str(config), "--trace", "--trace-endpoint", collector.url]
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    with GatewayProcess(
        folder, [Upstream("anthropic", provider.url)], options, environ=environ
    ) as gateway:
        yield gateway


def _message(content: list[dict[str, Any]], stop: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": stop,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def _streamed(message: dict[str, Any]) -> list[bytes]:
    """The message as events; what a block holds comes in one piece."""
    events = [("message_start", {"message": {**message, "content": [], "stop_reason": None}})]
    for index, block in enumerate(message["content"]):
        begun = {**block, "input": {}} if block["type"] == "tool_use" else {**block, "text": ""}
        delta = {"type": "text_delta", "text": block.get("text")}
        if block["type"] == "tool_use":
            whole = '{"a": 20001, "b": 3}' if block["input"] else "{}"
            delta = {"type": "input_json_delta", "partial_json": whole}
        events += [
            ("content_block_start", {"index": index, "content_block": begun}),
            ("content_block_delta", {"index": index, "delta": delta}),
            ("content_block_stop", {"index": index}),
        ]
    end = {"delta": {"stop_reason": message["stop_reason"]}, "usage": {"output_tokens": 1}}
    events += [("message_delta", end), ("message_stop", {})]
    return [event({"type": name, **data}, name=name) for name, data in events]


def _rounds(streaming: bool) -> list[list[Step]]:
    """The provider's answers to one request: one that calls two tools, one that is the end."""
    messages = [
        _message(CALLS, "tool_use"),
        _message([{"type": "text", "text": "20004"}], "end_turn"),
    ]
    return [stream(_streamed(one)) if streaming else answer(one) for one in messages]


def _ask(gateway: GatewayProcess, streaming: bool, user: str = "alice") -> requests.Response:
    got = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "m",
            "max_tokens": 9,
            "stream": streaming,
            "messages": [{"role": "user", "content": "?"}],
        },
        headers={"X-Api-Key": gateway.key(user)},
        timeout=30,
    )
    assert got.status_code == 200
    return got


def test_the_wait_for_a_users_tools_is_a_span(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    traces = []
    for _ in range(2):
        provider.play(_rounds(streaming=False)[1])
        traces.append(_ask(gateway, streaming=False, user="bob").headers["X-Trace-ID"])
    ends = {HTTP, "Intercept"}
    wait_until(lambda: ends <= set(collector.names(traces[1])), "both traces are complete")
    waited, known = (collector.names(trace_id) for trace_id in traces)
    assert waited["ServerProxyManager.Init"] == 1
    # The second request finds them where the first has left them.
    assert "ServerProxyManager.Init" not in known
    intercept = collector.one(traces[0], "Intercept")
    assert collector.one(traces[0], "ServerProxyManager.Init").parent_id == intercept.span_id


@pytest.mark.parametrize("streaming", [False, True])
def test_the_time_of_later_rounds_is_no_overhead(
    gateway: GatewayProcess, provider: ScriptedProvider, streaming: bool
) -> None:
    go_on, arrived = threading.Event(), threading.Event()
    first, second = _rounds(streaming)
    provider.play(first)
    provider.play([Tell(arrived), WaitFor(go_on), *second])
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_ask, gateway, streaming)
        assert arrived.wait(30)
        # Time passes in which nothing but the provider is waited for.
        threading.Event().wait(0.4)
        go_on.set()
        request_id = asked.result().headers["X-AI-Gateway-Request-Id"]

    def line() -> dict[str, Any] | None:
        lines = [one["fields"] for one in gateway.logs() if message_of(one) == "request"]
        return next((one for one in lines if one["request_id"] == request_id), None)

    found = wait_until(line, "the request is logged")
    assert found["overhead_ms"] <= found["duration_ms"] - 390


@pytest.mark.parametrize("streaming", [False, True])
def test_each_round_and_each_call_of_a_tool_is_a_span(
    gateway: GatewayProcess,
    collector: Collector,
    provider: ScriptedProvider,
    mcp_url: str,
    streaming: bool,
) -> None:
    seen = len(provider.requests)
    for script in _rounds(streaming):
        provider.play(script)
    got = _ask(gateway, streaming)
    trace_id = got.headers["X-Trace-ID"]
    ends = {HTTP, "Intercept"}
    wait_until(lambda: ends <= set(collector.names(trace_id)), f"trace {trace_id} is complete")
    names = collector.names(trace_id)
    assert names["Intercept.ProcessRequest.Upstream"] == 2
    assert names["Intercept.ProcessRequest.ToolCall"] == 2
    process = collector.one(trace_id, "Intercept.ProcessRequest")
    spans = collector.of_trace(trace_id)
    upstream = [one for one in spans if one.name == "Intercept.ProcessRequest.Upstream"]
    tools = {
        one.attributes["mcp_tool_name"]: one
        for one in spans
        if one.name == "Intercept.ProcessRequest.ToolCall"
    }
    assert {one.parent_id for one in (*upstream, *tools.values())} == {process.span_id}
    # Each request of the provider belongs to the span of its round.
    parents = [
        value.split("-")[2]
        for request in provider.requests[seen:]
        for name, value in request.headers
        if name.lower() == "traceparent"
    ]
    assert parents == [one.span_id for one in sorted(upstream, key=lambda one: one.started)]
    assert set(tools) == {"add", "broken"}
    assert [tools[name].failed for name in ("add", "broken")] == [False, True]
    for one in tools.values():
        assert one.attributes["mcp_server_name"] == "sdk"
        assert one.attributes["mcp_server_url"] == mcp_url
        assert one.attributes["provider"] == "anthropic"
        assert process.started <= one.started <= one.ended
    # What a model writes for a tool comes from what a user wrote.
    assert "20001" not in str([[one.attributes, one.message, one.events] for one in spans])
