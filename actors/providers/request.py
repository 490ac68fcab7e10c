"""A client's request to a provider: made once at the edge, sent by whichever provider answers;
and what a provider's actor is told and answers.

:class:`UpstreamRequest` says what is asked, not how one provider wants it, so a request that is
handed on to another provider stays the same value.  By which name that provider knows the model
that is asked for, who may stand in, and what goes over the wire (address, credential, signature
and what has to change in the body) is the business of the provider that sends it.

A :class:`Maker` belongs to a provider and is used by its workers, from many threads.  It may
block: AWS credentials are waited for there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pykka
import requests
from attrs import evolve, field

from aigateway.actors.actor.base import Inquiry, Reply, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.codec.decoding import DecodingError, decode, encode
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.multipart import boundary_of, with_value
from aigateway.actors.codec.splice import add_member, find_member, set_each
from aigateway.actors.interception.azure_paths import (
    AZURE,
    AZURE_ROOT,
    AzurePath,
    azure_path,
    without_version,
)
from aigateway.actors.interception.conversation import NO_AFFINITY, Affinity
from aigateway.actors.interception.gemini_paths import model_path, resource_name
from aigateway.actors.interception.headers import CENTRALIZED, Credential
from aigateway.actors.interception.routes import GEMINI, speaks_bedrock, speaks_vertex, upstream_url
from aigateway.actors.interception.vertex_paths import vertex_name
from aigateway.actors.providers.bedrock.models import bare_names, profile_of, stated_region
from aigateway.actors.providers.bedrock.rewrite import model_behind, replacement_model
from aigateway.actors.providers.breaker import CircuitStatus
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.keypool import KeyStatus
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.upstream.exchange import AnswerCopy, Exchange
from aigateway.actors.upstream.kept import HeaderPairs, prepare
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
    "KEY_OF_COMMAND",
    "Maker",
    "NO_CREDENTIAL",
    "Opened",
    "Perform",
    "PlainMaker",
    "ProviderState",
    "Refused",
    "Retire",
    "Session",
    "UpstreamRequest",
    "WorkerState",
    "body_for",
    "can_stand_in",
    "chain_of",
    "framed",
    "has_path",
    "maker_for",
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


_FRAMED_METHODS = frozenset({"POST", "PUT", "PATCH"})


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


NO_CREDENTIAL = Credential((), CENTRALIZED, "", "")
"""Of a provider that wants no key."""
KEY_OF_COMMAND = Credential((), CENTRALIZED, "", "<key command>")
"""Of a provider whose key a command says: what may be said of it, since it changes."""


class Maker(Protocol):
    """Makes requests for one provider."""

    standing: Credential | None
    """What every request is made with that brings no credential of its own, where that is not
    one of the provider's keys: what may be said of it."""
    converted: bool
    """Whether the answers have Bedrock's form and have to be put into Anthropic's."""

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """The request as it is sent, whole.  May block.

        ``model`` is the provider's own name for the one that is asked for.

        Raises Unsendable when nobody could send it, and NotMade when it is this provider that
        cannot have it now.
        """

    def renew(self, since: float) -> bool:
        """Get the standing credential again, without waiting for it; False: there is no other.

        One that came after ``since`` (monotonic time), when what was refused was sent, is new.
        """

    @property
    def renewals(self) -> tuple[int, int]:
        """How often another standing credential has come, and how often none."""

    def close(self) -> None:
        """Nothing more will be made."""


class PlainMaker:
    """For providers that take a request as the client makes it, with a key in a header."""

    converted = False

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self.standing: Credential | None = NO_CREDENTIAL if config.no_key else None

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`Maker`."""
        rest, query = address_of(self._config, request, model)
        url = url_for(self._config, rest, query)
        added = () if credential is None else credential.headers
        body = body_for(self._config, request, model)
        return framed(request.method, url, request.headers, added, body)

    def renew(self, since: float) -> bool:
        """See :class:`Maker`."""
        return False

    @property
    def renewals(self) -> tuple[int, int]:
        """See :class:`Maker`."""
        return 0, 0

    def close(self) -> None:
        """See :class:`Maker`."""


def maker_for(config: ProviderConfig, noted: Callable[[str], None] | None = None) -> Maker:
    """The maker for a provider; ``noted`` is told keys that come while it runs."""
    # Each only where it is needed: most gateways never call AWS, and have keys that last.
    if config.bedrock is not None:
        from aigateway.actors.providers.bedrock.making import BedrockMaker

        return BedrockMaker(config, noted)
    if config.vertex is not None:
        from aigateway.actors.providers.vertex.making import VertexMaker

        return VertexMaker(config, noted)
    if config.key_command is not None:
        from aigateway.actors.providers.key_command import CommandMaker

        return CommandMaker(config, noted)
    return PlainMaker(config)


def body_for(config: ProviderConfig, request: UpstreamRequest, model: str) -> bytes:
    """The client's body, with the provider's name of the model where it goes by a list.

    Names that are written twice are all replaced: a provider that reads the first one must
    not be asked for another model than the one that was looked up.
    """
    deployment = _deployment(request)
    if deployment is not None and config.type == AZURE:
        return request.body
    if not model or (config.models is None and deployment is None):
        return request.body
    if config.type == GEMINI:
        if model_path(request.rest) is not None:
            return request.body
        # What is cached is cached for a model, by its whole name.
        model = resource_name(model)
    coding = joined(request.headers, "content-encoding")
    try:
        body = decode(request.body, coding) if coding else request.body
        if boundary := boundary_of(joined(request.headers, "content-type")):
            edited = with_value(body, boundary, "model", model.encode(), add=deployment is not None)
        else:
            name = msgspec.json.encode(model)
            edited = set_each(body, name, "model")
            if deployment is not None and find_member(edited, "model") is None:
                with contextlib.suppress(ValueError):
                    # What is not an object is the provider's to complain about.
                    edited = add_member(edited, name, "model")
        return encode(edited, coding) if edited != body else request.body
    except DecodingError as ex:
        raise Unsendable(f"the request's content coding cannot be read: {ex}") from ex


def address_of(config: ProviderConfig, request: UpstreamRequest, model: str) -> tuple[str, str]:
    """The client's path and query, with the provider's name of the model where it goes by a list
    and models are named there; of Azure's paths those that the provider has too."""
    if config.type == GEMINI and config.models:
        path = model_path(request.rest)
        rest = request.rest if path is None or not model else path.for_model(model)
        return rest, request.query
    if request.rest.startswith(AZURE_ROOT) and (azure := azure_path(request.rest)) is not None:
        if config.type != AZURE:
            return azure.rest, without_version(request.query)
        if azure.deployment and config.models is not None and model:
            return azure.for_deployment(model), request.query
    return request.rest, request.query


def _deployment(request: UpstreamRequest) -> AzurePath | None:
    """The path, where that names what answers."""
    if not request.rest.startswith(AZURE_ROOT):
        return None
    path = azure_path(request.rest)
    return path if path is not None and path.deployment else None


def url_for(config: ProviderConfig, rest: str, query: str = "") -> str:
    """The provider's address for a path below its name; raises Unsendable for a bad one."""
    try:
        return upstream_url(config.type, config.base_url, rest, query)
    except ValueError as ex:
        raise Unsendable(str(ex)) from ex


def framed(
    method: str, url: str, headers: Headers, added: Headers, body: bytes
) -> requests.PreparedRequest:
    """A request with the length of its body."""
    pairs = HeaderPairs(headers)
    pairs.extend(added)
    if body or method in _FRAMED_METHODS:
        pairs.append(("Content-Length", str(len(body))))
    return prepare(method, url, pairs, body)


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
