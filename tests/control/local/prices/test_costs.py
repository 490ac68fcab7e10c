"""What the records of real kinds of requests cost, whole and exact."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.local.prices.cost import Pricing, Used
from aigateway.actors.control.local.prices.table import PriceTable, read_table

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


def nano(pricing: Pricing, model: str, used: Used, provider: str = "anthropic") -> int | None:
    found = pricing.cost(used, model, provider=provider, provider_name=provider, moment=NOW)
    assert found.table == pricing.version
    return found.nano_usd


def own(*models: dict[str, object]) -> PriceTable:
    return read_table({"version": "test", "models": list(models)})


def alone(fields: dict[str, object]) -> Pricing:
    document = {
        "version": "1",
        "vendors": {"p": {"address": "https://p/"}},
        "models": [{"model": "m", "provider": "p", **fields}],
    }
    return Pricing(read_table(document, packaged=True))


def test_a_cache_written_for_five_minutes(pricing: Pricing) -> None:
    used = Used(21, 393, 0, 188_086, {"cache_ephemeral_5m_input": 188_086})
    expected = 21 * 3_000 + 393 * 15_000 + 188_086 * 3_750
    assert nano(pricing, "claude-sonnet-4-5", used) == expected


def test_a_cache_written_for_an_hour(pricing: Pricing) -> None:
    used = Used(2048, 503, 0, 248, {"cache_ephemeral_1h_input": 248})
    assert nano(pricing, "claude-sonnet-4-5", used) == 2048 * 3_000 + 503 * 15_000 + 248 * 6_000


def test_a_cache_written_for_both(pricing: Pricing) -> None:
    told = {"cache_ephemeral_5m_input": 148, "cache_ephemeral_1h_input": 100}
    used = Used(2048, 503, 1800, 248, told)
    expected = 2048 * 3_000 + 503 * 15_000 + 1800 * 300 + 148 * 3_750 + 100 * 6_000
    assert nano(pricing, "claude-sonnet-4-5", used) == expected


def test_a_cache_that_is_read(pricing: Pricing) -> None:
    used = Used(21, 393, 188_086)
    assert nano(pricing, "claude-sonnet-4-5", used) == 21 * 3_000 + 393 * 15_000 + 188_086 * 300


def test_the_last_token_below_the_long_context_and_the_first_in_it(pricing: Pricing) -> None:
    # OpenAI's GPT-5.5: more than 272,000 tokens of input, cached ones included, cost twice as
    # much, and their output half as much again.
    at = Used(72_000, 10, 200_000)
    assert nano(pricing, "gpt-5.5", at, "openai") == 72_000 * 5_000 + 200_000 * 500 + 10 * 30_000
    over = Used(72_001, 10, 200_000)
    expected = 72_001 * 10_000 + 200_000 * 1_000 + 10 * 45_000
    assert nano(pricing, "gpt-5.5", over, "openai") == expected


def test_tokens_that_are_written_to_a_cache_count_towards_the_long_context(
    pricing: Pricing,
) -> None:
    used = Used(1, 1, 100_000, 100_000, {"cache_ephemeral_1h_input": 100_000})
    expected = 6_000 + 22_500 + 100_000 * 600 + 100_000 * 12_000
    assert nano(pricing, "claude-sonnet-4-5", used) == expected


def test_a_batch_costs_half_its_cache_included(pricing: Pricing) -> None:
    used = Used(1000, 100, 1000, 1000, {"service_tier": "batch"})
    expected = 1000 * 1_500 + 100 * 7_500 + 1000 * 150 + 1000 * 1_875
    assert nano(pricing, "claude-sonnet-4-5", used) == expected


def test_the_tiers_of_openai(pricing: Pricing) -> None:
    used = Used(1000, 100, 1000)
    costs = {
        tier: nano(pricing, "gpt-5", evolve(used, metadata={"service_tier": tier}), "openai")
        for tier in ("default", "flex", "priority", "batch")
    }
    assert costs == {
        "default": 1000 * 1_250 + 100 * 10_000 + 1000 * 125,
        "flex": 1000 * 625 + 100 * 5_000 + 62_500,
        "priority": 1000 * 2_500 + 100 * 20_000 + 1000 * 250,
        "batch": 1000 * 625 + 100 * 5_000 + 62_500,
    }


def test_a_tier_without_a_price_has_no_cost_not_that_of_another(pricing: Pricing) -> None:
    # Anthropic sells its priority tier by commitment: there is no list price.
    used = Used(1000, 100, metadata={"service_tier": "priority"})
    found = pricing.cost(
        used, "claude-sonnet-4-5", provider="anthropic", provider_name="a", moment=NOW
    )
    assert (found.nano_usd, found.unpriced) == (None, "tier")
    assert found.price == "anthropic/claude-sonnet-4-5"
    assert "priority" in found.detail


def test_fast_mode(pricing: Pricing) -> None:
    used = Used(1000, 100, metadata={"service_tier": "standard", "speed": "fast"})
    assert nano(pricing, "claude-opus-5-5", used) == 1000 * 8_000 + 100 * 40_000


def test_requests_of_tools(pricing: Pricing) -> None:
    used = Used(105, 6039, 7123, 7345, {"web_search_requests": 3, "web_fetch_requests": 2})
    expected = 105 * 3_000 + 6039 * 15_000 + 7123 * 300 + 7345 * 3_750 + 3 * 10_000_000
    assert nano(pricing, "claude-sonnet-4-5", used) == expected
    grounded = Used(metadata={"web_search_requests": 3})
    assert nano(pricing, "gemini-3.8-flash", grounded, "google") == 3 * 14_000_000
    both = Used(metadata={"web_search_requests": 2, "file_search_requests": 4})
    assert nano(pricing, "gpt-5", both, "openai") == 2 * 10_000_000 + 4 * 2_500_000


def test_requests_of_tools_without_a_price_leave_the_whole_unpriced() -> None:
    found = alone({"input": 1, "output": 1}).cost(
        Used(10, 10, metadata={"web_search_requests": 1}),
        "m",
        provider="p",
        provider_name="p",
        moment=NOW,
    )
    assert (found.nano_usd, found.unpriced, found.detail) == (None, "request", "web_search")


def test_a_broken_stream_costs_what_had_been_told(pricing: Pricing) -> None:
    used = Used(23_000, 12, metadata={"usage_complete": False})
    assert nano(pricing, "claude-sonnet-4-5", used) == 23_000 * 3_000 + 12 * 15_000


def test_a_broken_stream_of_which_nothing_was_told_costs_nobody_knows_what(
    pricing: Pricing,
) -> None:
    found = pricing.cost(
        Used(metadata={"usage_complete": False}), "claude-sonnet-4-5",
        provider="anthropic", provider_name="a", moment=NOW,
    )  # fmt: skip
    assert (found.nano_usd, found.unpriced) == (None, "usage")


def test_a_refusal_that_is_not_billed_costs_nothing(pricing: Pricing) -> None:
    used = Used(metadata={"not_billed": {"input_tokens": 900}})
    assert nano(pricing, "claude-sonnet-4-5", used) == 0


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", 3_300),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 3_300),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", 3_300),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 3_000),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/"
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            3_000,
        ),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", 800),
        ("us.amazon.nova-pro-v1:0", 800),
    ],
)
def test_bedrocks_ids_with_and_without_a_region(pricing: Pricing, name: str, price: int) -> None:
    assert nano(pricing, name, Used(1000), "bedrock") == 1000 * price


def test_bedrocks_region_counts_although_the_answer_names_the_model_without_it(
    pricing: Pricing,
) -> None:
    told = {"provider_model": "claude-sonnet-4-5-20250929"}
    for asked, price in (("global", 3_000), ("us", 3_300)):
        model = f"{asked}.anthropic.claude-sonnet-4-5-20250929-v1:0"
        assert nano(pricing, model, Used(1000, metadata=told), "bedrock") == 1000 * price
        mapped = {**told, "upstream_model": model}
        used = Used(1000, metadata=mapped)
        assert nano(pricing, "claude-sonnet-4-5", used, "bedrock") == 1000 * price


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-5@20251101",
        "publishers/anthropic/models/claude-opus-4-5@20251101",
        "projects/p/locations/us-east5/publishers/anthropic/models/claude-opus-4-5",
        "claude-opus-4-5@default",
    ],
)
def test_vertexs_names_of_anthropics_models(pricing: Pricing, name: str) -> None:
    assert nano(pricing, name, Used(1000, 100), "google") == 1000 * 5_000 + 100 * 25_000


@pytest.mark.parametrize(
    ("provider", "name", "same"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("anthropic", "Claude-Sonnet-5-20260301", "claude-sonnet-5"),
        ("openai", "gpt-5-2025-08-07", "gpt-5"),
        ("openai", "gpt-6-sol-2026-10-01", "gpt-6-sol"),
        ("google", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google", "google/gemini-2.5-pro", "gemini-2.5-pro"),
    ],
)
def test_dated_names_and_aliases(pricing: Pricing, provider: str, name: str, same: str) -> None:
    used = Used(1000, 100)
    found = nano(pricing, name, used, provider)
    assert found is not None
    assert found == nano(pricing, same, used, provider)


def test_a_dated_model_with_a_price_of_its_own_has_that_one(pricing: Pricing) -> None:
    # The first GPT-4o cost twice what its alias costs today, which the answer's name tells.
    dated = {"provider_model": "gpt-4o-2024-05-13"}
    assert nano(pricing, "gpt-4o", Used(1000, metadata=dated), "openai") == 1000 * 5_000
    assert nano(pricing, "gpt-4o", Used(1000), "openai") == 1000 * 2_500


def test_the_model_that_answered_is_paid_not_the_one_that_was_asked(pricing: Pricing) -> None:
    told = {"provider_model": "claude-haiku-4-5-20251001"}
    assert nano(pricing, "claude-opus-5", Used(1000, metadata=told)) == 1000 * 1_000
    unknown = {"provider_model": "claude-nonesuch-9"}
    assert nano(pricing, "claude-opus-5", Used(1000, metadata=unknown)) is None


def test_ten_tokens_of_an_embedding_are_not_nothing(pricing: Pricing) -> None:
    assert nano(pricing, "text-embedding-3-small", Used(10), "openai") == 200
    assert nano(pricing, "text-embedding-3-small", Used(1), "openai") == 20


def test_a_model_without_a_price_has_no_cost(pricing: Pricing) -> None:
    found = pricing.cost(
        Used(10, 10), "nonesuch", provider="openai", provider_name="mine", moment=NOW
    )
    assert (found.nano_usd, found.price, found.unpriced) == (None, None, "model")
    assert "nonesuch" in found.detail


def test_a_server_of_ones_own_has_nobodys_list_prices(pricing: Pricing) -> None:
    providers = {"gpu": ("openai-compat", "http://10.0.0.7:8000/v1")}
    mine = Pricing(pricing.packaged, None, providers)
    used = Used(1000, 100)
    for model in ("gpt-5", "deepseek-chat", "claude-opus-5"):
        found = mine.cost(used, model, provider="openai-compat", provider_name="gpu", moment=NOW)
        assert found.nano_usd is None


def test_own_prices_come_first_and_may_be_nothing(pricing: Pricing) -> None:
    mine = Pricing(
        pricing.packaged,
        own(
            {"model": "qwen3", "provider": "gpu", "names": ["qwen*"], "input": 0, "output": 0},
            {"model": "claude-opus-5", "input": 4, "output": 20},
        ),
    )
    assert mine.version == f"{pricing.packaged.version}+test"
    assert nano(mine, "qwen3-coder", Used(1000, 100), "gpu") == 0
    assert nano(mine, "qwen3-coder", Used(1000, 100), "other") is None
    assert nano(mine, "claude-opus-5", Used(1000)) == 1000 * 4_000
    # What an entry does not name has no price any more: nothing is mixed of two tables.
    assert nano(mine, "claude-opus-5", Used(1, metadata={"service_tier": "batch"})) is None


def test_prices_have_their_days_and_hours() -> None:
    prices = Pricing(
        read_table({
            "version": "1",
            "vendors": {"p": {"address": "https://p/"}},
            "models": [
                {"model": "m", "provider": "p", "input": 4},
                {"model": "m", "provider": "p", "input": 3, "since": "2026-03-13"},
                {"model": "m", "provider": "p", "input": 1, "hours": "22:30-06:00"},
            ],
        }, packaged=True)
    )  # fmt: skip

    def at(*moment: int) -> int | None:
        when = datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type]
        return prices.cost(Used(1), "m", provider="p", provider_name="p", moment=when).nano_usd

    assert at(2026, 3, 12, 12) == 4_000
    assert at(2026, 3, 13, 12) == 3_000
    assert at(2026, 3, 13, 22, 30) == 1_000
    assert at(2026, 3, 13, 5, 59) == 1_000
    assert at(2026, 3, 13, 6, 0) == 3_000


def test_sound_costs_what_sound_costs() -> None:
    prices = alone({"input": 2, "output": 8, "input_audio": 40, "output_audio": 80})
    used = Used(100, 100, metadata={"prompt_audio": 60, "completion_audio": 70})
    assert nano(prices, "m", used, "p") == 40 * 2_000 + 60 * 40_000 + 30 * 8_000 + 70 * 80_000


def test_cached_tokens_without_a_price_of_their_own_cost_what_input_costs() -> None:
    prices = alone({"input": 2, "output": 8})
    assert nano(prices, "m", Used(0, 0, 10, 10), "p") == 20 * 2_000


def test_an_hour_in_the_cache_is_not_taken_for_five_minutes() -> None:
    prices = alone({"input": 2, "output": 8, "cache_write": 2.5})
    used = Used(0, 0, 0, 10, {"cache_ephemeral_1h_input": 10})
    assert nano(prices, "m", used, "p") is None


@given(
    price=st.decimals(0, 100, places=6),
    counts=st.lists(st.integers(0, 10**7), min_size=1, max_size=20),
)
def test_the_cost_of_any_tokens_is_the_exact_product_rounded_once(
    price: Decimal, counts: list[int]
) -> None:
    prices = alone({"input": str(price)})
    for count in counts:
        exact = (price * count * 1000).quantize(Decimal(1), ROUND_HALF_UP)
        assert nano(prices, "m", Used(count), "p") == int(exact)
