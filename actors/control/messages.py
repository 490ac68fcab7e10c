"""What may be asked of a control plane, and what it answers.

Every message that carries a ``reply`` is told, not asked: the control plane completes the
future when it knows (a coderd may take seconds), and never blocks its inbox for it.  The
answers "no" (:class:`Denied`) and "ask later" (:class:`Unavailable`) are values, not
exceptions: both are ordinary outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, TypeAlias

import pykka
from attrs import field

from aigateway.actors.actor.base import ActorDied, Inquiry, Reply, tell_quietly
from aigateway.actors.control.call_counters import CallTimes
from aigateway.actors.control.marks import Marks
from aigateway.actors.values.caps import CapShare, Hold
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.policy import CallerRules
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    TokenUsage,
    UsageRecord,
)

__all__ = [
    "Accepted",
    "Authorization",
    "Authorize",
    "BeginAnswer",
    "BeginReply",
    "CallStats",
    "Caller",
    "CapBusy",
    "CapFull",
    "CapStats",
    "CheckIds",
    "Denied",
    "GetCallStats",
    "GetStatus",
    "McpConfiguration",
    "McpServer",
    "HoldMore",
    "KeepsRecords",
    "NoPrice",
    "NotYours",
    "GetMcpConfiguration",
    "ProvidersChanged",
    "RememberIds",
    "Spooled",
    "Status",
    "Begin",
    "StoreRecords",
    "Stored",
    "SubscribeProviders",
    "Unavailable",
]


@frozen
class Caller:
    """Who is calling, as the control plane knows the key."""

    user_id: str
    username: str
    api_key_id: str
    email: str = ""
    workspace_id: str = ""
    groups: tuple[str, ...] = ()
    """Names of the groups that a user or a machine is in; only our own control plane knows them,
    and says them where there is a policy."""
    project: str = ""
    """What the key is for, if that was said."""
    rules: CallerRules | None = field(default=None, repr=False)
    """What the policy has for this caller; None: there is no policy."""
    websocket: bool = True
    """Whether the Responses API may be used over a WebSocket."""


@frozen
class Denied:
    """No: answer the client with ``status`` (403) and this text.

    The rest is for the log alone; what is refused is ``over_budget``, or else the key.
    """

    message: str
    status: int = 403
    reason: str = field(default="", eq=False)
    caller: Caller | None = field(default=None, eq=False)
    """Whose key it is, where that is known all the same."""
    over_budget: bool = field(default=False, eq=False)


@frozen
class Unavailable:
    """Ask later: answer 503 with Retry-After, and let nobody in."""

    message: str
    retry_after: float = 1.0
    status: int = 503
    said: str = field(default="the gateway cannot ask now who may call", eq=False)
    """What the client is told."""
    logged: str = field(default="the control plane gives no answer", eq=False)
    """What the log line says, with ``message`` as the error: who it is that is away."""
    code: int | None = field(default=None, eq=False)
    """The code of the error that it answered with, 0 for one without; None without an answer."""


Authorization: TypeAlias = Caller | Denied | Unavailable


@frozen
class Authorize:
    """May the holder of ``token`` call?  Replies with an :data:`Authorization`.

    ``provider_name`` and ``model`` are for control planes that authorise models (coderd 1.4);
    both are empty or both are set.
    """

    token: str = field(repr=False)
    reply: Reply[Authorization] = field(repr=False, eq=False)
    provider_name: str = ""
    model: str = ""


@frozen
class Accepted:
    """The interception is recorded; the upstream may be called."""

    share: CapShare | None = None
    """The fullest of the caps that hold for it, if much of that is spent."""
    prompt_key: bytes = field(default=b"", repr=False, eq=False)
    """What the checksums of a prompt's parts are keyed with; empty: nobody wants them."""


@frozen
class CapFull:
    """No: all that a cap allows is spent."""

    share: CapShare


@frozen
class CapBusy:
    """Not now: what is left of a cap is reserved by calls that have been running all the time."""

    share: CapShare


@frozen
class NoPrice:
    """No: nobody knows what it would cost, and caps hold for the caller."""

    detail: str
    """What has no price: a model of a provider, a service tier, a tool's requests."""


BeginAnswer: TypeAlias = Accepted | Denied | Unavailable | CapFull | CapBusy | NoPrice
BeginReply: TypeAlias = Reply[BeginAnswer]


@frozen
class Begin:
    """Record the start of an interception.  Replies a :data:`BeginAnswer`.

    With a ``hold`` what it may cost is reserved under its caps, and the answer may take as long as
    other calls do; only our own control plane can do that.

    A request tells it to the control plane; while that is being restarted, or records cannot be
    kept, to the recorder, which waits for the next one, or refuses.
    ``again``: a control plane that died had it in hand, and may have stored it.
    """

    record: InterceptionBegun
    reply: BeginReply = field(repr=False, eq=False)
    again: bool = False
    hold: Hold | None = None


@frozen
class HoldMore:
    """May the interception make another call, with ``hold`` beside what it has reserved?  Replies
    a :data:`BeginAnswer`."""

    interception_id: str
    hold: Hold
    so_far: tuple[TokenUsage, ...]
    """What its calls have used; none of them is running."""
    reply: BeginReply = field(repr=False, eq=False)


@frozen
class RememberIds:
    """What the provider stores under these ids is this user's.  Replies Accepted or Unavailable.

    Only the embedded control plane knows it, and :class:`CheckIds`.
    """

    user_id: str
    ids: tuple[str, ...]
    reply: Reply[Accepted | Unavailable] = field(repr=False, eq=False)


@frozen
class NotYours:
    """What is stored under this id is another user's."""

    id: str


@frozen
class CheckIds:
    """May this user name these ids?  Replies Accepted (none is known as another user's),
    NotYours or Unavailable."""

    user_id: str
    ids: tuple[str, ...]
    reply: Reply[Accepted | NotYours | Unavailable] = field(repr=False, eq=False)


@frozen
class Spooled:
    """A record with its place in the recorder's spool; ``seq`` grows and is never reused."""

    seq: int
    record: UsageRecord | InterceptionEnded


class KeepsRecords:
    """The base of a control plane whose database is a file of this machine: a record that it calls
    stored is as safe as in a spool."""


@frozen
class StoreRecords:
    """Store the records of each parcel in their order; tell ``reply_to`` what became of each.

    A parcel's records are of one interception, and no other of that one comes before they are
    answered; so parcels need not wait for each other.  The control plane tells one or more
    :class:`Stored`; together they name every ``seq``, also when it is replaced meanwhile.  After
    a record that could not be stored, later ones of its parcel must not be tried: they are
    reported as ``retry`` too.

    A control plane that does not recognise what it has notes in ``marks`` what it sends and what
    became of it.
    """

    parcels: tuple[tuple[Spooled, ...], ...]
    """None of them empty."""
    reply_to: pykka.ActorRef[Any] = field(repr=False, eq=False)
    marks: Marks | None = field(default=None, repr=False, eq=False)
    ticket: object = field(default=None, repr=False, eq=False)
    """Comes back in each answer, so that the sender knows what it is about."""

    def records(self) -> Iterator[Spooled]:
        """Those of all parcels, one after the other."""
        return chain.from_iterable(self.parcels)

    @property
    def reply(self) -> _Untaken:
        """For :class:`~aigateway.actors.actor.base.GatewayActor`, which tells it of a message that
        nobody takes any more."""
        return _Untaken(self)


class _Untaken:
    """Sends the records of a message back, since the control plane died before it took them."""

    def __init__(self, message: StoreRecords) -> None:
        self._message = message

    def set_error(self, error: BaseException) -> None:
        message = self._message
        retry = {spooled.seq: str(error) for spooled in message.records()}
        died = isinstance(error, ActorDied) and error.in_hand
        stored = Stored(retry=retry, away=True, died=died, ticket=message.ticket)
        tell_quietly(message.reply_to, stored)


@frozen
class Stored:
    """What became of some records of a :class:`StoreRecords`."""

    done: tuple[int, ...] = ()
    """Stored for good, never to be sent again."""
    retry: Mapping[int, str] = field(factory=dict)
    """Not stored, for a reason that may pass; send again later."""
    rejected: Mapping[int, str] = field(factory=dict)
    """The record itself is wrong; sending it again will not help."""
    away: bool = False
    """The control plane was out of reach: the ``retry`` entries do not count as attempts."""
    died: bool = False
    """The control plane died of an error with the ``retry`` entries in its hands; none of them
    was sent."""
    ticket: object = field(default=None, repr=False, eq=False)
    """That of the message."""


@frozen
class SubscribeProviders:
    """From now on tell ``subscriber`` a :class:`ProvidersChanged`: at once when the set is
    known, and again on each change.  A later subscription replaces an earlier one."""

    subscriber: pykka.ActorRef[Any] = field(repr=False, eq=False)


@frozen
class ProvidersChanged:
    """The complete new set of providers."""

    providers: tuple[ProviderConfig, ...]


@frozen
class McpServer:
    """A remote MCP server that the gateway may use in a user's name."""

    id: str
    url: str
    token: str = field(default="", repr=False)
    tool_allow_regex: str = ""
    tool_deny_regex: str = ""


@frozen
class McpConfiguration:
    """The MCP servers of one user, with the user's tokens."""

    servers: tuple[McpServer, ...] = ()
    for_all: bool = field(default=False, eq=False)
    """Whether it is the same for every user, now."""


@frozen
class GetMcpConfiguration:
    """Which MCP servers may be used for this user?  Replies McpConfiguration or Unavailable."""

    user_id: str
    session_token: str = field(repr=False)
    reply: Reply[McpConfiguration | Unavailable] = field(repr=False, eq=False)


@frozen
class Status:
    """State of the control plane, for readiness and for ``aigateway actors``."""

    connected: bool
    detail: str = ""
    fatal: str | None = None
    """A reason why it will never be connected (a refused gateway key, for example)."""
    providers_tried_at: float = field(default=0.0, eq=False)
    """Unix time at which the providers were last to be loaded; 0: not yet."""
    providers_loaded_at: float = field(default=0.0, eq=False)
    """And at which they were."""


@frozen
class GetStatus(Inquiry[Status]):
    """Asked (not told): answers :class:`Status` at once."""


@frozen
class CapStats:
    """What caps do, for metrics."""

    waiting: int = 0
    """Calls that wait until their caps let them begin."""
    refused: Mapping[tuple[str, str], int] = field(factory=dict)
    """Calls that were not made, by whose cap it was and why: ``full``, ``waited`` in vain,
    ``unpriced``."""
    spent: Mapping[tuple[str, str, str], float] = field(factory=dict)
    """The part that is spent, by whose cap it is, by name and kind of window."""


@frozen
class CallStats:
    """How the control plane's calls have gone since its actor was started, for metrics."""

    waiting: int = 0
    """Requests that wait because it is away."""
    times: Mapping[tuple[str, str], CallTimes] = field(factory=dict)
    """By RPC and outcome; empty for a control plane that makes no calls."""
    unpriced: Mapping[str, int] = field(factory=dict)
    """Token records that were stored without a cost, by the reason."""
    costs: Mapping[str, int] = field(factory=dict)
    """What stored token records cost, in nano-dollars by the price's name."""
    caps: CapStats = field(factory=lambda: CapStats())


@frozen
class GetCallStats(Inquiry[CallStats]):
    """Asked (not told): answers :class:`CallStats` at once."""
