"""Events of the conventions for generative AI, as a collector gets them of a real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, all_stopped, wait_until
from imitation_provider import ScriptedProvider, answer, error, event, stream
from otlp_collector import Collector, Event, GrpcCollector

Start = Callable[..., GatewayProcess]

ASKED = {
    "model": "claude-x",
    "max_tokens": 9,
    "messages": [
        {"role": "user", "content": "an earlier question"},
        {"role": "assistant", "content": "an earlier answer"},
        {"role": "user", "content": "a private question"},
    ],
}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x-2",
    "content": [
        {"type": "thinking", "thinking": "a private thought"},
        {"type": "text", "text": "a private answer"},
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file": "a private file"}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 5},
}
THOUGHT = {"type": "reasoning", "content": "a private thought"}
TEXT = {"type": "text", "content": "a private answer"}
CALL = {
    "type": "tool_call",
    "id": "toolu_1",
    "name": "Read",
    "arguments": {"file": "a private file"},
}
INPUT = [{"role": "user", "parts": [{"type": "text", "content": "a private question"}]}]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def start(tmp_path: Path, provider: ScriptedProvider, collector: Collector) -> Iterator[Start]:
    with all_stopped() as running:

        def start(*options: str, to: str = collector.url, **environ: str) -> GatewayProcess:
            upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
            gateway = GatewayProcess(
                tmp_path,
                upstreams,
                ["--trace", "--trace-endpoint", to, *options],
                environ={
                    "OTEL_BLRP_SCHEDULE_DELAY": "50",
                    "OTEL_BSP_SCHEDULE_DELAY": "50",
                    **environ,
                },
            )
            running.append(gateway)
            return gateway.start()

        yield start
    for gateway in running:
        assert not [line for line in gateway.logs() if "opentelemetry" in json.dumps(line)]


def post(gateway: GatewayProcess, body: Any = ASKED, path: str = "/anthropic/v1/messages") -> str:
    """The id of the trace."""
    answered = requests.post(
        gateway.url + path,
        json=body,
        headers={
            "Authorization": f"Bearer {gateway.key()}",
            "User-Agent": "claude-cli/2.1",
            "X-Claude-Code-Session-Id": "a-session",
        },
        timeout=30,
    )
    return answered.headers["X-Trace-ID"]


def told(collector: Collector | GrpcCollector, trace: str) -> Event:
    def of_trace() -> list[Event]:
        return [each for each in list(collector.events) if each.trace_id == trace]

    (found,) = wait_until(of_trace, f"the collector has the event of {trace}")
    return found


def output(*parts: Any, reason: str = "tool_call") -> list[dict[str, Any]]:
    return [{"role": "assistant", "parts": [*parts], "finish_reason": reason}]


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("none", {}),
        (
            "prompts",
            {"gen_ai.input.messages": INPUT, "gen_ai.output.messages": output(THOUGHT, CALL)},
        ),
        (
            "full",
            {"gen_ai.input.messages": INPUT, "gen_ai.output.messages": output(THOUGHT, TEXT, CALL)},
        ),
    ],
)
def test_an_event_tells_of_each_request_what_the_content_level_lets_be_recorded(
    start: Start,
    provider: ScriptedProvider,
    collector: Collector,
    level: str,
    messages: dict[str, Any],
) -> None:
    gateway = start("--trace-gen-ai", "--content", level)
    provider.play(answer(ANSWER))
    found = told(collector, post(gateway))
    assert found.name == "gen_ai.client.inference.operation.details"
    (span,) = wait_until(
        lambda: [each for each in collector.of_trace(found.trace_id) if each.name == "Intercept"],
        "the span of the interception is there",
    )
    assert found.span_id == span.span_id
    assert found.resource["service.name"] == "coder-ai-gateway"
    assert found.attributes == messages | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-x",
        "gen_ai.request.stream": False,
        "gen_ai.conversation.id": "a-session",
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": "claude-x-2",
        "gen_ai.usage.input_tokens": 8,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 0,
    }
    # Spans have no content, whatever events have.
    shown = json.dumps([each.attributes for each in collector.spans])
    assert "private" not in shown


def test_a_policy_lowers_what_events_tell(
    start: Start, provider: ScriptedProvider, collector: Collector, tmp_path: Path
) -> None:
    gateway = start("--trace-gen-ai", "--content", "full")
    policy = tmp_path / "policy.yaml"
    policy.write_text("everybody: {content: none}\n")
    done = gateway.command(
        "policy", "apply", "--yes", "--local-db", str(gateway.database), str(policy)
    )
    assert done.returncode == 0

    def silent() -> bool:
        provider.play(answer(ANSWER))
        return "private" not in json.dumps(told(collector, post(gateway)).attributes)

    wait_until(silent, "the policy is in force")


def test_an_answer_that_fails_is_told_with_its_error(
    start: Start, provider: ScriptedProvider, collector: Collector
) -> None:
    gateway = start("--trace-gen-ai", "--content", "full")
    provider.play(error(400))
    found = told(collector, post(gateway))
    assert found.attributes["error.type"] == "bad_request"
    assert "gen_ai.output.messages" not in found.attributes


def test_each_choice_of_a_stream_is_a_message_with_its_reason(
    start: Start, provider: ScriptedProvider, collector: Collector
) -> None:
    gateway = start("--trace-gen-ai", "--content", "full")
    deltas = [{"index": index, "delta": {"content": f"text {index}"}} for index in (0, 1)]
    ends = [{"index": index, "delta": {}, "finish_reason": "length"} for index in (0, 1)]
    events = [event({"id": "c-1", "choices": [each]}) for each in (*deltas, *ends)]
    provider.play(stream([*events, event("[DONE]")]))
    body = {"model": "gpt-x", "stream": True, "n": 2, "messages": ASKED["messages"]}
    found = told(collector, post(gateway, body, "/openai/v1/chat/completions"))
    assert found.attributes["gen_ai.output.messages"] == [
        *output({"type": "text", "content": "text 0"}, reason="length"),
        *output({"type": "text", "content": "text 1"}, reason="length"),
    ]


def test_long_texts_are_cut(start: Start, provider: ScriptedProvider, collector: Collector) -> None:
    gateway = start("--trace-gen-ai")
    provider.play(answer(ANSWER))
    found = told(collector, post(gateway, {**ASKED, "messages": [
        {"role": "user", "content": "x" * 100_000}
    ]}))  # fmt: skip
    (message,) = found.attributes["gen_ai.input.messages"]
    assert len(message["parts"][0]["content"]) == 65_536


def test_without_the_option_there_are_no_events(
    start: Start, provider: ScriptedProvider, collector: Collector
) -> None:
    gateway = start("--content", "full")
    provider.play(answer(ANSWER))
    trace = post(gateway)
    wait_until(lambda: collector.names(trace)["Intercept"], "the trace is there")
    gateway.stop()
    assert collector.events == []


def test_events_are_sent_when_the_gateway_ends(
    start: Start, provider: ScriptedProvider, collector: Collector
) -> None:
    gateway = start("--trace-gen-ai", OTEL_BLRP_SCHEDULE_DELAY="60000")
    provider.play(answer(ANSWER))
    trace = post(gateway)
    gateway.stop()
    assert [each.trace_id for each in collector.events] == [trace]


def test_events_go_by_grpc_where_traces_do(start: Start, provider: ScriptedProvider) -> None:
    with GrpcCollector() as collector:
        gateway = start("--trace-gen-ai", to=collector.url, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
        provider.play(answer(ANSWER))
        found = told(collector, post(gateway))
        assert found.attributes["gen_ai.input.messages"] == INPUT
        gateway.stop()
