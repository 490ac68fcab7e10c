"""Caps and injected tools: each round is reserved before it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import anthropic
import pytest
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, answer, stream
from round_answers import Call, message, message_stream

from aigateway.actors.control.local.policies import apply
from aigateway.actors.control.local.schema import open_database

ADD: Call = ("toolu_1", "bmcp_sdk_add", {"a": 2, "b": 3})
ROUND = 10 * 1_000 + 5 * 5_000
"""Nano-dollars of a round of 10 tokens of input and 5 of output."""
POLICY = """
contact: ask ada
everybody:
  caps: [{usd: 10, every: day}]
users:
  bob:
    caps: [{usd: 0.00002, every: day}]
"""


@pytest.fixture(scope="module")
def capped(
    tmp_path_factory: pytest.TempPathFactory, rounds_provider: ScriptedProvider, mcp_url: str
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("capped")
    config, prices = folder / "gateway.yaml", folder / "prices.yaml"
    config.write_text(f"ai_gateway: {{mcp_servers: [{{id: sdk, url: '{mcp_url}'}}]}}")
    prices.write_text("models: [{model: claude-x, input: 1, output: 5}]")
    gateway = GatewayProcess(
        folder,
        [Upstream("anthropic", rounds_provider.url)],
        ["--config", str(config), "--prices", str(prices)],
    )
    with closing(open_database(gateway.database)) as database:
        apply(database, POLICY, over=0, who="test")
    with gateway:
        yield gateway


def ask(gateway: GatewayProcess, user: str, streaming: bool) -> anthropic.types.Message:
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/anthropic", api_key=gateway.key(user), max_retries=0, timeout=30
    ) as sdk:
        question = {
            "model": "claude-x",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "2+3?"}],
        }
        if streaming:
            with sdk.messages.stream(**question) as running:
                return running.get_final_message()
        return sdk.messages.create(**question)


def settled(gateway: GatewayProcess, user: str, spent: int) -> bool:
    rows = gateway.rows(
        "SELECT spent_nano_usd AS spent, reserved_nano_usd AS reserved, running FROM cap_tills"
        " WHERE name = ?",
        user,
    )
    return bool(rows) and rows[0] == {"spent": spent, "reserved": 0, "running": 0}


both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


@both
def test_all_rounds_are_settled_together(
    capped: GatewayProcess, rounds_provider: ScriptedProvider, streaming: bool
) -> None:
    user = f"ada-{streaming}"
    for number, one in enumerate(({"calls": [ADD]}, {"text": "It is 5."}), 1):
        if streaming:
            rounds_provider.play(stream(message_stream(**one, number=number)))
        else:
            rounds_provider.play(answer(message(**one, number=number)))
    assert ask(capped, user, streaming).stop_reason == "end_turn"
    wait_until(lambda: settled(capped, user, 2 * ROUND), "both rounds are settled")


def test_a_round_is_not_sent_where_those_before_have_spent_the_cap(
    capped: GatewayProcess, rounds_provider: ScriptedProvider
) -> None:
    seen = len(rounds_provider.requests)
    rounds_provider.play(answer(message(calls=[ADD], number=1)))
    with pytest.raises(anthropic.RateLimitError, match=r"the day's cap .* is spent") as refused:
        ask(capped, "bob", False)
    assert "ask ada" in str(refused.value)
    assert len(rounds_provider.requests) == seen + 1
    wait_until(lambda: settled(capped, "bob", ROUND), "the first round is settled")
    with pytest.raises(anthropic.RateLimitError) as again:
        ask(capped, "bob", True)
    assert again.value.response.headers["x-should-retry"] == "false"
    assert len(rounds_provider.requests) == seen + 1
