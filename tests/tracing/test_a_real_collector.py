"""Traces go through an OpenTelemetry Collector, and come out of it as they were meant."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from gateway_process import GatewayProcess, Upstream, free_port, wait_until
from go_program import build
from imitation_provider import ScriptedProvider
from otlp_collector import Collector

PATIENCE = 60.0
"""Seconds: its first start reads a large program."""


@pytest.fixture(scope="module")
def behind() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, behind: Collector) -> Iterator[dict[str, int]]:
    """Of a collector that passes on to ``behind`` what it takes, by protocol."""
    folder = tmp_path_factory.mktemp("collector")
    ports = {"http": free_port(), "grpc": free_port()}
    protocols = {name: {"endpoint": f"127.0.0.1:{port}"} for name, port in ports.items()}
    config = {
        "receivers": {"otlp": {"protocols": protocols}},
        "exporters": {"otlp_http": {"endpoint": behind.url, "compression": "none"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                signal: {"receivers": ["otlp"], "exporters": ["otlp_http"]}
                for signal in ("traces", "logs")
            },
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    program = build(Path(__file__).with_name("collector"), "otel-collector")
    with open(folder / "log", "wb") as log:
        running = subprocess.Popen(
            [program, "--config", f"file:{folder / 'config.yaml'}"], stdout=log, stderr=log
        )
    try:
        wait_until(
            lambda: b"Everything is ready" in (folder / "log").read_bytes() or running.poll(),
            "the collector takes traces",
            PATIENCE,
        )
        assert running.poll() is None, (folder / "log").read_text()
        yield ports
    finally:
        running.terminate()
        running.wait()


# The first use builds the collector, of which there is nothing in the cache.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector_takes_a_request_with_its_tokens_and_what_they_cost(
    tmp_path: Path,
    provider: ScriptedProvider,
    ports: dict[str, int],
    behind: Collector,
    protocol: str,
) -> None:
    options = ["--trace", "--trace-endpoint", f"http://127.0.0.1:{ports[protocol]}"]
    options += ["--trace-gen-ai", "--content", "full"]
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_BLRP_SCHEDULE_DELAY": "50"}
    if protocol == "grpc":
        environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc"
    upstreams = [Upstream("anthropic", provider.url)]
    with GatewayProcess(tmp_path, upstreams, options, environ=environ) as gateway:
        answer = requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            json={
                "model": "claude-sonnet-4-5",
                "max_tokens": 9,
                "stream": True,
                "messages": [{"role": "user", "content": "hi"}],
            },
            headers={"X-Api-Key": gateway.key()},
            timeout=30,
        )
        assert answer.status_code == 200
        trace_id = answer.headers["X-Trace-ID"]
        first = "POST /anthropic/v1/messages"
        wait_until(lambda: behind.names(trace_id)[first], "the trace arrives", PATIENCE)
        found = gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])
    spans = {span.name: span for span in behind.of_trace(trace_id)}
    intercept = spans["Intercept"]
    assert intercept.parent_id == spans[first].span_id
    assert intercept.resource["service.name"] == "coder-ai-gateway"
    assert intercept.scope == "ai-gateway"
    rows = found["token_usages"]
    assert rows
    spent = intercept.attributes
    assert spent["gen_ai.usage.output_tokens"] == sum(row["output_tokens"] for row in rows) > 0
    cost = sum(row["cost_nano_usd"] for row in rows)
    assert cost > 0
    assert spent["aigateway.usage.cost_usd"] == pytest.approx(cost / 1e9, rel=1e-12)
    assert spent["gen_ai.operation.name"] == "chat"
    (told,) = [each for each in behind.events if each.trace_id == trace_id]
    assert told.span_id == intercept.span_id
    (asked,) = told.attributes["gen_ai.input.messages"]
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "hi"}]}
    (answered,) = told.attributes["gen_ai.output.messages"]
    assert [part["content"] for part in answered["parts"] if part["type"] == "text"] == [
        row["content"] for row in found["model_answers"]
    ]
