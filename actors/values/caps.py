"""What a call may cost at most, the caps that it is to stay under, and how full they are.

Money is whole nano-dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field

from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.policy import AppliedCap

__all__ = ["CapShare", "Hold", "Payee"]


@frozen
class Payee:
    """A model that may answer, with the provider's type and name."""

    provider: str
    provider_name: str
    model: str
    """As it is recorded."""
    named: str = ""
    """By the provider's own name, where that is another."""


@frozen
class Hold:
    """What one call to a provider may use at most, and the caps that it is to stay under."""

    caps: tuple[AppliedCap, ...]
    payees: tuple[Payee, ...]
    """Who may answer; the dearest counts."""
    input_tokens: int
    output_tokens: int
    username: str = ""
    """Whose call it is, for those who look at caps."""
    zone: str = "UTC"
    """Whose days, weeks and months the caps are about."""
    metadata: Mapping[str, Any] = field(factory=dict)
    """As of a token record, where it matters to the price: the tier, requests of tools."""
    attempts: int = 1
    """How many of them may be billed."""
    unpriced: bool = False
    """It may go though nobody knows what it costs."""


@frozen
class CapShare:
    """How full a cap is."""

    cap: AppliedCap
    spent: int
    """Without what is running."""
    resets_at: float
    """Unix seconds."""

    @property
    def part(self) -> float:
        """1.0 is full; it may be more."""
        return self.spent / self.cap.cap.nano_usd if self.cap.cap.nano_usd else 1.0
