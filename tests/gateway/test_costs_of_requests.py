"""What a request cost stands beside its tokens, in the database of a real gateway."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider


def _tokens(gateway: GatewayProcess, model: str) -> dict[str, Any]:
    """Ask, and return the row of the answer's tokens."""
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": model,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "hello"}],
        },
        headers={"Authorization": f"Bearer {gateway.key()}"},
        timeout=30,
    )
    assert answer.status_code == 200
    (row,) = gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])["token_usages"]
    assert row["price_table"]
    return dict(row)


def test_a_requests_cost_is_recorded_and_what_has_no_price_has_none(
    any_gateway: GatewayProcess,
) -> None:
    priced = _tokens(any_gateway, "claude-opus-5")
    cost = priced["input_tokens"] * 5_000 + priced["output_tokens"] * 25_000
    assert (priced["cost_nano_usd"], priced["price"]) == (cost, "anthropic/claude-opus-5")
    assert cost > 0
    unknown = _tokens(any_gateway, "claude-nonesuch-9")
    assert (unknown["cost_nano_usd"], unknown["price"]) == (None, None)


def test_own_prices_are_read_again_and_wrong_ones_change_nothing(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    file = tmp_path / "prices.yaml"

    def write(price: str) -> None:
        file.write_text(f"models: [{{model: house-model, input: {price}, output: {price}}}]")

    def nano_for_a_token() -> float:
        row = _tokens(gateway, "house-model")
        return float(row["cost_nano_usd"] / (row["input_tokens"] + row["output_tokens"]))

    write("2")
    gateway = GatewayProcess(
        tmp_path / "gw", [Upstream("anthropic", provider.url)], ["--prices", str(file)]
    )
    gateway.allowed_errors.append("reload failed")
    with gateway:
        assert nano_for_a_token() == 2_000
        write("-2")
        served = _serving(gateway)
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _serving(gateway) > served, "a new worker serves")
        (line,) = [x for x in gateway.logs() if message_of(x).startswith("reload failed")]
        assert "models[0] (house-model).input: must not be below 0" in line["fields"]["error"]
        assert nano_for_a_token() == 2_000
        write("3")
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: nano_for_a_token() == 3_000, "the new price holds")


def _serving(gateway: GatewayProcess) -> int:
    return sum(message_of(line) == "providers in use" for line in gateway.logs())
