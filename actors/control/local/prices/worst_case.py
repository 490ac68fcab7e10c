"""What a call costs at most, before it is made."""

from __future__ import annotations

from attrs import evolve

from aigateway.actors.control.local.prices.cost import Pricing, Used, cost_of
from aigateway.actors.control.local.prices.table import ModelPrice
from aigateway.actors.values.caps import Hold, Payee

__all__ = ["WorstCases"]

_MOST = 10**15
"""A million dollars: sums of what is reserved fit into a database's whole numbers."""
_REMEMBERED = 1024
"""Sets of those who may answer."""
_MINUTE = 60
"""Seconds within which no price changes."""
_PICO_IN_NANO = 1000


class WorstCases:
    """What calls cost at most, by ``pricing``."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing
        self._flat: dict[int, tuple[tuple[Payee, ...], float, list[tuple[int, int]] | None]] = {}
        """By the identity of those who may answer, who stand here too: in which minute, and the
        pico-dollars of each one's tokens of input and of output."""

    def of(self, hold: Hold, moment: float) -> tuple[int | None, str]:
        """Nano-dollars; None and why, where somebody who may answer has no price.

        Input counts as new, and as written to a cache where that is dearer.  ``moment`` is in Unix
        seconds.
        """
        # PERF: nearly all calls have nothing but tokens of one price, and come with the same
        # payees; multiplied at once it takes a third of the time.
        flat = None if hold.metadata else self._flat_prices(hold.payees, moment)
        if flat is not None:
            most = 0
            for given, made in flat:
                pico = hold.input_tokens * given + hold.output_tokens * made
                most = max(most, (pico + _PICO_IN_NANO // 2) // _PICO_IN_NANO)
            return min(most * hold.attempts, _MOST), ""
        most = 0
        for payee in hold.payees:
            cost, why = self._cost(hold, payee, moment)
            if cost is None:
                return None, why
            most = max(most, cost)
        return min(most * hold.attempts, _MOST), ""

    def _cost(self, hold: Hold, payee: Payee, moment: float) -> tuple[int | None, str]:
        metadata = dict(hold.metadata)
        kept = metadata.pop("cache_ephemeral_1h_input", False)
        if payee.named:
            metadata["provider_model"] = payee.named
        given = hold.input_tokens
        used = Used(given, hold.output_tokens, metadata=metadata)
        price = self._price(payee, used, moment)
        if price is None:
            return None, f"{payee.named or payee.model} of {payee.provider_name}"
        most, _reason, detail = cost_of(price, used)
        if most is None:
            return None, f"{detail} of {payee.named or payee.model}"
        if "cache_write" in price.at(given):
            written = evolve(used, input_tokens=0, cache_write_input_tokens=given)
            most = max(most, cost_of(price, written)[0] or 0)
            if kept:
                metadata = {**metadata, "cache_ephemeral_1h_input": given}
                most = max(most, cost_of(price, evolve(written, metadata=metadata))[0] or 0)
        return most, ""

    def _price(self, payee: Payee, used: Used, moment: float) -> ModelPrice | None:
        return self._pricing.price(
            used,
            payee.model,
            provider=payee.provider,
            provider_name=payee.provider_name,
            moment=moment,
        )

    def _flat_prices(
        self, payees: tuple[Payee, ...], moment: float
    ) -> list[tuple[int, int]] | None:
        """None: not all have one price for all their tokens."""
        minute = moment // _MINUTE
        known = self._flat.get(id(payees))
        if known is not None and known[0] is payees and known[1] == minute:
            return known[2]
        found = self._find_flat(payees, moment)
        if len(self._flat) >= _REMEMBERED:
            self._flat.clear()
        self._flat[id(payees)] = payees, minute, found
        return found

    def _find_flat(self, payees: tuple[Payee, ...], moment: float) -> list[tuple[int, int]] | None:
        found = []
        for payee in payees:
            metadata = {"provider_model": payee.named} if payee.named else {}
            price = self._price(payee, Used(metadata=metadata), moment)
            if price is None or price.over or not {"input", "output"} <= price.prices.keys():
                return None
            given = max(price.prices["input"], price.prices.get("cache_write", 0))
            found.append((given, price.prices["output"]))
        return found
