"""Who waits for caps within one control plane, and what becomes of starts that caps are about.

Used by the actors of both kinds of database; it never waits itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Final, get_args

import structlog
from attrs import define, evolve

from aigateway.actors.actor.base import ActorDied, complete, fail
from aigateway.actors.control.local.cap_book import Ask, Money
from aigateway.actors.control.local.cap_holders import CapRow, Holder
from aigateway.actors.control.local.caps import (
    NOTABLE,
    Begun,
    CapTills,
    Full,
    NoTimeZone,
    Verdict,
    Wait,
    tills_of,
)
from aigateway.actors.control.local.prices.cost import Pricing, Used
from aigateway.actors.control.local.prices.worst_case import WorstCases
from aigateway.actors.control.local.store import Written
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    BeginReply,
    CapBusy,
    CapFull,
    CapStats,
    Denied,
    HoldMore,
    NoPrice,
    Unavailable,
)
from aigateway.actors.values.caps import Hold
from aigateway.actors.values.policy import Per
from aigateway.actors.values.records import InterceptionBegun

__all__ = ["BEAT", "LOOK_AGAIN", "CapQueue", "Start"]

BEAT = 3.0
"""Seconds between two signs of life of a process that holds reservations."""
_REMEMBERED = 4096
"""Callers whose tills are."""
LOOK_AGAIN = 0.25
"""Seconds after which those who wait ask again: another process may have settled something."""

log = structlog.get_logger("ai-gateway.caps")


@define(eq=False)
class Start:
    """A call that is to begin, and what its caps are to be asked; None: it has none."""

    message: Begin | HoldMore
    ask: Ask | None
    until: float
    """Monotonic seconds up to which it may wait for its caps."""

    @property
    def reply(self) -> BeginReply:
        return self.message.reply

    @property
    def record(self) -> InterceptionBegun | None:
        """To be stored with it; a later round has none."""
        return self.message.record if isinstance(self.message, Begin) else None


_NOBODY_YET: Final = dict.fromkeys(
    [*product(get_args(Per), ("full", "waited")), ("", "unpriced")], 0
)
"""Metrics show these at 0: what comes first is seen as a rise."""


class CapQueue:
    """``patience`` is how many seconds a call may wait for its caps."""

    def __init__(self, pricing: Pricing | None, holder: Holder, patience: float) -> None:
        self._pricing = pricing
        self._worst = None if pricing is None else WorstCases(pricing)
        self._holder = holder
        self._patience = patience
        self.waiting: list[Start] = []
        self.released: list[str] = []
        """Interceptions that nobody waits for any more, though they might have begun."""
        self.refused: Counter[tuple[str, str]] = Counter(_NOBODY_YET)
        """Calls that were not made, by whose cap it was and why."""
        self.rows: tuple[CapRow, ...] = ()
        """The fullest caps when they were last looked at."""
        self._beat_at = 0.0
        self._accepted = Accepted()
        self._tills: dict[int, CapTills] = {}
        """By the identity of the caps, which are held by what is found."""

    def keyed(self, prompt_key: bytes) -> None:
        """From now on, those who begin are told this key for the parts of their prompts."""
        if prompt_key != self._accepted.prompt_key:
            self._accepted = Accepted(prompt_key=prompt_key)

    # -- asking

    def start(self, message: Begin | HoldMore, now: float) -> Start | None:
        """What is to be asked for ``message``, at ``now`` (Unix seconds); None: it is answered."""
        hold = message.hold
        if hold is None:
            return Start(message, None, 0.0)
        self._holder.used = True
        try:
            caps = self._tills_of(hold, now)
        except NoTimeZone as ex:
            complete(message.reply, Unavailable(f"policy: {ex}"))
            return None
        until = time.monotonic() + self._patience
        worst, unpriced = None, "there are no prices"
        if self._worst is not None:
            worst, unpriced = self._worst.of(hold, now)
        if worst is None and not hold.unpriced:
            self.refused["", "unpriced"] += 1
            complete(message.reply, NoPrice(unpriced))
            return None
        so_far = None
        if isinstance(message, HoldMore):
            so_far = self._cost(message, now)
            id = message.interception_id
        else:
            id = message.record.id
        again = isinstance(message, Begin) and message.again
        ask = Ask(id, worst or 0, caps, hold.username, so_far, again)
        return Start(message, ask, until)

    def _tills_of(self, hold: Hold, now: float) -> CapTills:
        # PERF: the caps of a caller are one object for as long as the policy is the same.
        name = id(hold.caps)
        found = self._tills.get(name)
        if found is None or found.caps is not hold.caps or found.zone != hold.zone:
            if len(self._tills) >= _REMEMBERED:
                self._tills.clear()
            found = tills_of(hold.caps, now, hold.zone)
        self._tills[name] = found = found.at(now)
        return found

    def _cost(self, message: HoldMore, now: float) -> int:
        """What the rounds so far have cost; nothing for what has no price."""
        if self._pricing is None or not message.hold.payees:
            return 0
        payee = message.hold.payees[0]
        costs = (
            self._pricing.cost(
                Used.of(record),
                payee.model,
                provider=payee.provider,
                provider_name=payee.provider_name,
                moment=now,
            ).nano_usd
            for record in message.so_far
        )
        return sum(cost or 0 for cost in costs)

    def money(self, starts: Sequence[Start], clock: Callable[[], float]) -> Money | None:
        """What the next transaction is to do about caps; None: nothing."""
        asks = tuple(start.ask for start in starts if start.ask is not None)
        released, self.released = tuple(self.released), []
        if not asks and not released:
            return None
        return Money(asks, released, self._holder.id, clock())

    def put_back(self, money: Money | None, starts: Iterable[Start] = ()) -> None:
        """The transaction did not happen; or that of ``starts`` did, and nobody knows."""
        if money is not None:
            self.released[:0] = money.released
        for start in starts:
            if start.ask is not None:
                start.ask = evolve(start.ask, again=True)

    # -- answering

    def answer(self, starts: Sequence[Start], written: Written) -> None:
        """Tell everybody what became of the start, but those who go on waiting."""
        now = time.monotonic()
        position = 0
        for start in starts:
            reason = None
            if start.record is not None:
                reason = written.starts.get(position)
                position += 1
            if reason is not None:
                complete(start.reply, Denied(reason, status=400))
            elif start.ask is None:
                complete(start.reply, self._accepted)
            else:
                self._answer(start, start.ask, written.verdicts.get(start.ask.id, Begun()), now)

    def _answer(self, start: Start, ask: Ask, verdict: Verdict, now: float) -> None:
        if isinstance(verdict, Begun):
            share = verdict.share
            notable = share if share is not None and share.part >= NOTABLE else None
            said = self._accepted if notable is None else evolve(self._accepted, share=notable)
            if not complete(start.reply, said) and ask.so_far is None:
                self.released.append(ask.id)
            return
        cap = verdict.share.cap
        if isinstance(verdict, Wait) and now < start.until:
            self.waiting.append(start)
            return
        why = "full" if isinstance(verdict, Full) else "waited"
        self.refused[cap.subject.per, why] += 1
        full = isinstance(verdict, Full)
        complete(start.reply, CapFull(verdict.share) if full else CapBusy(verdict.share))

    def take(self) -> list[Start]:
        """Those who wait, to be asked for once more, in their order."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def close(self, died: ActorDied) -> None:
        """The control plane ends."""
        for start in self.take():
            fail(start.reply, died)

    # -- signs of life

    @property
    def pause(self) -> float | None:
        """Seconds after which to look again; None: there is no need to."""
        if self.waiting:
            return LOOK_AGAIN
        return BEAT if self._holder.used else None

    def beat_due(self) -> str:
        """This process, if it has to show that it is there; else empty."""
        now = time.monotonic()
        if not self._holder.used or now - self._beat_at < BEAT * 0.9:
            return ""
        self._beat_at = now
        return self._holder.id

    def missed(self) -> None:
        """It could not be shown: to be tried again when it is looked at next."""
        self._beat_at = 0.0

    def looked(self, lapsed: int, rows: Sequence[CapRow]) -> None:
        """What was found when this process showed that it is there."""
        self.rows = tuple(rows)
        if lapsed:
            log.warning("reservations of a worker that is gone have lapsed", interceptions=lapsed)

    def stats(self) -> CapStats:
        return CapStats(
            waiting=len(self.waiting),
            refused=dict(self.refused),
            spent={(each.scope, each.name, each.every): each.part for each in self.rows},
        )
