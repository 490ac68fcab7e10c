"""A client's request to a provider: made once at the edge, sent by whichever provider answers;
and what a provider's actor is told and answers.

:class:`UpstreamRequest` says what is asked, not how one provider wants it, so a request that is
handed on to another provider stays the same value.  By which name that provider knows the model
that is asked for, who may stand in, and what goes over the wire (:mod:`.making`) is the business
of the provider that sends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pykka
from attrs import evolve, field

from aigateway.actors.actor.base import Inquiry, Reply, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.conversation import NO_AFFINITY, Affinity
from aigateway.actors.interception.headers import Credential
from aigateway.actors.interception.routes import speaks_bedrock, speaks_vertex, upstream_url
from aigateway.actors.interception.vertex_paths import vertex_name
from aigateway.actors.providers.bedrock.models import bare_names, profile_of, stated_region
from aigateway.actors.providers.bedrock.rewrite import model_behind, replacement_model
from aigateway.actors.providers.breaker import CircuitStatus
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.keypool import KeyStatus
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.upstream.exchange import AnswerCopy, Exchange
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.policy import CallerRules, Stated
from aigateway.actors.values.provider_config import ProviderConfig

if TYPE_CHECKING:
    from aigateway.actors.providers.recording import Recording

__all__ = [
    "AbandonedAttempt",
    "Attempts",
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
    "UpstreamRequest",
    "WorkerState",
    "can_stand_in",
    "chain_of",
    "has_path",
    "model_for",
    "model_refusal",
    "patience_of",
    "recorded_model",
    "url_for",
]


class Attempts(Protocol):
    """Is shown each attempt as it goes over the wire, by the worker that makes it."""

    def request(
        self, method: str, url: str, headers: Headers, body: bytes, *, provider: str
    ) -> None:
        """This is about to be sent to ``provider``, credentials included."""

    def answer(self, exchange: Exchange) -> AnswerCopy:
        """The head of its answer is there.  What is returned is shown the body, by the one who
        reads it."""

    def error(self, text: str) -> None:
        """No answer came."""


@frozen
class AbandonedAttempt:
    """A request that a provider may have worked on, and bill, although another one answered."""

    provider: str
    model: str
    """By the provider's own name."""
    after_seconds: float
    """From when it was sent until it was given up."""
    why: str
    """One of the reasons for which a fallback is taken."""


@frozen(kw_only=True)
class UpstreamRequest:
    """One request below a provider's name.

    ``headers`` are those of the client that may travel; Host, framing and credentials are
    added for the provider that is called.
    """

    method: str
    rest: str
    """The path below the provider's name, percent-encoded."""
    query: str = ""
    """Without its question mark."""
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    credential: Credential | None = None
    """The user's own; None: one of the provider's."""
    add_credential: bool = True
    """False: none is added, the client's own credentials travel in ``headers``."""
    api: str = ""
    """One of :mod:`.interception.routes`, which shapes error bodies; empty: by the provider."""
    route: str = ""
    """Of an intercepted request; empty: it is passed through, which neither the circuit
    breaker nor the fallback is for."""
    passed: str = ""
    """Which of the table's routes a passed-through request matched; a few for each provider."""
    affinity: Affinity = NO_AFFINITY
    """With which others it belongs together."""
    provider: str = ""
    """The name of the one that the client asked."""
    model: str = ""
    """As the client asked for it."""
    streaming: bool = False
    """Whether the client asked for a stream."""
    attempts: Attempts | None = field(default=None, repr=False)
    rules: CallerRules | None = field(default=None, repr=False)
    """What its caller may, for those who stand in for a provider."""


def model_for(config: ProviderConfig, asked: str, provider: str, *, path: str = "") -> str | None:
    """The name by which ``config``'s provider knows the model that a client asks for.

    ``provider`` is the one that the client named, ``path`` what it asked for, or the route of that:
    who speaks Bedrock's own API calls a model as AWS does.  None: there is no such model here, and
    another one never answers in its place.
    """
    if config.models is not None:
        return config.models.upstream(asked)
    if config.vertex is not None:
        # Nobody here knows whether Google has another provider's model.
        if config.name != provider:
            return None
        return asked if speaks_vertex(path) else vertex_name(asked)
    bedrock = config.bedrock
    if bedrock is None or speaks_bedrock(path):
        return asked
    if config.name != provider:
        return profile_of(asked, stated_region(config)) if bedrock.invokes else None
    return replacement_model(asked, bedrock) if bedrock.invokes else asked


def recorded_model(config: ProviderConfig, asked: str, path: str = "") -> str:
    """The model that is recorded as the one that was asked for.

    Where Bedrock has one model in the place of all, that is the one.
    """
    if config.models is None and config.bedrock is not None and config.bedrock.invokes:
        if speaks_bedrock(path):
            return model_behind(config.bedrock, asked)
        return model_behind(config.bedrock, replacement_model(asked, config.bedrock))
    return asked


def can_stand_in(other: ProviderConfig, own: ProviderConfig, request: UpstreamRequest) -> bool:
    """Whether ``other`` can answer a request that ``own`` was asked for.

    Copilot is called with the user's own token only.
    """
    return (
        bool(other.keys or other.bedrock or other.vertex or other.no_key)
        and other.error is None
        and own.speaks == other.speaks
        and "copilot" not in (own.type, other.type)
        and has_path(other, request.rest)
        and (model := model_for(other, request.model, request.provider, path=request.rest))
        is not None
        and (request.rules is None or _allowed(request.rules, other, model))
    )


def has_path(config: ProviderConfig, path: str) -> bool:
    """Whether a provider takes a path below another one's name, or its route: those of Bedrock's
    own API and of Vertex's are for nobody else."""
    if speaks_bedrock(path):
        return config.invokes_bedrock
    return config.vertex is not None if speaks_vertex(path) else True


def model_refusal(rules: CallerRules, config: ProviderConfig, model: str) -> Stated[str] | None:
    """Why a caller may not use a model with this provider, by the provider's name for it or the
    client's; None: the caller may.

    AWS's names stand for what they are made of: ``eu.anthropic.claude-x-v1:0`` is ``claude-x``.
    """
    return rules.model_refusal(model, bare_names(model) if config.bedrock is not None else ())


def _allowed(rules: CallerRules, config: ProviderConfig, model: str) -> bool:
    if rules.provider_refusal(config.name) is not None:
        return False
    return model_refusal(rules, config, model) is None


def chain_of(own: ProviderConfig, tree: ActorTree) -> tuple[str, ...]:
    """Who is asked when ``own`` cannot answer: those it names, then those that they name."""
    chain = [own.name]
    queue = [own]
    for config in queue:
        for name in config.fallback:
            if name not in chain:
                chain.append(name)
                other = tree.provider_config(name)
                if other is not None:
                    queue.append(other)
    return tuple(chain[1:])


def patience_of(own: ProviderConfig, tree: ActorTree | None) -> float:
    """Seconds that a request for ``own`` may take until its answer begins, own or not."""
    # PERF: most providers are alone; 2 us less for each request.
    if not own.group and not own.fallback:
        return own.connect_timeout + own.first_byte_timeout
    names = {own.name, *(name for name, _ in own.group)}
    if tree is not None:
        names.update(chain_of(own, tree))
    found = [
        own if name == own.name or tree is None else tree.provider_config(name) for name in names
    ]
    return sum(p.connect_timeout + p.first_byte_timeout for p in found if p is not None)


def url_for(config: ProviderConfig, rest: str, query: str = "") -> str:
    """The provider's address for a path below its name; raises Unsendable for a bad one."""
    try:
        return upstream_url(config.type, config.base_url, rest, query)
    except ValueError as ex:
        raise Unsendable(str(ex)) from ex


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
    worker: pykka.ActorRef[Any] | None = field(repr=False)
    """Who has asked, and waits for the exchange, since the answer came whole with its head; None:
    nobody waits for it."""
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
        """Have a worker run a session on the exchange; False when nobody will."""
        return tell_quietly(self.provider, Converse(session))

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

    worker: pykka.ActorRef[Any] | None = field(repr=False)
    """Who waits for it, if anybody does."""
    exchange: Exchange


@frozen
class Converse:
    """Run this session on the connection of its exchange."""

    session: Session = field(repr=False)


@frozen
class Drain:
    """The client has gone: read the exchange to its end for the usage it carries."""

    worker: pykka.ActorRef[Any] | None = field(repr=False)
    """Who waits for it, if anybody does."""
    exchange: Exchange
    recording: Recording = field(repr=False)


@frozen
class Retire:
    """A successor is in place: stop as soon as no exchange is out any more."""


@frozen
class WorkerState:
    role: str
    state: str
    """idle, busy (it asks for an answer), draining or session."""
    exchanges: int


@frozen
class ProviderState:
    """For ``aigateway actors`` and metrics."""

    name: str
    busy: int
    """Connections on which a request waits for its answer, or reads it."""
    idle: int
    """Connections that are kept for the next one."""
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
