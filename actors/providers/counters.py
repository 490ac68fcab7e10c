"""What a provider actor counts, for metrics.

Only its actor writes to it; everybody else gets a copy.
"""

from __future__ import annotations

from attrs import define, evolve, field

__all__ = ["Counters"]


@define
class Counters:
    """Everything since the actor was started, from 0."""

    attempts: int = 0
    """Times a request was given to a worker to be sent, retries and further keys included."""
    unsent: int = 0
    """Attempts of which no byte has left: the upstream cannot have seen them."""
    failovers: int = 0
    """Attempts made with a further key because of what the one before was answered."""
    retries: int = 0
    """Attempts made after a pause."""
    fallback_reasons: dict[str, int] = field(factory=dict)
    """Requests handed on to another provider, by reason (:mod:`.strategy`)."""
    queue_full: int = 0
    """Requests refused because too many, or for too long, waited for a connection."""
    keys_tried: dict[int, int] = field(factory=dict)
    """How many walks through the pool have ended after so many keys."""
    exhaustions: dict[str, int] = field(factory=dict)
    """Requests that found no key (left), by outcome: rate_limited or auth_failed."""
    rests: dict[str, int] = field(factory=dict)
    """Rests of keys that have begun, by reason: rate_limited or unauthorized."""
    trips: dict[tuple[str, str], int] = field(factory=dict)
    """Times a circuit has opened, by route and model."""
    rejects: dict[tuple[str, str], int] = field(factory=dict)
    """Requests turned away by a circuit, by route and model."""
    renewals: int = 0
    """Times that another credential has come, where the provider's does not last."""
    failed_renewals: int = 0
    """Times that none could be had."""
    drains: int = 0
    """Answers read on after their client had gone."""
    drains_complete: int = 0
    """Those of them that were read to their end."""
    drains_refused: int = 0
    """Answers given up because too many were being drained."""
    connections_opened: int = 0
    connections_reused: int = 0
    """Exchanges on a connection that had carried another one before."""

    @property
    def fallbacks(self) -> int:
        """Requests handed on to another provider, for whatever reason."""
        return sum(self.fallback_reasons.values())

    def copy(self) -> Counters:
        """A copy that the actor does not touch any more."""
        return evolve(
            self,
            keys_tried=dict(self.keys_tried),
            exhaustions=dict(self.exhaustions),
            fallback_reasons=dict(self.fallback_reasons),
            rests=dict(self.rests),
            trips=dict(self.trips),
            rejects=dict(self.rejects),
        )

    def walked(self, keys: int) -> None:
        """A walk through the pool has ended after ``keys`` keys."""
        if keys:
            self.keys_tried[keys] = self.keys_tried.get(keys, 0) + 1

    def exhausted(self, outcome: str) -> None:
        self.exhaustions[outcome] = self.exhaustions.get(outcome, 0) + 1

    def handed_on(self, reason: str) -> None:
        self.fallback_reasons[reason] = self.fallback_reasons.get(reason, 0) + 1

    def key_rests(self, reason: str) -> None:
        self.rests[reason] = self.rests.get(reason, 0) + 1

    def tripped(self, route: str, model: str) -> None:
        self.trips[route, model] = self.trips.get((route, model), 0) + 1

    def rejected(self, route: str, model: str) -> None:
        self.rejects[route, model] = self.rejects.get((route, model), 0) + 1

    def forget_circuit(self, key: tuple[str, str]) -> None:
        """The circuit is no more; clients choose the names, so nothing may pile up."""
        self.trips.pop(key, None)
        self.rejects.pop(key, None)
