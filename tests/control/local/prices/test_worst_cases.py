"""What a call costs at most: the same whether its prices were looked at before or not."""

from __future__ import annotations

from typing import Any

import pytest

from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import PriceTable, read_table
from aigateway.actors.control.local.prices.worst_case import WorstCases
from aigateway.actors.values.caps import Hold, Payee

NOON = 1_772_280_000.0
HOUR = 3600.0


def priced(*models: dict[str, Any]) -> WorstCases:
    own = read_table({"version": "v1", "models": list(models)}, packaged=False)
    return WorstCases(Pricing(PriceTable("none", ()), own))


def model(**prices: Any) -> dict[str, Any]:
    return {"model": "m", "input": 2, "output": 10, **prices}


def hold(given: int, made: int, *payees: Payee, **metadata: Any) -> Hold:
    return Hold((), payees or (Payee("openai", "openai", "m"),), given, made, metadata=metadata)


@pytest.mark.parametrize("tokens", [(0, 0), (1, 1), (1_000, 64_000), (999_999, 1)])
def test_every_price_of_the_package_gives_the_same_on_either_way(
    pricing: Pricing, tokens: tuple[int, int]
) -> None:
    worst = WorstCases(pricing)
    looked = 0
    for each in pricing.packaged.models:
        payee = Payee(each.provider, each.provider, each.model.replace("*", "x"))
        plain = worst.of(hold(*tokens, payee), NOON)
        # Said to be of the usual tier, which makes each price be looked for and worked out.
        assert plain == worst.of(hold(*tokens, payee, service_tier="default"), NOON), each.key
        looked += plain[0] is not None
    assert looked > 100


def test_of_several_that_may_answer_the_dearest_counts_and_all_need_a_price() -> None:
    dear = {"model": "dear", "input": 5, "output": 25}
    worst = priced(model(), dear)
    cheap, other = Payee("openai", "openai", "m"), Payee("openai", "openai", "m", "dear")
    for _ in range(2):
        assert worst.of(hold(1_000, 100, cheap), NOON) == (3_000_000, "")
        assert worst.of(hold(1_000, 100, cheap, other), NOON) == (7_500_000, "")
        unknown = Payee("openai", "openai", "nobody-knows")
        assert worst.of(hold(1, 1, cheap, unknown), NOON) == (None, "nobody-knows of openai")


def test_a_long_prompt_is_not_taken_for_a_short_one() -> None:
    worst = priced(model(over={200_000: {"input": 4}}))
    one = (Payee("openai", "openai", "m"),)
    assert worst.of(Hold((), one, 200_000, 0), NOON) == (400_000_000, "")
    assert worst.of(Hold((), one, 200_001, 0), NOON) == (800_004_000, "")


def test_a_price_that_changes_at_an_hour_changes_for_who_asks_again() -> None:
    worst = priced(model(), model(input=1, hours="13:00-14:00"))
    one = (Payee("openai", "openai", "m"),)
    assert worst.of(Hold((), one, 1_000, 0), NOON) == (2_000_000, "")
    assert worst.of(Hold((), one, 1_000, 0), NOON + HOUR) == (1_000_000, "")
    assert worst.of(Hold((), one, 1_000, 0), NOON + 2 * HOUR) == (2_000_000, "")
