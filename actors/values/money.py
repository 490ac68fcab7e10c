"""Money as people read it."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

__all__ = ["NANO_IN_DOLLAR", "dollars"]

NANO_IN_DOLLAR = 1_000_000_000

_NANO = Decimal("0.000000001")
_CENT = Decimal("0.01")


def dollars(nano: int | None) -> str:
    """Nano-dollars rounded to cents; to two digits that say something when it is less than one.

    ``None`` is what has no price.
    """
    if nano is None:
        return "unpriced"
    exact = nano * _NANO
    unit = _CENT
    if exact and abs(exact) < _CENT:
        unit = Decimal(1).scaleb(exact.adjusted() - 1)
    rounded = exact.quantize(max(unit, _NANO), ROUND_HALF_UP)
    return f"{'-' if rounded < 0 else ''}${abs(rounded):,f}"
