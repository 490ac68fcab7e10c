"""What breaks and when, drawn from a seed.  No process, no clock.

Kinds are dealt like cards: each comes once before any comes again, in an order that the seed
gives.  Faults that last may overlap those of other kinds, never one of their own.  The plan of a
short run is the beginning of a longer one's.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence

from attrs import frozen

__all__ = ["KINDS", "Fault", "Kind", "draw_plan", "kinds_for"]

FIRST = 1.0
"""Seconds of load before the first fault."""
GAP = (0.4, 2.4)
"""Seconds between the beginnings of two faults."""
CHOICES = 1 << 16
"""``Fault.choice`` is below this."""


@frozen
class Kind:
    """One kind of fault."""

    name: str
    about: str
    lasts: tuple[float, float] = (0.0, 0.0)
    """Seconds, shortest and longest; 0: it is done in a moment."""
    plane: str = ""
    """The control plane that can have it; empty: any."""


@frozen
class Fault:
    """One fault of a plan."""

    at: float
    """Seconds since the load began."""
    kind: str
    seconds: float
    choice: int
    """Which of whatever there is to choose from at that moment: worker, actor, way."""

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:7.2f} s  {self.kind}{lasts}  ({self.choice})"


KINDS: tuple[Kind, ...] = (
    Kind("kill-worker", "SIGKILL to a worker process"),
    Kind("kill-main", "SIGKILL to the main process, which is then started again"),
    Kind("restart-actor", "`aigateway actors restart ROLE`"),
    Kind("crash-actor", "`aigateway actors restart ROLE --crash`"),
    Kind("reload", "3 to 20 SIGHUPs in a row"),
    Kind("provider-500", "the provider answers 500", (0.5, 3.0)),
    Kind("provider-503", "the provider answers 503", (0.5, 3.0)),
    Kind("provider-429", "the provider answers 429 with Retry-After: 1", (0.2, 1.0)),
    Kind("provider-reset", "the provider breaks connections before the answer", (0.5, 3.0)),
    Kind("provider-cut", "the provider breaks off in the middle of an answer", (0.5, 3.0)),
    Kind("provider-stall", "the provider falls silent in the middle of an answer", (0.5, 3.0)),
    Kind("clients-vanish", "clients hang up in the middle of an answer", (0.5, 3.0)),
    Kind("clients-stall", "clients pause while they send and while they read", (0.5, 3.0)),
    Kind("clock", "the gateway's wall clock jumps, by minutes, hours or days, either way"),
    Kind("full-disk", "the state folder has no room", (0.5, 4.0)),
    Kind("coderd-drop", "lines to the deployment end, in one of four ways", plane="coderd"),
    Kind("coderd-stall", "lines carry no bytes", (1.0, 13.0), "coderd"),
    Kind("coderd-refuse", "the deployment refuses connections", (0.5, 5.0), "coderd"),
    Kind("coderd-delay", "the deployment answers slowly", (0.5, 3.0), "coderd"),
    Kind("coderd-error", "the deployment stores nothing and says so", (0.5, 3.0), "coderd"),
    Kind("coderd-reset", "a record is stored, and the line breaks before the answer",
         plane="coderd"),
    Kind("coderd-goaway", "the deployment sends GoAway", plane="coderd"),
    Kind("postgres-kill", "SIGKILL to all of PostgreSQL, which is then started again",
         (0.5, 5.0), "postgres"),
    Kind("postgres-stall", "PostgreSQL says nothing, its connections open", (1.0, 13.0),
         "postgres"),
    Kind("postgres-drop", "PostgreSQL ends all connections", plane="postgres"),
)  # fmt: skip


def kinds_for(
    plane: str, only: Collection[str] = (), without: Collection[str] = ()
) -> tuple[Kind, ...]:
    """The kinds that a run with this control plane has, of ``only`` those if any are named."""
    return tuple(
        kind
        for kind in KINDS
        if kind.plane in ("", plane)
        and (not only or kind.name in only)
        and kind.name not in without
    )


def draw_plan(seed: int, seconds: float, kinds: Sequence[Kind]) -> tuple[Fault, ...]:
    """The faults that begin within ``seconds``, by time; the same for the same arguments."""
    plan = []
    for fault in _endless(random.Random(seed), kinds):
        if fault.at >= seconds:
            break
        plan.append(fault)
    return tuple(plan)


def _endless(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Fault]:
    at = FIRST
    free_at: dict[str, float] = {}
    while kinds:
        deck = list(kinds)
        while deck:
            kind = deck.pop(int(chance.random() * len(deck)))
            shortest, longest = kind.lasts
            seconds = round(shortest + (longest - shortest) * chance.random(), 2)
            choice = int(chance.random() * CHOICES)
            at = round(max(at, free_at.get(kind.name, 0.0)), 2)
            yield Fault(at, kind.name, seconds, choice)
            free_at[kind.name] = at + seconds
            at += GAP[0] + (GAP[1] - GAP[0]) * chance.random()
