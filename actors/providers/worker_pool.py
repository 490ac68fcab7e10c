"""A provider's workers, its connections, and the requests that wait for one.  Decides nothing but
order, and does no I/O: the time is passed in, and the caller starts, stops and tells the workers.

A worker is *idle*, *busy* (it asks for an answer), *draining* (it reads on after a client has
gone) or in a *session*.  It has a connection for as long as it is not idle.  An exchange that is
*out* with a request has the connection to itself, and no worker.  Of idle workers and of
connections that are kept the last used comes first, so that surplus ones grow cold and are
reaped.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, TypeAlias

import pykka
from attrs import define

from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.keypool import Walker
from aigateway.actors.providers.request import Session, WorkerState
from aigateway.actors.upstream.exchange import Exchange, UpstreamConnection

__all__ = ["QUEUE", "QUEUE_WAIT", "Member", "WorkerPool"]

QUEUE = 1000
"""Requests that may wait for a connection once all are in use."""
QUEUE_WAIT = 30.0
"""Seconds that a request may wait for one: longer than that, its client is better off
asking again."""

State: TypeAlias = Literal["idle", "busy", "draining", "session"]
_Ref: TypeAlias = "pykka.ActorRef[Any]"


@define(eq=False)
class Member:
    """One worker as its provider sees it."""

    ref: _Ref
    role: str
    state: State = "busy"
    since: float = 0.0
    """When it became idle."""
    exchanges: int = 0
    session: Session | None = None
    """What it runs, in that state."""
    walker: Walker | None = None
    """The walk of the request that it has; counted when its exchange is over."""


class WorkerPool:
    """Who is there, who is free, who waits."""

    def __init__(self, connections: int, *, queue: int = QUEUE, wait: float = QUEUE_WAIT) -> None:
        """``connections`` may be in use at once."""
        self._connections = connections
        self._queue = queue
        self._wait = wait
        self._members: dict[str, Member] = {}
        self._idle: list[Member] = []
        self._kept: list[tuple[float, UpstreamConnection]] = []
        self._out: dict[Exchange, Walker | None] = {}
        self._waiting: deque[tuple[float, Job]] = deque()
        self.draining = 0

    def __len__(self) -> int:
        return len(self._members)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def out(self) -> int:
        """Exchanges that are out."""
        return len(self._out)

    @property
    def kept(self) -> int:
        """Connections that wait for their next request."""
        return len(self._kept)

    @property
    def in_use(self) -> int:
        """Connections that somebody has."""
        return len(self._members) - len(self._idle) + len(self._out)

    @property
    def has_room(self) -> bool:
        """Whether one more may be in use."""
        return self.in_use < self._connections

    def find(self, ref: _Ref) -> Member | None:
        return self._members.get(ref.actor_urn)

    def refs(self) -> list[_Ref]:
        return [member.ref for member in self._members.values()]

    # -- workers

    def add(self, ref: _Ref, role: str) -> Member:
        """A worker was started; it is busy from the start."""
        member = self._members[ref.actor_urn] = Member(ref, role)
        return member

    def take(self) -> Member | None:
        """The idle worker that was the last to work, busy from now on."""
        if not self._idle:
            return None
        member = self._idle.pop()
        member.state = "busy"
        return member

    def free(self, member: Member, now: float) -> None:
        """It has nothing to do."""
        self._leave(member)
        member.state = "idle"
        member.session = None
        member.since = now
        self._idle.append(member)

    def drain(self, member: Member) -> None:
        """It reads on for its usage from now on."""
        member.state = "draining"
        self.draining += 1

    def converse(self, member: Member, session: Session) -> None:
        """It runs this from now on."""
        member.state = "session"
        member.session = session

    def sessions(self) -> list[Session]:
        """Those that are run now."""
        return [m.session for m in self._members.values() if m.session is not None]

    def remove(self, ref: _Ref) -> Member | None:
        """It has ended, or is to end; None when it was gone already."""
        member = self._members.pop(ref.actor_urn, None)
        if member is not None:
            self._leave(member)
        return member

    def take_idle(self, before: float) -> list[Member]:
        """Take out those that have been idle since ``before``, to be stopped."""
        old = [m for m in self._idle if m.since <= before]
        for member in old:
            self.remove(member.ref)
        return old

    def _leave(self, member: Member) -> None:
        """Undo what its state stands for."""
        if member.state == "draining":
            self.draining -= 1
        elif member.state == "idle":
            self._idle.remove(member)

    # -- exchanges that are out, and connections that are kept

    def lend(self, exchange: Exchange, walker: Walker | None) -> None:
        """It is out from now on; ``walker`` is that of its request."""
        self._out[exchange] = walker

    def is_out(self, exchange: Exchange) -> bool:
        return exchange in self._out

    def end_loan(self, exchange: Exchange) -> Walker | None:
        """It is back."""
        return self._out.pop(exchange)

    def walker_of(self, exchange: Exchange) -> Walker | None:
        """The walk of an exchange that is out or in a session."""
        for member in self._members.values():
            if member.session is not None and member.session.exchange is exchange:
                return member.walker
        return self._out.get(exchange)

    def keep(self, connection: UpstreamConnection, now: float) -> None:
        """It can be used again."""
        self._kept.append((now, connection))

    def take_kept(self) -> UpstreamConnection | None:
        """The one that was used last."""
        return self._kept.pop()[1] if self._kept else None

    def take_cold(self, before: float) -> list[UpstreamConnection]:
        """Take out those that have been kept since ``before``, to be closed."""
        cold = [connection for since, connection in self._kept if since <= before]
        if cold:
            self._kept = [entry for entry in self._kept if entry[0] > before]
        return cold

    # -- requests that wait

    def enqueue(self, job: Job, now: float) -> bool:
        """Let a request wait; False when too many do."""
        if len(self._waiting) >= self._queue:
            return False
        self._waiting.append((min(now + self._wait, job.deadline), job))
        return True

    def next_waiting(self) -> Job | None:
        """The request that has waited longest."""
        return self._waiting.popleft()[1] if self._waiting else None

    def take_expired(self, now: float) -> list[Job]:
        """Take out those that have waited too long."""
        expired = [job for until, job in self._waiting if until <= now]
        if expired:
            self._waiting = deque(entry for entry in self._waiting if entry[0] > now)
        return expired

    def next_expiry(self) -> float | None:
        """When the next one will have waited too long."""
        return min((until for until, _ in self._waiting), default=None)

    def take_waiting(self) -> list[Job]:
        """Take out all of them."""
        jobs = [job for _, job in self._waiting]
        self._waiting.clear()
        return jobs

    # -- for those who look

    def states(self) -> tuple[WorkerState, ...]:
        return tuple(WorkerState(m.role, m.state, m.exchanges) for m in self._members.values())
