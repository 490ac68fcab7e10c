"""A client's request to a provider: made once at the edge, sent by whichever provider answers.

It says what is asked, not how one provider wants it.  Address, credential, signature and what
has to change in the body are the business of the provider that sends it (:mod:`.making`),
so a request that is handed on to another provider stays the same value.
"""

from __future__ import annotations

from typing import Protocol

from attrs import field, frozen

from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.conversation import NO_AFFINITY, Affinity
from aigateway.actors.interception.headers import Credential
from aigateway.actors.upstream.exchange import AnswerCopy, Exchange

__all__ = ["AbandonedAttempt", "Attempts", "UpstreamRequest"]


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
