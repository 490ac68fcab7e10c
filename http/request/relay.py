"""Providers called from the edge, and their answers on their way: read from the upstream,
written to the client, in one greenlet.

The call is one message to the provider's actor (:class:`Upstream`), which sees to the rest and
gives the open exchange to the caller.

The writer of an answer iterates over its :class:`Body`, and calls ``close`` whatever happens.
What an iteration returns is what has arrived, untouched and in one piece.  Two rules:

- A cut upstream never ends as a clean end: after the error event the iteration raises
  :class:`CutAnswer`, gunicorn drops the connection without the final chunk.
- The last piece is given out only when all records are on disk.

An :class:`OpenAnswer` holds what is read.  The pieces come from a generator over it, which
*returns* the last one or raises :class:`Broken`.  Nothing depends on that generator being run
or closed: one that was never started has no ``finally``.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, TypeAlias

import structlog

from aigateway.actors.actor.tree import provider_role
from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.headers import (
    UnsafeHeader,
    for_client,
    for_upstream,
    without_account,
)
from aigateway.actors.interception.routes import MESSAGES
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import (
    Opened,
    Perform,
    Refused,
    UpstreamRequest,
    patience_of,
    url_for,
)
from aigateway.actors.upstream.errors import GatewayEnds, Quiet, Unsendable, UpstreamCut
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, api_error, plain
from aigateway.http.request.concealing import conceal
from aigateway.http.request.runtime import NoAnswer, Runtime, Stopping

__all__ = [
    "AnyBody",
    "Body",
    "Broken",
    "CutAnswer",
    "Finished",
    "OpenAnswer",
    "Patience",
    "Pieces",
    "Relayed",
    "Upstream",
    "actor_headers",
    "address_for",
    "headers_for",
    "passed",
    "read_whole",
    "recorded",
    "refusal_answer",
    "relay_round",
]

WHOLE_LIMIT = 1024 * 1024
"""Bytes of an answer that is read as a whole; of a longer one the rest is dropped."""

Pieces: TypeAlias = Generator[bytes, None, bytes]
"""Yields what the client gets next and returns the last of it, which may be empty; raises
:class:`Broken`."""

log = structlog.get_logger("ai-gateway")


class CutAnswer(BrokenPipeError):
    """Raised out of a body to make the server drop the connection.

    An EPIPE: gunicorn's workers take it as a connection that is gone, close it, and do not
    write the final chunk.
    """

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the upstream's answer was cut")


class Broken(Exception):
    """An answer ends without its end; ``last`` is what the client still gets of it.

    ``cause`` is None where the connection was not at fault, but what came on it.
    """

    def __init__(self, last: bytes, cause: UpstreamCut | None) -> None:
        super().__init__()
        self.last = last
        self.cause = cause


class UpstreamSilent(UpstreamCut):
    """Nothing came for longer than the idle timeout."""

    error_type = "timeout"


@frozen
class Patience:
    """How long a body waits for a silent upstream.  Times in seconds."""

    ping: float
    """Silence after which the client gets a keepalive; 0: never."""
    idle: float
    """Silence after which the upstream counts as cut."""

    @classmethod
    def with_provider(cls, config: ProviderConfig, api: str, ping: float) -> Patience:
        """For answers of ``config``'s provider; ``ping`` is the usual time until a keepalive.

        Anthropic's API has an event for keepalives.  The others have none: a comment is all
        that can be sent, which not every client reads over, so it is sent only if the
        provider's settings say so.
        """
        if config.keepalive_ping is not None:
            return cls(config.keepalive_ping, config.idle_timeout)
        return cls(ping if api == MESSAGES else 0.0, config.idle_timeout)

    @property
    def quiet(self) -> float:
        return min(self.ping, self.idle) if self.ping else self.idle


@frozen
class Finished:
    """How a body ended, for logs and metrics."""

    outcome: str
    """complete, cut (the upstream broke off), left (the client did), refused or failed."""
    sent: int
    """Body bytes written to the client."""
    upstream_seconds: float = 0.0
    """Time spent waiting for the upstream."""
    status: int | None = None
    """Of the answer that the client got instead of the upstream's."""


class OpenAnswer:
    """An answer that is read here, with what records it if it is intercepted.

    Its exchange is held until :meth:`give_back` or :meth:`drain`, and never touched again.
    """

    def __init__(
        self, opened: Opened, patience: Patience, recording: Recording | None = None
    ) -> None:
        self.patience = patience
        self.recording = recording
        self.waited = 0.0
        """Seconds spent waiting for the upstream."""
        self.sent = 0
        """Bytes given out to the client."""
        self.cause: UpstreamCut | None = None
        """What ended the reading, if it was not the answer's end."""
        self.take(opened)

    def take(self, opened: Opened) -> None:
        """Hold this exchange from now on; the one before was given back."""
        self.opened = opened
        self.exchange: Exchange = opened.exchange
        self.held = True
        opened.exchange.set_quiet(self.patience.quiet)

    def read(self) -> bytes | None:
        """What has arrived, empty at the end; None when it is time for a keepalive.

        Raises UpstreamCut.
        """
        exchange = self.exchange
        began = time.monotonic()
        try:
            while True:
                try:
                    return exchange.read()
                except Quiet:
                    silent = time.monotonic() - exchange.last_data_at
                    if silent >= self.patience.idle:
                        exchange.close()
                        text = f"the upstream was silent for {silent:.0f} s"
                        raise UpstreamSilent(text) from None
                    if self.patience.ping:
                        return None
        finally:
            self.waited += time.monotonic() - began

    def give_back(self) -> None:
        """The provider gets the exchange back, whatever state it is in."""
        if self.held:
            self.held = False
            self.opened.give_back()

    def drain(self) -> None:
        """The client has gone: somebody else reads on for the usage and records the end."""
        self.held = False
        assert self.recording is not None
        if not self.opened.drain(self.recording):
            self.exchange.close()
            self.recording.lost_client()
            self.recording.close()

    def end(self, last: bytes) -> bytes:
        """Nothing more comes; returns ``last`` when all records are on disk.

        Raises Broken where the client must not take that for the answer's end.
        """
        self.give_back()
        recording = self.recording
        if recording is not None:
            recording.close()
            if recording.interception.cut:
                raise Broken(last, self.cause)
        return last

    def drop(self, reason: str) -> None:
        """The answer cannot be relayed: let go of it and record that."""
        self.exchange.close()
        self.give_back()
        if self.recording is not None:
            self.recording.cut(reason, "server_error")
            self.recording.close()

    def leave(self) -> None:
        """The client has gone before the end."""
        recording = self.recording
        if not self.held:
            return
        if recording is None:
            self.exchange.close()
            self.give_back()
        elif recording.interception.complete:
            recording.end(framed=self.exchange.complete)
            self.give_back()
            recording.close()
        else:
            self.drain()


class Body:
    """What a server iterates over.  Its end is told once, before the last piece goes out."""

    finished: Callable[[Finished], None]
    """Is told how it ended; set before the first piece is asked for."""
    instead: Callable[[int, bytes], bool] | None = None
    """Puts an answer with this status and body into the place of one of which nothing was
    sent; says whether it could."""

    def __init__(
        self,
        answer: OpenAnswer,
        pieces: Pieces,
        error_body: Callable[[int, str], bytes],
        leave: Callable[[], None] | None = None,
    ) -> None:
        """``error_body`` makes the body of an error answer from status and text, ``leave`` is
        called when the client goes before the end, by default the answer's own."""
        self._answer = answer
        self._pieces = pieces
        self._error_body = error_body
        self._leave = leave or answer.leave
        self._cut = False
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            last = yield from self._pieces
        except Broken as ex:
            if instead := self._refused_instead(ex):
                yield instead
                return
            self._cut = True
            if ex.last:
                self._answer.sent += len(ex.last)
                yield ex.last
            self._end("cut")
            raise CutAnswer from None
        self._answer.sent += len(last)
        self._end("complete")
        if last:
            yield last

    @property
    def failed(self) -> bool:
        """Whether the interception's record says that it ended with an error."""
        recording = self._answer.recording
        return recording is not None and recording.interception.outcome().error_type is not None

    def close(self) -> None:
        """Called by the server in any case; before the end it means that the client has gone."""
        if self._over:
            return
        if not self._cut:
            self._leave()
        self._end("cut" if self._cut else "left")

    def _refused_instead(self, ex: Broken) -> bytes:
        """End with an error answer if nothing was sent and it is the gateway that ends."""
        answer, cause = self._answer, ex.cause
        if ex.last or answer.sent or self.instead is None or not isinstance(cause, GatewayEnds):
            return b""
        body = self._error_body(cause.status, str(cause))
        if not self.instead(cause.status, body):
            return b""
        answer.sent += len(body)
        self._end("refused", cause.status)
        return body

    def _end(self, outcome: str, status: int | None = None) -> None:
        self._over = True
        finished = self.finished
        # PERF: both hold the body.  A circle waits for the garbage collector, with the request
        # and all of its bytes in it: 11 ms for each 200 requests, and their memory until then.
        del self.finished
        self.instead = None
        finished(Finished(outcome, self._answer.sent, self._answer.waited, status))


class AnyBody(Protocol):
    """What a server iterates over, and closes whatever happens."""

    finished: Callable[[Finished], None]
    instead: Callable[[int, bytes], bool] | None

    def __iter__(self) -> Iterator[bytes]: ...

    @property
    def failed(self) -> bool: ...

    def close(self) -> None: ...


@frozen
class Relayed:
    """What the client gets of an upstream's answer."""

    status: int
    reason: str
    headers: Headers
    body: AnyBody
    event_stream: bool = False
    """Bytes may be added to it or taken from it: a length that is declared may not hold."""


def recorded(answer: OpenAnswer) -> Pieces:
    """The body of an intercepted answer: relayed and, on the side, recorded."""
    last = yield from relay_round(answer)
    return answer.end(last)


def relay_round(answer: OpenAnswer) -> Pieces:
    """Relay until nothing more comes from the upstream; the exchange is still held then."""
    recording, exchange = answer.recording, answer.exchange
    assert recording is not None
    answer.cause = None
    while True:
        try:
            data = answer.read()
        except UpstreamCut as ex:
            answer.cause = ex
            return recording.cut(str(ex), ex.error_type)
        if data is None:
            out = recording.interception.keepalive()
        else:
            out = recording.data(data) if data else b""
            if not data or exchange.complete:
                return out + recording.end(framed=exchange.complete)
            if recording.interception.cut:
                # What came cannot be read on: its end will not either.
                exchange.close()
                return out + recording.end(framed=exchange.complete)
        if out:
            answer.sent += len(out)
            yield out


def passed(answer: OpenAnswer, watch: Callable[[bytes, bool], None] | None = None) -> Pieces:
    """The body of an answer that is not recorded.

    ``watch`` is shown each piece before it goes out, and whether it is the last one.
    """
    while True:
        try:
            data = answer.read()
        except UpstreamCut as ex:
            log.warning("upstream cut", provider=answer.opened.provider_name, error=str(ex))
            answer.give_back()
            raise Broken(b"", ex) from None
        if data is None:
            continue
        last = not data or answer.exchange.complete
        if watch is not None:
            watch(data, last)
        if last:
            return answer.end(data)
        answer.sent += len(data)
        yield data


def read_whole(answer: OpenAnswer, limit: int = WHOLE_LIMIT) -> tuple[int, bytes]:
    """Read an answer to its end and give the exchange back: its status and body.

    At most ``limit`` bytes or a few more are read.  A cut one is a 502 with the reason as its body.
    """
    data = b""
    try:
        while len(data) < limit and (piece := answer.read()):
            data += piece
        status = answer.exchange.status
    except UpstreamCut as ex:
        status, data = 502, str(ex).encode()
    answer.give_back()
    return status, data


GRACE = 5.0
"""Seconds that a provider's own timeout may come late."""


class Upstream:
    """Sends requests to provider actors."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def perform(
        self,
        config: ProviderConfig,
        request: UpstreamRequest,
        *,
        alone: bool = False,
        within: float = math.inf,
    ) -> Opened | Refused:
        """Send a request to ``config``'s provider, or to one that it falls back on.

        ``alone``: no other one may answer.  ``within``: seconds that it may take, if that is
        less than the providers are given."""
        patience = min(within, patience_of(config, None if alone else self._runtime.tree))
        then = () if alone else None
        deadline = time.monotonic() + patience
        try:
            result = self._runtime.ask(
                provider_role(config.name),
                lambda reply: Perform(request=request, reply=reply, deadline=deadline, then=then),
                patience + GRACE,
            )
        except NoAnswer as ex:
            return Refused(502, f"the provider's actor failed: {ex}", sent=ex.sent)
        except Stopping as ex:
            return Refused(503, str(ex), retry_after=1, sent=True)
        if isinstance(result, Opened):
            self._runtime.inflight.hold(result.exchange)
            if result.exchange.status < 400:
                if result.shared:
                    result.exchange.headers = without_account(result.exchange.headers)
                return result
        answering = self.provider_of(result) or config
        dialect = request.api or config.type
        keys = self._runtime.tree.keys_of(answering)
        return conceal(result, keys, dialect, quotes=answering.quoted)

    def provider_of(self, result: Opened | Refused) -> ProviderConfig | None:
        """The configuration of the provider that answered."""
        return self._runtime.tree.provider_config(result.provider_name)


def headers_for(headers: Headers, **rules: Any) -> list[tuple[str, str]]:
    """The client's headers as they go upstream; raises an Answer for unsafe ones."""
    try:
        return for_upstream(headers, **rules)
    except UnsafeHeader as ex:
        text = f"the request cannot be forwarded: {ex}"
        raise plain(400, text, reason=Reason.BAD_REQUEST) from ex


def actor_headers(config: ProviderConfig, caller: Caller) -> list[tuple[str, str]]:
    """The headers that name the user to this provider."""
    values = {"id": caller.user_id, "username": caller.username, "email": caller.email}
    return [(name, values.get(key, "")) for key, name in config.actor_headers.items()]


def address_for(config: ProviderConfig, rest: str, query: str) -> str:
    """Where a request would go; raises the Answer for a path or query that no URL may have."""
    try:
        return url_for(config, rest, query)
    except Unsendable as ex:
        text = "the request cannot be forwarded: bad path or query"
        raise plain(400, text, reason=Reason.BAD_REQUEST) from ex


def refusal_answer(dialect: str, refused: Refused) -> Answer:
    """What the client gets when no provider answered."""
    if refused.body is None:
        return api_error(
            dialect,
            refused.status,
            refused.message,
            reason=Reason.PROVIDER,
            retry_after=refused.retry_after,
        )
    headers: list[tuple[str, str]] = []
    with contextlib.suppress(UnsafeHeader):
        headers = [
            (name, value)
            for name, value in for_client(refused.headers)
            if name.lower() not in ("content-type", "content-length")
        ]
    if refused.retry_after is not None:
        headers.append(("Retry-After", str(refused.retry_after)))
    content_type = first_of(refused.headers, "content-type") or "application/json"
    return Answer(
        refused.status, refused.body, content_type, tuple(headers), reason=Reason.PROVIDER
    )
