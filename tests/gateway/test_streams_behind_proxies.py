"""What a proxy between client and gateway is told about streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer, event, stream

ROUTES = {
    "/anthropic/v1/messages": {"model": "m", "max_tokens": 5, "messages": []},
    "/openai/v1/chat/completions": {"model": "m", "messages": []},
    "/openai/v1/responses": {"model": "m", "input": "hi"},
    "/openai/v1/responses/resp_1/cancel": {},
}


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_stream_is_not_to_be_held_back_and_other_answers_say_nothing(
    tmp_path: Path, worker_class: str
) -> None:
    with (
        ScriptedProvider() as provider,
        GatewayProcess(
            tmp_path,
            [Upstream("anthropic", provider.url), Upstream("openai", provider.url)],
            ["--worker-class", worker_class],
        ) as gateway,
    ):
        for route, body in ROUTES.items():
            for kind in (None, "text/event-stream; charset=utf-8", "application/json"):
                if kind is None:
                    provider.play(
                        stream([event({"type": "x"})], headers=[("X-Accel-Buffering", "yes")])
                    )
                elif kind.startswith("text"):
                    provider.play(answer("data: 1\n\n", content_type=kind))
                else:
                    provider.play(answer({"id": "x"}))
                got = requests.post(
                    f"{gateway.url}{route}",
                    json={**body, "stream": kind != "application/json"},
                    headers={"Authorization": f"Bearer {gateway.key()}"},
                    stream=True,
                    timeout=30,
                )
                expected = None if kind == "application/json" else "no"
                assert got.headers.get("X-Accel-Buffering") == expected, (route, kind)
                got.close()
