"""A gateway that ends while injected tools run, or the rounds after them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    ReceivedRequest,
    ScriptedProvider,
    Stall,
    Step,
    answer,
    head,
    stream,
)
from raw_client import RawClient
from round_answers import Call, message, message_stream

SHUTTING_DOWN = "AI Gateway is shutting down"
ADD: Call = ("toolu_1", "bmcp_sdk_add", {"a": 2, "b": 3})
SLOW: Call = ("toolu_1", "bmcp_sdk_slow", {"seconds": 50})
MOMENTS = ["tool", "head", "body"]
"""While the tool runs, while the next round's answer is waited for, while it is read."""


def _script(request: ReceivedRequest) -> Sequence[Step]:
    asked = request.json()
    moment, streaming = asked["model"], asked["stream"]
    if len(asked["messages"]) == 1:
        call = SLOW if moment == "tool" else ADD
        if streaming:
            return stream(message_stream("Let me see.", [call]))
        return answer(message("Let me see.", [call]))
    if moment == "head":
        return [Stall()]
    if streaming:
        return [*stream(message_stream("Well.", number=2)[:3], end=False), Stall()]
    fields = [("Content-Type", "application/json"), ("Content-Length", "1000")]
    return [head(200, fields) + b'{"id"', Stall()]


def _question(moment: str, streaming: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "2+3?"}]
    return {"model": moment, "max_tokens": 9, "stream": streaming, "messages": messages}


def _is_under_way(provider: ScriptedProvider) -> bool:
    """Whether all six requests have come to their moments."""
    rounds = [(each.json(), each.done.is_set()) for each in provider.requests]
    first = [done for asked, done in rounds if len(asked["messages"]) == 1]
    return all(first) and len(first) == 6 and len(rounds) == 10


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_each_request_ends_with_an_error_and_its_records_on_disk(
    tmp_path: Path, mcp_url: str, worker_class: str
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"ai_gateway: {{mcp_servers: [{{id: sdk, url: '{mcp_url}'}}]}}\n")
    options = ["--config", str(config), "--worker-class", worker_class]
    with ScriptedProvider(otherwise=_script) as provider:
        upstreams = [Upstream("anthropic", provider.url)]
        gateway = GatewayProcess(
            tmp_path / "gw", upstreams, [*options, "--shutdown-timeout", "200ms"]
        ).start()
        try:
            clients = {}
            for moment in MOMENTS:
                for streaming in (True, False):
                    client = clients[moment, streaming] = RawClient(gateway)
                    client.post("/anthropic/v1/messages", _question(moment, streaming))
            wait_until(lambda: _is_under_way(provider), "all are under way")
            began = time.monotonic()
            gateway.process.terminate()
            answers = {key: client.answer() for key, client in clients.items()}
            gateway.stop(None)
            assert time.monotonic() - began < 10.0
        finally:
            gateway.kill()
            for client in clients.values():
                client.close()
    for (moment, streaming), got in answers.items():
        if streaming:
            assert got.status == 200
            assert not got.ended
            assert b'"text":"Let"' in got.body
            assert json.loads(got.body.rstrip().rpartition(b"data: ")[2]) == {
                "type": "error",
                "error": {"type": "api_error", "message": SHUTTING_DOWN},
            }
        else:
            assert got.status == 503
            error = json.loads(got.body)["error"]
            assert error == {"type": "overloaded_error", "message": SHUTTING_DOWN}
        records = gateway.records(got.interception_id)
        assert records["error_message"] == SHUTTING_DOWN
        assert [prompt["prompt"] for prompt in records["user_prompts"]] == ["2+3?"]
        (tool,) = records["tool_usages"]
        assert tool["invocation_error"] == (SHUTTING_DOWN if moment == "tool" else None)
        assert sum(each["input_tokens"] for each in records["token_usages"]) >= 10
