"""What a provider actor is told, and what it answers."""

from __future__ import annotations

from typing import Any

import pykka
from attrs import field, frozen

from aigateway.actors.actor import Reply
from aigateway.actors.providers.exchange import Exchange
from aigateway.actors.providers.interception.credentials import Credential
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.recording import Recording

__all__ = [
    "Drain",
    "GetProviderState",
    "GiveBack",
    "Opened",
    "Perform",
    "ProviderState",
    "Refused",
    "Retire",
    "WorkerState",
]


@frozen
class Opened:
    """The answer's head is there; the exchange now belongs to whoever got this."""

    exchange: Exchange
    worker: pykka.ActorRef[Any] = field(repr=False)
    provider: pykka.ActorRef[Any] = field(repr=False)
    """To whom the exchange is given back, even when the provider was replaced meanwhile."""
    provider_name: str
    credential_hint: str


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


@frozen
class Perform:
    """Send this request upstream and reply with Opened or Refused.

    ``headers`` are those of the client that may travel; Host, framing and credentials are
    added here.  ``credential`` is the user's own, None: one of the provider's.
    """

    method: str
    url: str
    headers: Headers
    body: bytes = field(repr=False)
    reply: Reply[Opened | Refused] = field(repr=False, eq=False)
    route: str = ""
    model: str = ""
    credential: Credential | None = None
    add_credential: bool = True
    """False: the client's own credentials travel in ``headers``."""


@frozen
class GiveBack:
    """The holder is done with an exchange, whatever state it is in."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange


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
    """idle, busy (its exchange is out) or draining."""
    exchanges: int


@frozen
class ProviderState:
    """For ``aigateway actors`` and metrics."""

    name: str
    busy: int
    idle: int
    draining: int
    waiting: int
    workers: tuple[WorkerState, ...]
    detail: str = ""


@frozen
class GetProviderState:
    """Asked: answers :class:`ProviderState`."""
