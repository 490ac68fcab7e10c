"""What a model costs, as it is shown: with whom it has a price, and its prices as exact texts."""

from __future__ import annotations

from typing import Any

from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import TOKEN_KINDS, ModelPrice, Prices

__all__ = ["amount", "price_data", "prices_of"]

_PICO_OF_TOKEN = 10**6
_PICO_OF_REQUEST = 10**9


def prices_of(
    pricing: Pricing, model: str, provider: str | None, moment: float
) -> list[tuple[str, ModelPrice]]:
    """What ``model`` costs at a Unix time with ``provider`` (a name, a type or a vendor), or with
    each that has a price for it, the own prices first.

    Each comes with the version of its table.
    """
    if provider is not None:
        found = pricing.find(model, provider=provider, provider_name=provider, moment=moment)
        return [] if found is None else [found]
    everywhere = []
    if pricing.own is not None:
        for name in dict.fromkeys(each.provider for each in pricing.own.models):
            if (price := pricing.own.find(model, (name,), moment)) is not None:
                everywhere.append((pricing.own.version, price))
    for vendor in pricing.packaged.vendors:
        if (price := pricing.packaged.find(model, (vendor.name,), moment)) is not None:
            everywhere.append((pricing.packaged.version, price))
    return everywhere


def price_data(table: str, price: ModelPrice) -> dict[str, Any]:
    """A price as JSON, with the version of the ``table`` that has it.  Amounts are texts."""
    data: dict[str, Any] = {
        "table": table,
        "price": price.key,
        "provider": price.provider,
        "model": price.model,
    }
    data.update(_amounts(price.prices))
    if price.over:
        data["over"] = _over(price)
    if price.tiers:
        data["tiers"] = {
            name: {**_amounts(tier.prices), **({"over": _over(tier)} if tier.over else {})}
            for name, tier in price.tiers.items()
        }
    if price.geo:
        data["geo"] = {place: str(factor) for place, factor in price.geo.items()}
    if price.since is not None:
        data["since"] = price.since.isoformat()
    if price.hours is not None:
        data["hours"] = "-".join(f"{at // 60:02}:{at % 60:02}" for at in price.hours)
    return data


def amount(kind: str, price: int) -> str:
    """Pico-dollars as dollars for a million tokens, or for a thousand of what ``kind`` counts."""
    unit = _PICO_OF_TOKEN if kind in TOKEN_KINDS else _PICO_OF_REQUEST
    whole, part = divmod(price, unit)
    digits = f"{part:0{len(str(unit)) - 1}}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _over(price: ModelPrice) -> dict[str, dict[str, str]]:
    return {str(tokens): _amounts(prices) for tokens, prices in reversed(price.over)}


def _amounts(prices: Prices) -> dict[str, str]:
    return {kind: amount(kind, price) for kind, price in prices.items()}
