"""Each response on a WebSocket is traced below its session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from gateway_process import wait_until
from otlp_collector import Collector, Span
from socket_client import open_session
from socket_rig import Start

FIRST, RESPONSE = "GET /openai/v1/responses", "WEBSOCKET /openai/v1/responses"
PRICE = {"model": "gpt-imaginary", "input": 2, "output": 8, "cache_read": 1}
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


def _named(collector: Collector, name: str) -> list[Span]:
    return [span for span in list(collector.spans) if span.name == name]


def test_each_response_has_its_spans_tokens_and_cost_below_the_session(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump({"models": [PRICE]}))
    with Collector() as collector:
        gateway = start(
            "--trace",
            "--trace-endpoint",
            collector.url,
            "--prices",
            str(tmp_path / "prices.yaml"),
            environ=QUICK,
        )
        with open_session(gateway) as session:
            for _ in range(2):
                assert session.ask()[-1]["type"] == "response.completed"
        wait_until(lambda: _named(collector, FIRST), "the session's span")
        (outermost,) = _named(collector, FIRST)
        responses = _named(collector, RESPONSE)
        assert [span.parent_id for span in responses] == [outermost.span_id] * 2
        assert [span.attributes["outcome"] for span in responses] == ["complete"] * 2
        intercepts = _named(collector, "Intercept")
        assert {span.parent_id for span in intercepts} == {span.span_id for span in responses}
        rows = gateway.rows("SELECT * FROM token_usages ORDER BY created_at")
        for span, row in zip(intercepts, rows, strict=True):
            spent: dict[str, Any] = span.attributes
            assert spent["gen_ai.usage.output_tokens"] == row["output_tokens"] > 0
            assert spent["aigateway.usage.cost_usd"] == row["cost_nano_usd"] / 1e9 > 0
            assert spent["gen_ai.request.model"] == "gpt-imaginary"
        assert len(_named(collector, "Intercept.ProcessRequest.Upstream")) == 2
        assert not [span for span in collector.spans if span.failed]


def test_a_message_that_is_refused_has_a_span_that_says_so(start: Start) -> None:
    with Collector() as collector:
        gateway = start("--trace", "--trace-endpoint", collector.url, environ=QUICK)
        with open_session(gateway) as session:
            session.connection.send(json.dumps({"type": "response.imagine"}))
            assert session.next()["type"] == "error"
        wait_until(lambda: _named(collector, FIRST), "the session's span")
        (span,) = _named(collector, RESPONSE)
        assert span.attributes["outcome"] == "refused"
