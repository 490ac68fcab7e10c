"""Traces of a real gateway, as a collector gets them."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import Reset, ScriptedProvider, WaitFor, answer, error, event, stream
from otlp_collector import Collector, GrpcCollector

SECRET = "sk-upstream-secret-key"
INTERCEPTED = {
    "POST /anthropic/v1/messages": 1,
    "Intercept": 1,
    "Intercept.CreateInterceptor": 1,
    "Intercept.RecordInterception": 1,
    "Intercept.ProcessRequest": 1,
    "Intercept.ProcessRequest.Upstream": 1,
    "Intercept.RecordInterceptionEnded": 1,
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
    collector: Collector,
) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(
        tmp_path_factory.mktemp("gw"),
        [Upstream("anthropic", provider.url), Upstream("openai", provider.url)],
        [
            "--trace",
            "--trace-endpoint",
            collector.url,
            "--trace-logs",
            "--worker-class",
            request.param,
        ],
        environ={"OTEL_BSP_SCHEDULE_DELAY": "50"},
    )
    with gateway:
        yield gateway
        assert not [line for line in gateway.logs() if "opentelemetry" in json.dumps(line)]


def _post(
    gateway: GatewayProcess, body: dict[str, Any] | None = None, **headers: str
) -> requests.Response:
    question = {"model": "claude-x", "max_tokens": 9}
    question |= {"messages": [{"role": "user", "content": "a private question"}], **(body or {})}
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages?key=in-the-query",
        json=question,
        headers={"X-Api-Key": gateway.key(), **headers},
        timeout=30,
    )


def _whole(collector: Collector, answer: requests.Response, last: str = "POST ") -> str:
    """The id of the answer's trace, once its outermost span has arrived."""
    trace_id = answer.headers["X-Trace-ID"]
    wait_until(
        lambda: any(name.startswith(last) for name in collector.names(trace_id)),
        f"the collector has trace {trace_id}",
    )
    return trace_id


@pytest.mark.parametrize("streaming", [False, True])
def test_an_intercepted_request_has_the_spans_of_the_specification(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider, streaming: bool
) -> None:
    agent = "claude-cli/2.1.200 (external, cli)"
    session = {"User-Agent": agent, "X-Claude-Code-Session-Id": "a-session"}
    answer = _post(gateway, {"stream": streaming}, **session)
    assert answer.status_code == 200
    trace_id = _whole(collector, answer)
    interception_id = answer.headers["X-AI-Gateway-Interception-Id"]
    found = gateway.records(interception_id)
    records = {
        "Intercept.RecordTokenUsage": len(found["token_usages"]),
        "Intercept.RecordPromptUsage": len(found["user_prompts"]),
        "Intercept.RecordToolUsage": len(found["tool_usages"]),
        "Intercept.RecordModelThought": len(found["model_thoughts"]),
    }
    assert collector.names(trace_id) == INTERCEPTED | {k: v for k, v in records.items() if v}
    assert records["Intercept.RecordTokenUsage"]
    spans = {span.name: span for span in collector.of_trace(trace_id)}
    tree = {
        "Intercept": "POST /anthropic/v1/messages",
        "Intercept.CreateInterceptor": "Intercept",
        "Intercept.RecordInterception": "Intercept",
        "Intercept.ProcessRequest": "Intercept",
        "Intercept.RecordInterceptionEnded": "Intercept",
        "Intercept.ProcessRequest.Upstream": "Intercept.ProcessRequest",
        "Intercept.RecordTokenUsage": "Intercept.ProcessRequest",
        "Intercept.RecordPromptUsage": "Intercept.ProcessRequest",
    }
    for child, parent in tree.items():
        assert spans[child].parent_id == spans[parent].span_id, child
    for span in spans.values():
        assert not span.failed
        assert span.scope == "ai-gateway"
        assert span.resource["service.name"] == "coder-ai-gateway"
        assert spans["POST /anthropic/v1/messages"].started <= span.started <= span.ended
        if span.name.startswith("Intercept"):
            assert {k: v for k, v in span.attributes.items() if not k.startswith("gen_ai.")} == {
                "request_path": "/anthropic/v1/messages",
                "interception_id": interception_id,
                "user_id": found["initiator_id"],
                "provider": "anthropic",
                "model": "claude-x",
                "streaming": streaming,
                "aws_bedrock": False,
            }
            # A reader that adds up tokens finds them once.
            assert ("gen_ai.operation.name" in span.attributes) is (span.name == "Intercept")
    tokens = found["token_usages"]
    sums = {name: sum(row[name] for row in tokens) for name in tokens[0] if "tokens" in name}
    cached = sums["cache_read_input_tokens"], sums["cache_write_input_tokens"]
    assert {k: v for k, v in spans["Intercept"].attributes.items() if k.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-x",
        "gen_ai.request.stream": streaming,
        "gen_ai.conversation.id": "a-session",
        "gen_ai.response.id": tokens[-1]["msg_id"],
        "gen_ai.response.finish_reasons": ["max_tokens"],
        "gen_ai.usage.input_tokens": sums["input_tokens"] + sum(cached),
        "gen_ai.usage.output_tokens": sums["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": cached[0],
        "gen_ai.usage.cache_creation.input_tokens": cached[1],
    }
    http = spans["POST /anthropic/v1/messages"]
    assert http.parent_id == ""
    assert http.attributes == {
        "http.request.method": "POST",
        "url.path": "/anthropic/v1/messages",
        "url.scheme": "http",
        "user_agent.original": "claude-cli/2.1.200 (external, cli)",
        "http.response.status_code": 200,
        "outcome": "complete",
    }
    line = http.events["request"]
    assert (line["level"], line["interception_id"]) == ("info", interception_id)
    _, sent_trace, sent_span, _ = _sent(provider, "traceparent").split("-")
    assert (sent_trace, sent_span) == (trace_id, spans["Intercept.ProcessRequest.Upstream"].span_id)


def _sent(provider: ScriptedProvider, name: str) -> str:
    """The one value of a header in the last request that the provider got."""
    (value,) = [v for n, v in provider.requests[-1].headers if n.lower() == name]
    return value


def test_an_answer_that_was_not_done_says_why_and_one_without_a_price_says_no_cost(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    told = {"usage": {"input_tokens": 1000, "output_tokens": 9}, "content": []}
    provider.play(answer({"id": "m", "stop_reason": "max_tokens", **told}))
    trace_id = _whole(collector, _post(gateway, {"model": "claude-sonnet-4-5"}))
    attributes = collector.one(trace_id, "Intercept").attributes
    assert list(attributes["gen_ai.response.finish_reasons"]) == ["max_tokens"]
    assert attributes["aigateway.usage.cost_usd"] > 0
    provider.play(answer({"id": "m", "stop_reason": "end_turn", **told}))
    attributes = collector.one(_whole(collector, _post(gateway)), "Intercept").attributes
    assert "aigateway.usage.cost_usd" not in attributes
    assert "gen_ai.response.finish_reasons" not in attributes


def test_embeddings_are_called_so(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    provider.play(answer({"data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}}))
    reply = requests.post(
        f"{gateway.url}/openai/v1/embeddings",
        json={"model": "text-embedding-3-small", "input": "x"},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )
    attributes = collector.one(_whole(collector, reply), "Intercept").attributes
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 5


def test_a_clients_trace_is_continued(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    trace_id, span_id = uuid.uuid4().hex, "b7ad6b7169203331"
    answer = _post(gateway, Traceparent=f"00-{trace_id}-{span_id}-01", Tracestate="vendor=1")
    assert _whole(collector, answer) == trace_id
    assert collector.one(trace_id, "POST /anthropic/v1/messages").parent_id == span_id
    upstream = collector.one(trace_id, "Intercept.ProcessRequest.Upstream")
    assert _sent(provider, "traceparent") == f"00-{trace_id}-{upstream.span_id}-01"
    assert _sent(provider, "tracestate") == "vendor=1"


def test_an_error_of_the_upstream_is_an_error_of_the_spans_around_it(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    provider.play(error(400))
    answer = _post(gateway)
    assert answer.status_code == 400
    trace_id = _whole(collector, answer)
    failed = {span.name for span in collector.of_trace(trace_id) if span.failed}
    assert failed == {
        "Intercept",
        "Intercept.ProcessRequest",
        "Intercept.ProcessRequest.Upstream",
    }
    assert collector.one(trace_id, "Intercept").message.startswith("bad_request: ")
    names = collector.names(trace_id)
    assert {name: names[name] for name in INTERCEPTED} == INTERCEPTED


START = {
    "type": "message_start",
    "message": {"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 1}},
}
TROUBLE = {"type": "error", "error": {"type": "overloaded_error", "message": "too much"}}


def test_a_stream_that_fails_half_way_had_a_good_upstream_call(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    provider.play(stream([event(START), event(TROUBLE)]))
    trace_id = _whole(collector, _post(gateway, {"stream": True}))
    failed = {span.name for span in collector.of_trace(trace_id) if span.failed}
    assert failed == {"Intercept", "Intercept.ProcessRequest"}
    assert collector.one(trace_id, "Intercept").message == "overloaded: too much"


def test_a_client_that_leaves_costs_no_span(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.play([*stream([event(START)], end=False), WaitFor(gate), Reset()])
    http = "POST /anthropic/v1/messages"
    with requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": "m", "max_tokens": 9, "stream": True, "messages": []},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
        stream=True,
    ) as answer:
        trace_id = answer.headers["X-Trace-ID"]
        next(answer.iter_content(64))
    # The gateway only notices when it has something to write: the end of the silence.
    gate.set()
    wait_until(lambda: {"Intercept", http} <= set(collector.names(trace_id)), "both have ended")
    assert collector.names(trace_id)["Intercept.RecordTokenUsage"] == 1


def test_a_request_that_is_passed_through_has_one_span(
    gateway: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    answer = requests.get(
        f"{gateway.url}/openai/v1/models?key=in-the-query",
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )
    trace_id = _whole(collector, answer, "GET ")
    assert collector.names(trace_id) == {"GET /openai/v1/models": 1, "Passthrough": 1}
    span = collector.one(trace_id, "Passthrough")
    assert span.attributes == {
        "passthrough_url": "/models",
        "passthrough_upstream_url": f"{provider.url}/v1/models",
        "passthrough_method": "GET",
    }
    assert _sent(provider, "traceparent").split("-")[2] == span.span_id


def test_refused_requests_are_traced_too(gateway: GatewayProcess, collector: Collector) -> None:
    for path, status, names in (
        ("/anthropic/v1/messages", 400, {"POST /anthropic/v1/messages": 1}),
        ("/nobody/at/home", 404, {"POST /nobody/at/home": 1}),
    ):
        headers = {"X-Api-Key": gateway.key()} if status == 404 else {}
        answer = requests.post(f"{gateway.url}{path}", headers=headers, timeout=30)
        assert answer.status_code == status
        trace_id = _whole(collector, answer)
        assert collector.names(trace_id) == names
        (span,) = collector.of_trace(trace_id)
        assert span.attributes["http.response.status_code"] == status
        if status >= 500:
            assert span.attributes["error.type"] == str(status)


def test_a_body_that_cannot_be_read_ends_where_it_was_to_be(
    gateway: GatewayProcess, collector: Collector
) -> None:
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        data=b"{",
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )
    trace_id = _whole(collector, answer)
    failed = {span.name for span in collector.of_trace(trace_id) if span.failed}
    assert failed == {"Intercept", "Intercept.CreateInterceptor"}
    assert set(collector.names(trace_id)) == {*failed, "POST /anthropic/v1/messages"}


def test_probes_are_not_traced(gateway: GatewayProcess, collector: Collector) -> None:
    for path in ("/healthz", "/readyz"):
        assert "X-Trace-ID" not in requests.get(f"{gateway.url}{path}", timeout=10).headers
    _whole(collector, _post(gateway))
    assert not [s for s in collector.spans if "healthz" in s.name or "readyz" in s.name]


def test_no_span_holds_a_secret_or_a_prompt(gateway: GatewayProcess, collector: Collector) -> None:
    _whole(collector, _post(gateway))
    spans = [[s.name, s.message, s.attributes, s.resource, s.events] for s in collector.spans]
    text = json.dumps(spans)
    for secret in (SECRET, gateway.key(), "a private question", "in-the-query"):
        assert secret not in text


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_what_has_gathered_is_sent_when_the_gateway_stops(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    with Collector() as collector:
        gateway = GatewayProcess(
            tmp_path,
            [Upstream("anthropic", provider.url)],
            ["--trace", "--worker-class", worker_class],
            environ={
                "OTEL_BSP_SCHEDULE_DELAY": "3600000",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_SERVICE_NAME": "eu-gateway",
            },
        )
        with gateway:
            trace_id = _post(gateway).headers["X-Trace-ID"]
            assert not collector.spans
        assert collector.names(trace_id)["Intercept"] == 1
        assert not any(span.events for span in collector.spans)
        assert collector.spans[0].resource["service.name"] == "eu-gateway"
        assert set(collector.paths) == {"/v1/traces"}


def test_a_collector_that_does_not_answer_does_not_hold_up_the_stop(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    with Collector() as collector:
        collector.hold.clear()
        gateway = GatewayProcess(
            tmp_path,
            [Upstream("anthropic", provider.url)],
            ["--trace", "--trace-endpoint", collector.url],
            environ={"OTEL_BSP_SCHEDULE_DELAY": "3600000"},
        )
        gateway.start()
        assert _post(gateway).status_code == 200
        gateway.allowed_errors += ["opentelemetry"]
        gateway.stop(signal.SIGTERM)
        assert any("not all sent" in message_of(line) for line in gateway.logs())


def test_a_gateway_that_does_not_trace_never_imports_opentelemetry(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    # What PYTHONPROFILEIMPORTTIME writes is the list of everything that was imported.
    gateway = GatewayProcess(
        tmp_path,
        [Upstream("anthropic", provider.url)],
        environ={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    with gateway:
        answer = _post(gateway, Traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
        assert answer.status_code == 200
        assert "X-Trace-ID" not in answer.headers
    # The client's own context is a header like any other.
    assert _sent(provider, "traceparent") == "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    imported = gateway.stderr()
    assert "aigateway.http.app" in imported
    assert "opentelemetry" not in imported


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_traces_go_by_grpc_where_the_standard_variable_says_so(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    with GrpcCollector() as collector:
        options = ["--trace", "--trace-endpoint", collector.url, "--worker-class", worker_class]
        environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        upstreams = [Upstream("anthropic", provider.url)]
        with GatewayProcess(tmp_path, upstreams, options, environ=environ) as gateway:
            answer = _post(gateway)
            assert answer.status_code == 200
            trace_id = answer.headers["X-Trace-ID"]
            wait_until(lambda: collector.names(trace_id)["Intercept"], "the trace arrives")
            tokens = collector.one(trace_id, "Intercept").attributes["gen_ai.usage.output_tokens"]
            assert tokens > 0
            assert set(collector.paths) == {"grpc"}


def test_a_protocol_of_traces_that_there_is_none_of_stops_the_start(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    gateway = GatewayProcess(tmp_path, [], ["--trace"], environ=environ)
    with pytest.raises(AssertionError, match="choose grpc or http/protobuf"):
        gateway.start()
