"""What a request cost stands beside its tokens, in the database of a real gateway."""

from __future__ import annotations

import requests
from gateway_process import GatewayProcess


def test_a_requests_cost_is_recorded_and_what_has_no_price_is_counted(
    any_gateway: GatewayProcess,
) -> None:
    for model in ("claude-opus-5", "claude-nonesuch-9"):
        answer = requests.post(
            f"{any_gateway.url}/anthropic/v1/messages",
            json={
                "model": model,
                "max_tokens": 64,
                "messages": [{"role": "user", "content": "hello"}],
            },
            headers={"Authorization": f"Bearer {any_gateway.key()}"},
            timeout=30,
        )
        assert answer.status_code == 200
        found = any_gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])
        (tokens,) = found["token_usages"]
        assert tokens["price_table"]
        if model == "claude-opus-5":
            cost = tokens["input_tokens"] * 5_000 + tokens["output_tokens"] * 25_000
            assert (tokens["cost_nano_usd"], tokens["price"]) == (cost, "anthropic/claude-opus-5")
            assert cost > 0
        else:
            assert (tokens["cost_nano_usd"], tokens["price"]) == (None, None)
