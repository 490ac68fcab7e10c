"""What a provider actor is told, and what it answers."""

from __future__ import annotations

from typing import Any, Protocol

import pykka
from attrs import evolve, field

from aigateway.actors.actor.base import Inquiry, Reply, tell_quietly
from aigateway.actors.codec.headers import Headers
from aigateway.actors.providers.breaker import CircuitStatus
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.keypool import KeyStatus
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import AbandonedAttempt, UpstreamRequest
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.frozen import frozen

__all__ = [
    "Converse",
    "Drain",
    "GetProviderState",
    "GiveBack",
    "Opened",
    "Perform",
    "ProviderState",
    "Refused",
    "Retire",
    "Session",
    "WorkerState",
]


class Session(Protocol):
    """What a worker runs on a connection that has switched, for as long as it lasts."""

    @property
    def exchange(self) -> Exchange: ...

    def run(self) -> None:
        """Until it is over; both sides have heard of it then."""

    def abandon(self) -> None:
        """Nobody will run it."""

    def retire(self) -> None:
        """End as soon as nothing runs.  From any thread; never blocks."""


@frozen
class Opened:
    """The answer's head is there; the exchange now belongs to the one who got this."""

    exchange: Exchange
    worker: pykka.ActorRef[Any] = field(repr=False)
    provider: pykka.ActorRef[Any] = field(repr=False)
    """To whom the exchange is given back, even when the provider was replaced meanwhile."""
    provider_name: str
    """Who answered: the provider that was asked, or one it fell back on."""
    credential_hint: str
    begun_at: float
    """Monotonic time at which a worker began to connect and send, at the first attempt."""
    model: str = ""
    """The one that the provider was asked for, by its own name."""
    converted: bool = False
    """Whether the answer has Bedrock's form and has to be put into Anthropic's."""
    shared: bool = False
    """It was asked with a credential of the gateway's: what the answer tells of the account is
    not the client's business."""
    abandoned: tuple[AbandonedAttempt, ...] = ()
    """What others were asked before, in vain."""

    def give_back(self) -> None:
        """Let go of the exchange, whatever state it is in."""
        exchange = self.exchange
        if not exchange.reusable:
            exchange.close()
        if not tell_quietly(self.provider, GiveBack(self.worker, exchange)):
            exchange.close()

    def converse(self, session: Session) -> bool:
        """Have the worker run a session on the exchange; False when nobody will."""
        return tell_quietly(self.provider, Converse(self.worker, session))

    def drain(self, recording: Recording) -> bool:
        """Have the exchange read to its end for the usage it carries; False when nobody will."""
        return tell_quietly(self.provider, Drain(self.worker, self.exchange, recording))


@frozen
class Refused:
    """No answer of an upstream: what to tell the client instead."""

    status: int
    message: str
    error_type: str = "server_error"
    retry_after: int | None = None
    body: bytes | None = None
    """A complete body in the API's shape; None: make one from ``message``."""
    credential_hint: str = ""
    sent: bool = False
    """Whether any byte may have reached the upstream."""
    provider_name: str = ""
    """Who refused: the provider that was asked, or the last one it fell back on."""
    begun_at: float = 0.0
    """When a worker began with it; 0: none did."""
    headers: Headers = ()
    """Further headers for the client; those of the provider where the answer is its own."""
    quotes: bool = False
    """``message`` and ``body`` repeat what a provider said to the gateway's credential."""
    abandoned: tuple[AbandonedAttempt, ...] = ()


@frozen(kw_only=True)
class Perform:
    """Send this request upstream and reply with Opened or Refused."""

    request: UpstreamRequest
    reply: Reply[Opened | Refused] = field(repr=False, eq=False)
    then: tuple[str, ...] | None = None
    """Names of the providers that are left to be asked, once one has handed it on."""
    deadline: float = 0.0
    """Monotonic time after which nobody waits for the reply; 0: the provider decides."""
    sent: bool = False
    """Whether a provider that handed it on may have sent any byte of it."""
    begun_at: float = 0.0
    """When such a provider began with it; 0: none has."""
    said: Refused | None = None
    """The last that such a provider really answered."""
    abandoned: tuple[AbandonedAttempt, ...] = ()

    def refusal(self, refused: Refused) -> Refused:
        """What the client is told when it ends with ``refused``: a provider's own words come
        before ours, even when they are another's."""
        if self.said is not None and not refused.quotes:
            refused = evolve(self.said, sent=self.sent or refused.sent)
        return evolve(refused, abandoned=self.abandoned)


@frozen
class GiveBack:
    """The holder is done with an exchange, whatever state it is in."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange


@frozen
class Converse:
    """Run this session on the worker's connection.  The exchange is the session's."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    session: Session = field(repr=False)


@frozen
class Drain:
    """The client has gone: read the exchange to its end for the usage it carries."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange
    recording: Recording = field(repr=False)


@frozen
class Retire:
    """A successor is in place: stop as soon as no exchange is out any more."""


@frozen
class WorkerState:
    role: str
    state: str
    """idle, busy (its exchange is out), draining or session."""
    exchanges: int


@frozen
class ProviderState:
    """For ``aigateway actors`` and metrics."""

    name: str
    busy: int
    idle: int
    draining: int
    waiting: int
    """Requests that wait for a connection."""
    workers: tuple[WorkerState, ...]
    detail: str = ""
    retrying: int = 0
    """Requests that wait before they are tried again."""
    sessions: int = 0
    """WebSockets that are open."""
    counters: Counters = field(factory=Counters)
    """What has happened since the actor was started."""
    keys: tuple[KeyStatus, ...] = ()
    circuits: tuple[CircuitStatus, ...] = ()


@frozen
class GetProviderState(Inquiry[ProviderState]):
    """Asked: answers :class:`ProviderState`."""
