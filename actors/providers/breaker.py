"""A circuit breaker for each endpoint and model of a provider.

Theory of operation
-------------------
A circuit is *closed* while its upstream works, *open* after it has failed often enough, and
*half-open* while a few requests try whether it works again::

    closed ──(failure_threshold failures in a row)──▶ open
    open ──(timeout is over and a request comes)──▶ half-open
    half-open ──(max_requests successes in a row)──▶ closed
    half-open ──(one failure)──▶ open

While closed, the count of failures starts again every ``interval`` seconds.  While open,
every request is rejected.  While half-open, ``max_requests`` requests are admitted in all.

Each change of state, and each new interval, begins a *generation*.  An admitted request gets
a ticket with the generation in which it began; a result from an earlier generation says
nothing about the present one and is ignored.  Generations are numbered across all circuits,
so that a ticket does not fit a circuit that was forgotten and made again.

Two things go beyond the reference.  A request that ends without a result gives its place
back, and after ``timeout`` seconds without a decision a half-open circuit admits as many
requests again: a probe that hangs or is lost must not keep the circuit shut for ever.  And
the number of circuits is bounded, since clients choose the models' names.

Time is passed in: seconds of any clock that only moves forward.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from attrs import define, frozen

from aigateway.actors.values.provider_config import ANTHROPIC_TYPES, BreakerConfig

__all__ = [
    "GAUGE",
    "MAX_CIRCUITS",
    "Admitted",
    "CircuitBreaker",
    "CircuitState",
    "CircuitStatus",
    "CircuitTransition",
    "Rejected",
    "Ticket",
    "failing_statuses",
]

CircuitState: TypeAlias = Literal["closed", "half-open", "open"]

GAUGE: Mapping[CircuitState, float] = MappingProxyType(
    {"closed": 0.0, "half-open": 0.5, "open": 1.0}
)
"""Each state as the value of a metric; the reference's values."""

MAX_CIRCUITS = 1000
"""Circuits of one provider at most: some endpoints times more models than anyone serves."""

_FAILING = frozenset({503, 504})
_OVERLOADED = 529


def failing_statuses(provider_type: str) -> frozenset[int]:
    """Statuses that count as failures of the upstream.

    A 429 does not: it is about a key, and the key pool deals with it.
    """
    return _FAILING | {_OVERLOADED} if provider_type in ANTHROPIC_TYPES else _FAILING


@frozen
class Ticket:
    """Admission of one request, to be given back with its result."""

    route: str
    model: str
    generation: int


@frozen
class CircuitTransition:
    """A circuit's state has changed: to be logged and counted."""

    route: str
    model: str
    before: CircuitState
    after: CircuitState


@frozen
class Admitted:
    """The request may go upstream."""

    ticket: Ticket
    transition: CircuitTransition | None = None
    forgotten: tuple[str, str] | None = None
    """Route and model of the circuit that was dropped to make room, if any."""


@frozen
class Rejected:
    """The request may not go upstream."""

    state: CircuitState
    retry_after: int
    """Whole seconds, for the header of that name."""


@frozen
class CircuitStatus:
    """One circuit as seen from outside."""

    route: str
    model: str
    state: CircuitState


@define
class _Circuit:
    state: CircuitState
    generation: int
    deadline: float
    """End of the interval (closed), of the rest (open), of patience (half-open)."""
    admitted: int = 0
    failures: int = 0
    """In a row."""
    successes: int = 0
    """In a row."""


class CircuitBreaker:
    """The circuits of one provider.  Each comes into being with its first request."""

    def __init__(
        self, config: BreakerConfig, provider_type: str, *, max_circuits: int = MAX_CIRCUITS
    ) -> None:
        self._threshold = max(1, config.failure_threshold)
        self._quota = max(1, config.max_requests)
        self._interval = config.interval if config.interval > 0 else math.inf
        self._timeout = config.timeout
        self._failing = failing_statuses(provider_type)
        self._max_circuits = max_circuits
        # Least recently used first.
        self._circuits: OrderedDict[tuple[str, str], _Circuit] = OrderedDict()
        self._generations = itertools.count(1)

    def __repr__(self) -> str:
        broken = sum(circuit.state != "closed" for circuit in self._circuits.values())
        return f"<CircuitBreaker of {len(self._circuits)}, {broken} not closed>"

    def admit(self, route: str, model: str, now: float) -> Admitted | Rejected:
        """Decide whether a request may go upstream.

        The answer to an admitted request must come back with :meth:`report`, or the ticket
        with :meth:`abandon`.
        """
        key = (route, model)
        forgotten = None
        circuit = self._circuits.get(key)
        if circuit is None:
            forgotten = self._make_room()
            circuit = _Circuit("closed", next(self._generations), now + self._interval)
            self._circuits[key] = circuit
        self._circuits.move_to_end(key)
        transition = None
        if circuit.state == "open":
            if now <= circuit.deadline:
                return self._reject(circuit)
            transition = self._change(key, circuit, "half-open", now)
        self._renew(circuit, now)
        if circuit.state == "half-open" and circuit.admitted >= self._quota:
            return self._reject(circuit)
        circuit.admitted += 1
        return Admitted(Ticket(route, model, circuit.generation), transition, forgotten)

    def report(self, ticket: Ticket, status: int, now: float) -> CircuitTransition | None:
        """Take the status that an admitted request's client got."""
        circuit = self._of(ticket, now)
        if circuit is None:
            return None
        key = (ticket.route, ticket.model)
        if status in self._failing:
            circuit.failures += 1
            circuit.successes = 0
            if circuit.state == "half-open" or circuit.failures >= self._threshold:
                return self._change(key, circuit, "open", now)
        else:
            circuit.failures = 0
            circuit.successes += 1
            if circuit.state == "half-open" and circuit.successes >= self._quota:
                return self._change(key, circuit, "closed", now)
        return None

    def abandon(self, ticket: Ticket, now: float) -> None:
        """Take back the ticket of a request that got no answer worth counting."""
        circuit = self._of(ticket, now)
        if circuit is not None and circuit.admitted:
            circuit.admitted -= 1

    def states(self) -> Iterator[CircuitStatus]:
        """Every circuit's state as of its last request."""
        for (route, model), circuit in self._circuits.items():
            yield CircuitStatus(route, model, circuit.state)

    def _of(self, ticket: Ticket, now: float) -> _Circuit | None:
        """The circuit that a ticket is about, unless its generation is over."""
        circuit = self._circuits.get((ticket.route, ticket.model))
        if circuit is None:
            return None
        if circuit.state == "closed":
            self._renew(circuit, now)
        return circuit if circuit.generation == ticket.generation else None

    def _renew(self, circuit: _Circuit, now: float) -> None:
        """Start counting again when the time for counting is over."""
        if now <= circuit.deadline:
            return
        if circuit.state == "closed":
            self._begin(circuit, now + self._interval)
        else:
            # Only the quota: the probes that are still out may yet decide.
            circuit.admitted = 0
            circuit.deadline = now + self._timeout

    def _change(
        self, key: tuple[str, str], circuit: _Circuit, after: CircuitState, now: float
    ) -> CircuitTransition:
        before = circuit.state
        circuit.state = after
        self._begin(circuit, now + (self._interval if after == "closed" else self._timeout))
        return CircuitTransition(*key, before, after)

    def _begin(self, circuit: _Circuit, deadline: float) -> None:
        """Begin a generation."""
        circuit.generation = next(self._generations)
        circuit.deadline = deadline
        circuit.admitted = circuit.failures = circuit.successes = 0

    def _reject(self, circuit: _Circuit) -> Rejected:
        return Rejected(circuit.state, int(self._timeout))

    def _make_room(self) -> tuple[str, str] | None:
        """Forget the closed circuit that was used longest ago; an open one only if all are."""
        if len(self._circuits) < self._max_circuits:
            return None
        closed = (key for key, circuit in self._circuits.items() if circuit.state == "closed")
        key = next(closed, None) or next(iter(self._circuits))
        del self._circuits[key]
        return key
