"""Sums that providers publish themselves, to the nano-dollar.

Each says where it is from and when that was read.  A test that fails after a new table was made
says that a list price changed: look at the page, and take the model of its new example.
"""

from __future__ import annotations

from datetime import UTC, datetime

from aigateway.actors.control.local.prices.cost import Cost, Pricing, Used

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
DOLLAR = 10**9


def cost(pricing: Pricing, model: str, used: Used, provider: str = "anthropic") -> Cost:
    return pricing.cost(used, model, provider=provider, provider_name=provider, moment=NOW)


def test_anthropics_coding_session_of_50_000_tokens_in_and_15_000_out(pricing: Pricing) -> None:
    # https://platform.claude.com/docs/en/about-claude/pricing, "Worked example" of Managed
    # Agents, read 2026-11-28: $0.25 and $0.375 (and $0.08 of runtime, which is no tokens).
    assert cost(pricing, "claude-opus-5", Used(50_000, 15_000)).nano_usd == 625_000_000


def test_anthropics_coding_session_with_40_000_tokens_from_the_cache(pricing: Pricing) -> None:
    # The same page, "If prompt caching is active": $0.05, $0.02 and $0.375.
    used = Used(10_000, 15_000, 40_000)
    assert cost(pricing, "claude-opus-5", used).nano_usd == 445_000_000


def test_anthropics_ten_thousand_support_tickets(pricing: Pricing) -> None:
    # The same page, "Customer support agent example": 3,700 tokens each, with Haiku 4.5 at
    # $1 a million, $37.00.
    one = cost(pricing, "claude-haiku-4-5", Used(3_700)).nano_usd
    assert one is not None
    assert one * 10_000 == 37 * DOLLAR


def test_anthropics_thousand_web_searches(pricing: Pricing) -> None:
    # The same page, "Web search tool": $10 per 1,000 searches; fetching pages costs nothing.
    used = Used(metadata={"web_search_requests": 1000, "web_fetch_requests": 50})
    assert cost(pricing, "claude-sonnet-5", used).nano_usd == 10 * DOLLAR


def test_anthropics_table_of_cache_prices(pricing: Pricing) -> None:
    # The same page, "Model pricing", dollars a million: input, 5 minutes, an hour, hits, output.
    rows = {
        "claude-fable-5-1": ("10", "12.5", "20", "0.25", "50"),
        "claude-fable-5": ("10", "12.5", "20", "1", "50"),
        "claude-opus-5": ("5", "6.25", "10", "0.5", "25"),
        "claude-opus-4-1": ("15", "18.75", "30", "1.5", "75"),
        "claude-sonnet-4-6": ("3", "3.75", "6", "0.3", "15"),
        "claude-haiku-4-5": ("1", "1.25", "2", "0.1", "5"),
    }
    million = 1_000_000 // 20  # Below every threshold of a long context.
    kinds = (
        Used(million),
        Used(cache_write_input_tokens=million),
        Used(cache_write_input_tokens=million, metadata={"cache_ephemeral_1h_input": million}),
        Used(cache_read_input_tokens=million),
        Used(0, million),
    )
    for model, told in rows.items():
        found = [cost(pricing, model, used).nano_usd for used in kinds]
        assert found == [int(float(each) * DOLLAR) // 20 for each in told], model


def test_anthropics_inference_in_the_us_costs_a_tenth_more(pricing: Pricing) -> None:
    # https://platform.claude.com/docs/en/manage-claude/data-residency, read 2026-11-28: 1.1
    # times for Opus 4.6, Sonnet 4.6 and later, all token prices; searches are no tokens.
    used = Used(50_000, 15_000, metadata={"inference_geo": "us", "web_search_requests": 1})
    assert cost(pricing, "claude-opus-5", used).nano_usd == 687_500_000 + 10_000_000
    elsewhere = Used(50_000, 15_000, metadata={"inference_geo": "global"})
    assert cost(pricing, "claude-opus-5", elsewhere).nano_usd == 625_000_000


def test_xais_long_context_begins_with_the_200_000th_token(pricing: Pricing) -> None:
    # https://docs.x.ai/developers/pricing, read 2026-11-28: grok-4.7 $2.00, cached $0.50,
    # output $6.00; from 200k tokens on $4.00, $1.00 and $12.00, for all tokens of the request.
    providers = {"xai": ("openai-compat", "https://api.x.ai/v1")}
    xai = Pricing(pricing.packaged, None, providers)
    below = xai.cost(
        Used(99_999, 1000, 100_000), "grok-4.7", provider="openai-compat",
        provider_name="xai", moment=NOW,
    )  # fmt: skip
    assert below.nano_usd == 99_999 * 2_000 + 100_000 * 500 + 1000 * 6_000
    reached = xai.cost(
        Used(100_000, 1000, 100_000), "grok-4.7", provider="openai-compat",
        provider_name="xai", moment=NOW,
    )  # fmt: skip
    assert reached.nano_usd == 100_000 * 4_000 + 100_000 * 1_000 + 1000 * 12_000


def test_openais_table_of_priority_processing(pricing: Pricing) -> None:
    # https://openai.com/api-priority-processing/, read 2026-11-29: dollars a million, input,
    # cached input, output.
    rows = {
        "gpt-5.5": (12_500, 1_250, 75_000),
        "gpt-5.4-mini": (1_500, 150, 9_000),
        "gpt-5.4": (5_000, 500, 30_000),
        "gpt-5.2": (3_500, 350, 28_000),
        "gpt-5.1": (2_500, 250, 20_000),
        "gpt-5": (2_500, 250, 20_000),
        "gpt-5-mini": (450, 45, 3_600),
        "gpt-5-codex": (2_500, 250, 20_000),
        "gpt-4.1": (3_500, 875, 14_000),
    }
    tier = {"service_tier": "priority"}
    kinds = (Used(1, metadata=tier), Used(0, 0, 1, metadata=tier), Used(0, 1, metadata=tier))
    for model, told in rows.items():
        found = tuple(cost(pricing, model, used, "openai").nano_usd for used in kinds)
        assert found == told, model


def test_googles_price_that_ends_with_the_year(pricing: Pricing) -> None:
    # https://ai.google.dev/gemini-api/docs/pricing, as transcribed on 2026-09-20 in
    # https://github.com/api-evangelist/gemini: Gemini 3.8 Flash, input, "$0.75 through
    # December 31, 2026".
    last = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    costs = [
        pricing.cost(
            Used(1000), "gemini-3.8-flash", provider="google", provider_name="g", moment=moment
        ).nano_usd
        for moment in (NOW, last, last + 60)
    ]
    assert costs[:2] == [750_000, 750_000]
    assert costs[2] is not None
    assert costs[2] > 750_000
