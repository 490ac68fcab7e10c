"""What the tokens of one record cost, in whole nano-dollars.

Prices are whole pico-dollars, counts are whole, so the sum is exact; it is rounded once, to the
next nano-dollar (half of one up).  Ten tokens of an embedding at $0.02 a million are 200.

What has no price costs nothing that could be known: the answer is then why, and never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from attrs import field

from aigateway.actors.control.local.prices.names import is_same_model
from aigateway.actors.control.local.prices.table import (
    TOKEN_KINDS,
    ModelPrice,
    Prices,
    PriceTable,
)
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import TokenUsage

__all__ = [
    "REASONS",
    "Cost",
    "Pricing",
    "Used",
    "cost_of",
]

REASONS = ("model", "kind", "tier", "request", "usage")
"""Why something has no price: the model has none; the model has, but not for a kind of token,
for the service tier, or for a tool's requests; or nobody knows what was used."""

_PICO_IN_NANO = 1000
_MOST = 10**18
"""A thousand million dollars: a database's whole numbers have 63 bits."""

_FOUND_AT_MOST = 1024
"""Prices of models that are kept at hand."""

_VENDORS = {
    "bedrock": "aws",
    "copilot": "github-copilot",
    "gemini": "google",
    "openai-compat": "",
    "vercel": "",
    "vertex": "google",
}
"""Whose list prices a type of provider has where its name is not the vendor's, unless its address
says otherwise; nobody's: empty."""

_USUAL_TIERS = frozenset(
    {"", "auto", "default", "on_demand", "on-demand", "standard", "standard_only"}
)
_TIER_NAMES = {"ondemand": "", "batches": "batch"}
_REQUESTS = {
    "web_search_requests": "web_search",
    "file_search_requests": "file_search",
    "code_execution_requests": "code_execution",
    "maps_requests": "maps",
    "images": "images",
    "audio_seconds": "audio_seconds",
    "search_units": "search_units",
    "sources_used": "live_search",
}
"""Metadata of a record, by the kind of which it counts what has been used.  Fetching pages costs
nothing."""
_INSIDE = {
    "input_audio": ("prompt_audio", "input"),
    "input_image": ("prompt_image", "input"),
    "output_audio": ("completion_audio", "output"),
    "output_image": ("completion_image", "output"),
}
"""Kinds that are counted among another's tokens: where, and whose."""
_KEPT = "cache_ephemeral_1h_input"
"""How many of the tokens that were written to a cache are kept for an hour."""
_RAN = "server_side_tool_usage"
_COUNTED = frozenset({_KEPT, _RAN, *_REQUESTS, *(name for name, _ in _INSIDE.values())})
"""All metadata that are counts."""
_PER_TOKEN = frozenset(TOKEN_KINDS)


@frozen
class Used:
    """What a record says was used."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    metadata: Mapping[str, Any] = field(factory=dict)

    @classmethod
    def of(cls, record: TokenUsage) -> Used:
        return cls(
            record.input_tokens,
            record.output_tokens,
            record.cache_read_input_tokens,
            record.cache_write_input_tokens,
            {**record.metadata, **record.extra_token_types}
            if record.extra_token_types
            else record.metadata,
        )

    @property
    def all_input(self) -> int:
        """What thresholds of long contexts are about."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_write_input_tokens


@frozen
class Cost:
    """What something costs, by which price of which table."""

    nano_usd: int | None
    """``None``: it has no price."""
    table: str
    """The version of the tables that were asked."""
    price: str | None = None
    """The price's name, ``anthropic/claude-sonnet-4-5`` for example."""
    unpriced: str | None = None
    """One of :data:`REASONS`."""
    detail: str = ""
    """What exactly has no price."""


@frozen
class _Unpriced(Exception):
    reason: str
    detail: str


def cost_of(price: ModelPrice, used: Used) -> tuple[int | None, str | None, str]:
    """Nano-dollars; or ``None`` and one of :data:`REASONS` with what exactly has no price."""
    try:
        return _nano(price, used), None, ""
    except _Unpriced as ex:
        return None, ex.reason, ex.detail


def _nano(price: ModelPrice, used: Used) -> int:
    counts = _counts(used)
    if used.metadata.get("usage_complete") is False and not any(counts.values()):
        raise _Unpriced("usage", "the answer broke off before its usage was told")
    prices = price.at(used.all_input)
    for tier in _tiers(used.metadata):
        if (differing := price.tiers.get(tier)) is None:
            raise _Unpriced("tier", f"service tier {tier}")
        # A tier has its own long context, or one price for all lengths.
        prices = {**prices, **differing.at(used.all_input)}
    tokens = requests = 0
    for kind, count in counts.items():
        if not count:
            continue
        if kind in _PER_TOKEN:
            tokens += count * _per_token(prices, kind)
        elif kind in prices:
            requests += count * prices[kind]
        else:
            raise _Unpriced("request", kind)
    exact: int | Fraction = tokens + requests
    factor = price.geo.get(str(used.metadata.get("inference_geo", "")))
    if factor is not None:
        exact = Fraction(factor) * tokens + requests
    return int((exact + _PICO_IN_NANO // 2) // _PICO_IN_NANO)


def _counts(used: Used) -> dict[str, int]:
    """How much was used of each kind; none is counted twice."""
    counts = {
        "input": used.input_tokens,
        "output": used.output_tokens,
        "cache_read": used.cache_read_input_tokens,
        "cache_write": used.cache_write_input_tokens,
    }
    if _COUNTED.isdisjoint(used.metadata):
        # PERF: as nearly all records are; 2 us less than looking for each.
        return counts
    kept = min(_whole(used.metadata.get(_KEPT)), counts["cache_write"])
    counts["cache_write_1h"] = kept
    counts["cache_write"] -= kept
    for kind, (name, among) in _INSIDE.items():
        count = min(_whole(used.metadata.get(name)), counts[among])
        counts[kind] = count
        counts[among] -= count
    for name, kind in _REQUESTS.items():
        counts[kind] = _whole(used.metadata.get(name))
    # xAI's own tools.  Of which it tells no price is known but a web search's.
    ran = used.metadata.get(_RAN)
    for tool, times in (ran if isinstance(ran, Mapping) else {}).items():
        kind = "web_search" if tool == "web_search_calls" else str(tool)
        counts[kind] = counts.get(kind, 0) + _whole(times)
    return counts


def _per_token(prices: Prices, kind: str) -> int:
    """The price of a token.  Who has no price of its own for cached tokens, pictures and sound
    takes that of all others; who has one for 5 minutes has another for an hour."""
    wanted = [kind]
    if kind == "cache_write_1h" and "cache_write" in prices:
        pass
    elif kind.startswith(("cache_", "input_")):
        wanted.append("input")
    elif kind.startswith("output_"):
        wanted.append("output")
    for each in wanted:
        if each in prices:
            return prices[each]
    raise _Unpriced("kind", kind)


def _tiers(metadata: Mapping[str, Any]) -> list[str]:
    if "service_tier" not in metadata and "speed" not in metadata:
        return []
    found = []
    for name, usual in (("service_tier", _USUAL_TIERS), ("speed", frozenset({"", "standard"}))):
        told = metadata.get(name)
        tier = told.lower() if isinstance(told, str) else ""
        tier = _TIER_NAMES.get(tier, tier)
        if tier not in usual and tier not in found:
            found.append(tier)
    return found


def _names(metadata: Mapping[str, Any], asked: str, kind: str) -> list[str]:
    """The model that answered, by the names that may have a price, the best first."""
    upstream, answering = metadata.get("upstream_model"), metadata.get("provider_model")
    asked = upstream if isinstance(upstream, str) and upstream else asked
    if not isinstance(answering, str) or not answering:
        return [asked]
    if kind == "azure" and answering != asked and "upstream_model" not in metadata:
        # A deployment, whose answer names no other model: a list says what it was asked for as.
        return [asked, answering]
    if not is_same_model(asked, answering):
        return [answering]
    # Bedrock's answers name the model without the region it is paid in; others tell the date.
    return [asked, answering] if kind == "bedrock" else [answering, asked]


def _whole(told: object) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0


@frozen(eq=False)
class _Sellers:
    """Whose prices those of one provider may be, the likeliest first."""

    kind: str
    """The provider's type."""
    listed: tuple[str, ...]
    """In the package's table."""
    own: tuple[str, ...]
    """In the operator's."""


@frozen
class Pricing:
    """The tables that are asked, and which providers there are."""

    packaged: PriceTable
    own: PriceTable | None = None
    """The operator's: it comes first."""
    providers: Mapping[str, tuple[str, str]] = field(factory=dict)
    """Type and address of each provider, by its name."""
    _known: dict[tuple[str, str], _Sellers] = field(factory=dict, init=False, eq=False, repr=False)
    """By type and name of a provider."""
    _found: dict[tuple[object, ...], ModelPrice | None] = field(
        factory=dict, init=False, eq=False, repr=False
    )
    """By who sells, what was asked for, the minute, and the names of what answered."""

    @property
    def version(self) -> str:
        """Which tables there are, as it stands in a record's row."""
        if self.own is None:
            return self.packaged.version
        return f"{self.packaged.version}+{self.own.version}"

    def find(
        self, model: str, *, provider: str, provider_name: str, moment: float
    ) -> tuple[str, ModelPrice] | None:
        """What a model costs with a provider, by its type and name, at a Unix time; and the
        version of the table that says so."""
        sellers = self._sellers(provider, provider_name)
        if self.own is not None and (found := self.own.find(model, sellers.own, moment)):
            return self.own.version, found
        found = self.packaged.find(model, sellers.listed, moment)
        return None if found is None else (self.packaged.version, found)

    def cost(
        self, used: Used, model: str, *, provider: str, provider_name: str, moment: float
    ) -> Cost:
        """What the tokens of one record cost.

        The record's own ``provider_name`` and ``provider_model`` say who really answered.
        """
        told = used.metadata.get("provider_name")
        provider_name = told if isinstance(told, str) and told else provider_name
        sellers = self._sellers(provider, provider_name)
        names = _names(used.metadata, model, sellers.kind)
        price = self._price(names, model, sellers, moment)
        if price is None:
            return Cost(None, self.version, None, "model", f"{names[0]} of {provider_name}")
        nano, reason, detail = cost_of(price, used)
        if nano is not None and nano > _MOST:
            nano, reason, detail = None, "usage", "more tokens than there can be"
        return Cost(nano, self.version, price.key, reason, detail)

    def price(
        self, used: Used, model: str, *, provider: str, provider_name: str, moment: float
    ) -> ModelPrice | None:
        """What the tokens of one record are paid by, for who asks :func:`cost_of` twice."""
        sellers = self._sellers(provider, provider_name)
        return self._price(_names(used.metadata, model, sellers.kind), model, sellers, moment)

    def _price(
        self, names: list[str], model: str, sellers: _Sellers, moment: float
    ) -> ModelPrice | None:
        # PERF: the same few models come again and again, and prices change by the minute.
        key = (sellers, model, moment // 60, *names)
        try:
            return self._found[key]
        except KeyError:
            pass
        price = self._looked_up(names, model, sellers, moment)
        if len(self._found) >= _FOUND_AT_MOST:
            self._found.clear()
        self._found[key] = price
        return price

    def _looked_up(
        self, names: list[str], model: str, sellers: _Sellers, moment: float
    ) -> ModelPrice | None:
        price = None
        if self.own is not None:
            # An operator may have meant either name.
            for name in dict.fromkeys((*names, model)):
                price = price or self.own.find(name, sellers.own, moment)
        for name in names:
            price = price or self.packaged.find(name, sellers.listed, moment)
        return price

    def _sellers(self, provider: str, provider_name: str) -> _Sellers:
        # PERF: there is a pattern for each vendor; kept, a record costs some 6 us less.
        found = self._known.get((provider, provider_name))
        if found is None:
            kind, address = self.providers.get(provider_name, (provider, ""))
            listed = self._vendors(kind, address)
            own = tuple(dict.fromkeys((provider_name, kind, *listed, "")))
            found = self._known[provider, provider_name] = _Sellers(kind, listed, own)
        return found

    def _vendors(self, kind: str, address: str) -> tuple[str, ...]:
        """Whose list prices a provider has: those of who owns its address, else of its type."""
        vendor = self.packaged.vendor_of(address) if address else None
        if vendor is None:
            vendor = self.packaged.vendor(_VENDORS.get(kind, kind))
        return () if vendor is None else (vendor.name, *vendor.serves)
