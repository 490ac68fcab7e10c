"""A request on its way through a provider, and what provider and worker say about it."""

from __future__ import annotations

from typing import Any

import pykka
from attrs import define, evolve, field

from aigateway.actors.actor.base import Reply, complete, new_reply
from aigateway.actors.interception.headers import Credential
from aigateway.actors.providers.breaker import Ticket
from aigateway.actors.providers.keypool import Walker
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Opened, Perform, Refused, UpstreamRequest
from aigateway.actors.upstream.errors import UpstreamError
from aigateway.actors.upstream.exchange import Exchange, UpstreamConnection
from aigateway.actors.values.frozen import frozen

__all__ = [
    "Abandon",
    "Answered",
    "Discard",
    "Drained",
    "Expire",
    "Failed",
    "Job",
    "Lent",
    "Reap",
    "Released",
    "Reported",
    "Resume",
    "Run",
    "Tick",
    "Told",
    "WorkerEnded",
]


@define(eq=False)
class Job:
    """A request on its way; only its holder touches it."""

    perform: Perform = field(repr=False)
    model: str
    """The provider's name for the one that is asked for."""
    credential: Credential | None
    ask_back: frozenset[int]
    """Statuses that the provider wants to see before the client does (another key may help)."""
    deadline: float
    """Monotonic time after which nobody waits any more."""
    sent: bool = False
    """Whether any byte of any attempt may have reached the upstream."""
    begun_at: float = 0.0
    """Monotonic time at which the first attempt began; 0 before."""
    walker: Walker | None = None
    """Its walk through the keys; None: it brings its own credential."""
    refusal: ProviderAnswer | None = None
    """The last answer that made the provider try another key, to be told if that fails."""
    ticket: Ticket | None = None
    """From the circuit breaker, until the result is reported."""
    retries: int = 0
    """Pauses made so far."""
    attempts: int = 0
    sent_at: float = 0.0
    """Monotonic time at which the last attempt was ready to be sent."""
    renewed: bool = False
    """Whether it has had the provider's credential renewed."""
    rescued: bool = False
    """Whether another provider may answer in this one's place: then the first bytes of an
    answer are looked at before anything is relayed."""
    deaths: int = 0
    """Workers that have died of it, or by chance while they had it."""

    def settle(self, result: Opened | Refused) -> bool:
        """Reply, and let go of the request; False when nobody waits for the reply.

        An actor keeps its last message until the next one comes, and a worker's may be as
        large as a request's body.
        """
        perform = self.perform
        reply = perform.reply
        self.let_go()
        if isinstance(result, Refused):
            result = evolve(perform.refusal(result), begun_at=self.begun_at)
        return complete(reply, result)

    def let_go(self) -> None:
        """The request is none of this job's business any more."""
        self.perform = _SETTLED

    @property
    def request(self) -> UpstreamRequest:
        return self.perform.request

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.perform.reply

    @property
    def shared(self) -> bool:
        """Whether it is sent with a credential of the gateway's, not with the user's own."""
        request = self.perform.request
        return request.add_credential and request.credential is None

    @property
    def hint(self) -> str:
        return self.credential.hint if self.credential is not None else ""


_SETTLED = Perform(
    request=UpstreamRequest(method="", rest="", headers=(), body=b""), reply=new_reply()
)


# -- told to a worker


@frozen
class Run:
    """Send the job's request.

    Has no ``reply`` of its own: when the worker dies the provider still has the job.
    """

    job: Job = field(repr=False)
    connection: UpstreamConnection | None = None
    """One that is there already."""
    before: Exchange | None = None
    """An answer to discard first, the one that made the provider try again.  If its connection
    can be used then, that is the one."""


@frozen
class Discard:
    """Read the rest of an answer that nobody wants if it is small, else close."""

    exchange: Exchange


@frozen
class Abandon:
    """The client has gone and too much is being drained: record what is known and close."""

    exchange: Exchange
    recording: Recording = field(repr=False)


# -- told to the provider


@frozen
class Answered:
    """This head has a status that the provider asked to see; the exchange comes along."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    job: Job = field(repr=False)
    exchange: Exchange = field(repr=False)
    answer: ProviderAnswer
    """The same, as far as it was read; the exchange still has all of its body."""

    @property
    def sent(self) -> bool:
        """An answer that refuses the request says that it may be sent again."""
        return self.answer.status < 400

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.job.perform.reply


@frozen
class Failed:
    """No head came."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    job: Job = field(repr=False)
    error: UpstreamError

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.job.perform.reply

    @property
    def sent(self) -> bool:
        return self.job.sent


@frozen
class Lent:
    """The exchange is out with its request, and the worker has nothing to do."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange


@frozen
class Reported:
    """The client gets an answer with this status."""

    ticket: Ticket
    status: int


@frozen
class Released:
    """The worker is done with an exchange that it was told to discard or abandon, or whose
    request waits no more."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange


@frozen
class Drained:
    """A drain is over."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange = field(repr=False)
    to_the_end: bool


@frozen
class Told:
    """An error message of a session says something of the key with which that was opened."""

    exchange: Exchange = field(repr=False)
    answer: ProviderAnswer
    model: str
    """By the provider's own name."""


@frozen
class WorkerEnded:
    """Told to the provider when one of its workers is no more."""

    worker: pykka.ActorRef[Any]
    role: str
    error: BaseException | None
    job: Job | None = field(repr=False)
    """The request that it had not settled."""

    @property
    def reply(self) -> Reply[Opened | Refused] | None:
        return self.job.perform.reply if self.job is not None else None

    @property
    def sent(self) -> bool:
        return self.job is not None and self.job.sent


# -- told by the provider to itself


@frozen
class Tick:
    """The first item of the agenda is due."""


@frozen
class Reap:
    """Look for workers that have long been idle."""


@frozen
class Expire:
    """Some request may have waited too long for a connection."""


@define(eq=False)
class Resume:
    """A pause is over."""

    job: Job
