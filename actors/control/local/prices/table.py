"""A table of prices: how it is written, what is wrong with it, and how a model is found in it.

A table is a document of YAML or JSON; the package's own has the same form as an operator's::

    version: "2026-11"
    models:
      - model: claude-sonnet-4-5
        names: [our-sonnet, "claude-sonnet-4-5*"]
        provider: anthropic
        input: 3                   # dollars for a million tokens
        output: 15
        cache_read: 0.3
        cache_write: 3.75          # kept for 5 minutes
        cache_write_1h: 6
        web_search: 10             # dollars for a thousand requests
        over:
          200000: {input: 6, output: 22.5}
        tiers:
          batch: {input: 1.5, output: 7.5}

Prices are decimal numbers and stay exact: inside they are whole pico-dollars (10⁻¹² $) for a
token or a request, which is why a price may have no more than six digits behind its point.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from attrs import field, frozen

from aigateway.actors.control.local.prices.names import spellings

__all__ = [
    "KINDS",
    "REQUEST_KINDS",
    "TOKEN_KINDS",
    "BadPrices",
    "ModelPrice",
    "PriceTable",
    "Prices",
    "Vendor",
    "read_table",
]

TOKEN_KINDS = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "input_audio",
    "output_audio",
    "input_image",
    "output_image",
)
"""What is priced by the million tokens."""
REQUEST_KINDS = (
    "web_search",
    "file_search",
    "code_execution",
    "maps",
    "images",
    "audio_seconds",
    "search_units",
)
"""What is priced by the thousand, requests of tools above all."""
KINDS = TOKEN_KINDS + REQUEST_KINDS

_DIGITS = 6
"""Digits behind the point: a millionth of a dollar for a million tokens is a pico-dollar."""
_PICO_OF_TOKEN = 10**6
"""Pico-dollars for a token, at a dollar for a million."""
_PICO_OF_REQUEST = 10**9
"""Pico-dollars for a request, at a dollar for a thousand."""
_HIGHEST = Decimal(1_000_000)
_KNOWN_AT_MOST = 1024

Prices = Mapping[str, int]
"""Pico-dollars for one token or request of each kind."""


class BadPrices(ValueError):
    """What is wrong with a table; the text names the field."""


@frozen
class ModelPrice:
    """The prices of one model, at one time."""

    model: str
    provider: str
    """A provider's name or type, or a vendor; empty: of any provider."""
    names: tuple[str, ...]
    """Other names, in lower case, ``*`` standing for any text."""
    prices: Prices
    over: tuple[tuple[int, Prices], ...] = ()
    """What else costs of it beyond a number of input tokens, the highest number first."""
    tiers: Mapping[str, ModelPrice] = field(factory=dict)
    """What differs in a service tier."""
    geo: Mapping[str, Decimal] = field(factory=dict)
    """What all token prices are multiplied by where the model ran in a place."""
    since: date | None = None
    """The first day (UTC) of these prices."""
    hours: tuple[int, int] | None = None
    """Minutes of the day (UTC) from which and until which they hold."""

    @property
    def key(self) -> str:
        return f"{self.provider}/{self.model}" if self.provider else self.model

    def holds(self, moment: datetime) -> bool:
        """Whether these prices hold at a time, which is in UTC."""
        if self.since is not None and moment.date() < self.since:
            return False
        if self.hours is None:
            return True
        first, last = self.hours
        minute = moment.hour * 60 + moment.minute
        return first <= minute < last if first <= last else minute >= first or minute < last

    def at(self, input_tokens: int) -> Prices:
        """The prices of a call with so many tokens of input, cached ones included."""
        for threshold, prices in self.over:
            if input_tokens > threshold:
                return {**self.prices, **prices}
        return self.prices


@frozen
class Vendor:
    """Who has list prices: how its address is known, and who else's models it serves."""

    name: str
    address: re.Pattern[str]
    serves: tuple[str, ...] = ()


@frozen
class PriceTable:
    """Prices by model.  The last entry that holds at a time is the one that counts."""

    version: str
    models: tuple[ModelPrice, ...]
    vendors: tuple[Vendor, ...] = ()
    source: str = ""
    _exact: dict[tuple[str, str], list[ModelPrice]] = field(init=False, repr=False, eq=False)
    _patterns: dict[str, list[tuple[Sequence[str], list[ModelPrice]]]] = field(
        init=False, repr=False, eq=False
    )

    _known: dict[tuple[str, tuple[str, ...]], Sequence[list[ModelPrice]]] = field(
        init=False, repr=False, eq=False, factory=dict
    )

    def __attrs_post_init__(self) -> None:
        exact: dict[tuple[str, str], list[ModelPrice]] = {}
        globs: dict[tuple[str, str], list[ModelPrice]] = {}
        for entry in self.models:
            for name in dict.fromkeys((entry.model.lower(), *entry.names)):
                kind = globs if "*" in name else exact
                kind.setdefault((entry.provider, name), []).append(entry)
        patterns: dict[str, list[tuple[Sequence[str], list[ModelPrice]]]] = {}
        # The most that is written out says the most.
        for (provider, name), entries in sorted(globs.items(), key=lambda item: -len(item[0][1])):
            patterns.setdefault(provider, []).append((name.split("*"), entries))
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_patterns", patterns)

    def find(self, model: str, providers: Sequence[str], moment: float) -> ModelPrice | None:
        """The price of a model with the first of ``providers`` that has one, at a Unix time."""
        when = datetime.fromtimestamp(moment, UTC)
        for entries in self._candidates(model, tuple(providers)):
            for entry in reversed(entries):
                if entry.holds(when):
                    return entry
        return None

    def vendor_of(self, address: str) -> Vendor | None:
        """Whose address this is."""
        return next((each for each in self.vendors if each.address.match(address)), None)

    def vendor(self, name: str) -> Vendor | None:
        return next((each for each in self.vendors if each.name == name), None)

    def _candidates(self, model: str, providers: tuple[str, ...]) -> Sequence[list[ModelPrice]]:
        # PERF: the same few models come again and again, and patterns are many.
        found = self._known.get((model, providers))
        if found is None:
            names = list(spellings(model))
            found = [
                entries
                for provider in providers
                for name in names
                for entries in self._entries(provider, name)
            ]
            if len(self._known) >= _KNOWN_AT_MOST:
                self._known.clear()
            self._known[model, providers] = found
        return found

    def _entries(self, provider: str, name: str) -> Iterator[list[ModelPrice]]:
        if (found := self._exact.get((provider, name))) is not None:
            yield found
        for parts, entries in self._patterns.get(provider, ()):
            if _fits(name, parts):
                yield entries


def _fits(name: str, parts: Sequence[str]) -> bool:
    """Whether a name is ``parts`` with any text between them."""
    first, *between, last = parts
    if not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in between:
        if (found := name.find(part, at, end)) < 0:
            return False
        at = found + len(part)
    return at <= end


def read_table(document: object, *, packaged: bool = False, version: str = "") -> PriceTable:
    """A table from what a YAML or JSON document holds.

    ``version`` is that of a table that does not name one.  ``packaged`` admits what only the
    package's own has.  Raises :class:`BadPrices`.
    """
    more = ("vendors", "source") if packaged else ()
    top = _mapping(document, "the file", ("version", "models", *more))
    told = top.get("version", version)
    if isinstance(told, (int, float, date)) and not isinstance(told, bool):
        told = str(told)  # YAML reads 2026-11-28 and 3 for what they look like.
    if not isinstance(told, str) or not told or not told.isprintable() or len(told) > 64:
        raise BadPrices("version: must be a text of at most 64 characters")
    models = top.get("models")
    if not isinstance(models, list) or not models:
        raise BadPrices("models: must be a list of at least one model")
    entries = tuple(_entry(each, f"models[{n}]") for n, each in enumerate(models))
    _check_doubles(entries)
    vendors = tuple(
        Vendor(name, re.compile(each["address"]), tuple(each.get("serves", ())))
        for name, each in top.get("vendors", {}).items()
    )
    return PriceTable(told, entries, vendors, top.get("source", ""))


def _entry(told: object, where: str) -> ModelPrice:
    own = ("model", "names", "provider", "over", "tiers", "geo", "since", "hours")
    fields = _mapping(told, where, (*own, *KINDS))
    model = fields.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadPrices(f"{where}.model: must be the name of a model")
    where = f"{where} ({model})"
    provider = fields.get("provider", "")
    if not isinstance(provider, str):
        raise BadPrices(f"{where}.provider: must be a provider's name or type")
    names = fields.get("names", [])
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise BadPrices(f"{where}.names: must be a list of names")
    prices = _prices(fields, where)
    if not prices:
        raise BadPrices(f"{where}: has no price; give at least one of {', '.join(KINDS)}")
    tiers = {
        str(name).lower(): _tier(each, f"{where}.tiers.{name}")
        for name, each in _mapping(fields.get("tiers", {}), f"{where}.tiers").items()
    }
    return ModelPrice(
        model=model.strip(),
        provider=provider,
        names=tuple(each.lower() for each in names),
        prices=prices,
        over=_over(fields, where),
        tiers=tiers,
        geo=_geo(fields, where),
        since=_since(fields, where),
        hours=_hours(fields, where),
    )


def _tier(told: object, where: str) -> ModelPrice:
    # An empty one says that the tier costs what all others cost.
    fields = _mapping(told, where, ("over", *KINDS))
    return ModelPrice("", "", (), _prices(fields, where), _over(fields, where))


def _over(fields: Mapping[str, Any], where: str) -> tuple[tuple[int, Prices], ...]:
    found = {}
    for threshold, told in _mapping(fields.get("over", {}), f"{where}.over").items():
        here = f"{where}.over.{threshold}"
        if not re.fullmatch(r"[1-9]\d{0,11}", str(threshold)):
            raise BadPrices(f"{here}: must be a number of input tokens")
        prices = _prices(_mapping(told, here, TOKEN_KINDS), here)
        if not prices:
            raise BadPrices(f"{here}: has no price; give at least one of {', '.join(TOKEN_KINDS)}")
        found[int(threshold)] = prices
    return tuple(sorted(found.items(), reverse=True))


def _prices(fields: Mapping[str, Any], where: str) -> dict[str, int]:
    found = {}
    for kind in KINDS:
        if kind in fields:
            price = _decimal(fields[kind], f"{where}.{kind}")
            unit = _PICO_OF_TOKEN if kind in TOKEN_KINDS else _PICO_OF_REQUEST
            found[kind] = int(price * unit)
    return found


def _geo(fields: Mapping[str, Any], where: str) -> dict[str, Decimal]:
    told = _mapping(fields.get("geo", {}), f"{where}.geo")
    return {str(place): _decimal(each, f"{where}.geo.{place}") for place, each in told.items()}


def _decimal(told: object, where: str) -> Decimal:
    number = None
    if isinstance(told, (int, float, str)) and not isinstance(told, bool):
        try:
            # The text of a float is the shortest that means it: what was written.
            number = Decimal(str(told).strip())
        except InvalidOperation:
            number = None
    if number is None or not number.is_finite():
        raise BadPrices(f"{where}: must be a number of dollars, not {told!r}")
    if number < 0:
        raise BadPrices(f"{where}: must not be below 0")
    if number > _HIGHEST:
        raise BadPrices(f"{where}: {told} dollars cannot be meant; the unit is a million tokens")
    if number != round(number, _DIGITS):
        raise BadPrices(f"{where}: may have at most {_DIGITS} digits behind the point")
    return number


def _since(fields: Mapping[str, Any], where: str) -> date | None:
    told = fields.get("since")
    if told is None:
        return None
    if isinstance(told, datetime) or not isinstance(told, (str, date)):
        raise BadPrices(f"{where}.since: must be a day like 2026-11-28")
    try:
        return date.fromisoformat(str(told))
    except ValueError:
        raise BadPrices(f"{where}.since: must be a day like 2026-11-28") from None


def _hours(fields: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    told = fields.get("hours")
    if told is None:
        return None
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", str(told))
    if found is None:
        raise BadPrices(f"{where}.hours: must be times of the day in UTC like 16:30-00:30")
    first, minute, last, end = (int(each) for each in found.groups())
    return first * 60 + minute, last * 60 + end


def _mapping(told: object, where: str, known: Iterable[str] = ()) -> Mapping[Any, Any]:
    if not isinstance(told, Mapping):
        raise BadPrices(f"{where}: must be a mapping")
    known = tuple(known)
    unknown = [each for each in told if known and each not in known]
    if unknown:
        raise BadPrices(f"{where}: there is no field {unknown[0]!r}; known are {', '.join(known)}")
    return told


def _check_doubles(entries: Sequence[ModelPrice]) -> None:
    seen: dict[tuple[object, ...], int] = {}
    for number, entry in enumerate(entries):
        key = (entry.provider, entry.model.lower(), entry.since, entry.hours)
        if (first := seen.setdefault(key, number)) != number:
            raise BadPrices(
                f"models[{number}] ({entry.model}): is models[{first}] again;"
                " give them different `since`, `hours` or `provider`"
            )
