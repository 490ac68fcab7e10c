"""Bodies of answers: read from the upstream, written to the client, in one greenlet.

gunicorn iterates over the body, writes each piece, and calls ``close`` whatever happens.
What an iteration returns is what has arrived, untouched and in one piece.  Two rules:

- A cut upstream never ends as a clean end: after the error event the iterator raises
  :class:`CutAnswer`, gunicorn drops the connection without the final chunk.
- The last piece is given out only when all records are on disk.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NoReturn

import pykka
import structlog
from attrs import frozen

from aigateway.actors.interception.routes import MESSAGES
from aigateway.actors.providers.messages import Drain, GiveBack, Opened
from aigateway.actors.providers.recording import Recording
from aigateway.actors.upstream.errors import GatewayEnds, Quiet, UpstreamCut
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = [
    "CutAnswer",
    "Finished",
    "InterceptedBody",
    "PassthroughBody",
    "Patience",
    "read_whole",
]

WHOLE_LIMIT = 1024 * 1024
"""Bytes of an answer that is read as a whole; of a longer one the rest is dropped."""

log = structlog.get_logger("ai-gateway")


class CutAnswer(BrokenPipeError):
    """Raised out of a body to make the server drop the connection.

    An EPIPE: gunicorn's workers take it as a connection that is gone, close it, and do not
    write the final chunk.
    """

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the upstream's answer was cut")


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
    """complete, cut (the upstream broke off), left (the client did) or refused."""
    sent: int
    """Body bytes written to the client."""
    upstream_seconds: float
    """Time spent waiting for the upstream."""
    status: int | None = None
    """Of the answer that the client got instead of the upstream's."""


class _Body(ABC):
    """What both kinds of body share: reading with patience, counting, giving back."""

    instead: Callable[[GatewayEnds], bytes] | None = None
    """Puts an error answer into the place of one of which nothing was sent; returns its body,
    empty when it cannot."""

    def __init__(
        self, opened: Opened, patience: Patience, finished: Callable[[Finished], None]
    ) -> None:
        self._opened = opened
        self._exchange: Exchange = opened.exchange
        self._patience = patience
        self._finished = finished
        self._sent = 0
        self._waited = 0.0
        self._cut_next = False
        self._over = False
        opened.exchange.set_quiet(patience.quiet)

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        if self._cut_next:
            self._over = True
            self._finish("cut")
            raise CutAnswer
        if self._over:
            raise StopIteration
        piece = self._next_piece()
        if not piece:
            # The end, or a cut that has nothing to say: then the next call drops the connection.
            return self.__next__() if self._is_cut() else self._stop()
        return piece

    def close(self) -> None:
        """Called by the server in any case; before the end it means that the client has gone."""
        if self._over:
            return
        self._over = True
        if self._cut_next:
            self._finish("cut")
            return
        self._client_left()
        self._finish("left")

    def _is_cut(self) -> bool:
        return self._cut_next

    @staticmethod
    def _stop() -> NoReturn:
        raise StopIteration

    @abstractmethod
    def _next_piece(self) -> bytes:
        """The next bytes for the client; empty at the end."""

    @abstractmethod
    def _client_left(self) -> None:
        """Let go of the exchange before its end."""

    def _keepalive(self) -> bytes:
        return b""

    def _read(self) -> bytes:
        """Read on; a keepalive may come instead of data.  Raises UpstreamCut."""
        exchange = self._exchange
        while True:
            began = time.monotonic()
            try:
                return exchange.read()
            except Quiet:
                silent = time.monotonic() - exchange.last_data_at
                if silent >= self._patience.idle:
                    exchange.close()
                    raise UpstreamSilent(f"the upstream was silent for {silent:.0f} s") from None
                if self._patience.ping and (ping := self._keepalive()):
                    raise _Ping(ping) from None
            finally:
                self._waited += time.monotonic() - began

    def _give_back(self) -> None:
        self._over = True
        opened = self._opened
        if not self._exchange.reusable:
            self._exchange.close()
        try:
            opened.provider.tell(GiveBack(opened.worker, self._exchange))
        except pykka.ActorDeadError:
            self._exchange.close()

    def _refuse_instead(self, ex: UpstreamCut) -> bytes:
        """End with an error answer if nothing was sent and it is the gateway that ends."""
        if self._sent or self.instead is None or not isinstance(ex, GatewayEnds):
            return b""
        body = self.instead(ex)
        if body:
            self._over = True
            self._finish("refused", body, ex.status)
        return body

    def _finish(self, outcome: str, last: bytes = b"", status: int | None = None) -> None:
        self._sent += len(last)
        self._finished(Finished(outcome, self._sent, self._waited, status))


class UpstreamSilent(UpstreamCut):
    """Nothing came for longer than the idle timeout."""

    error_type = "timeout"


class _Ping(Exception):
    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class InterceptedBody(_Body):
    """The body of an intercepted answer: relayed and, on the side, recorded."""

    def __init__(
        self,
        opened: Opened,
        recording: Recording,
        patience: Patience,
        finished: Callable[[Finished], None],
    ) -> None:
        super().__init__(opened, patience, finished)
        self._recording = recording

    def _next_piece(self) -> bytes:
        recording = self._recording
        exchange = self._exchange
        while True:
            try:
                data = self._read()
            except _Ping as ex:
                self._sent += len(ex.data)
                return ex.data
            except UpstreamCut as ex:
                return self._cut(ex)
            if not data:
                return self._end(b"")
            out = recording.data(data)
            if exchange.complete:
                return self._end(out)
            if recording.interception.cut:
                # What came cannot be read on: its end will not either.
                exchange.close()
                return self._end(out)
            if out:
                self._sent += len(out)
                return out

    def _end(self, out: bytes) -> bytes:
        recording = self._recording
        out += recording.end(framed=self._exchange.complete)
        self._give_back()
        recording.close()
        if recording.interception.cut:
            self._sent += len(out)
            self._cut_next = True
            self._over = False
        else:
            self._finish("complete", out)
        return out

    def _cut(self, ex: UpstreamCut) -> bytes:
        out = self._recording.cut(str(ex), ex.error_type)
        self._give_back()
        self._recording.close()
        if not self._recording.interception.cut:
            # All of the answer had come before the connection broke.
            self._finish("complete", out)
            return out
        if not out and (refusal := self._refuse_instead(ex)):
            return refusal
        self._sent += len(out)
        self._cut_next = True
        self._over = False
        return out

    def _keepalive(self) -> bytes:
        return self._recording.interception.keepalive()

    def _client_left(self) -> None:
        """Somebody else reads on for the usage, unless all of it has been seen."""
        opened, recording = self._opened, self._recording
        if recording.interception.complete:
            recording.end(framed=self._exchange.complete)
            self._give_back()
            recording.close()
            return
        try:
            opened.provider.tell(Drain(opened.worker, self._exchange, recording))
        except pykka.ActorDeadError:
            self._exchange.close()
            recording.lost_client()
            recording.close()


class PassthroughBody(_Body):
    """The body of an answer that is not recorded."""

    watch: Callable[[bytes, bool], None] | None = None
    """Is shown each piece before it goes out, and whether it is the last one."""

    def _next_piece(self) -> bytes:
        try:
            data = self._read()
        except UpstreamCut as ex:
            log.warning("upstream cut", provider=self._opened.provider_name, error=str(ex))
            self._give_back()
            if refusal := self._refuse_instead(ex):
                return refusal
            self._cut_next = True
            self._over = False
            return b""
        last = not data or self._exchange.complete
        if self.watch is not None:
            self.watch(data, last)
        if last:
            self._give_back()
            self._finish("complete", data)
        else:
            self._sent += len(data)
        return data

    def _client_left(self) -> None:
        self._exchange.close()
        self._give_back()


def read_whole(opened: Opened, idle: float) -> tuple[int, bytes]:
    """Read a small answer to its end and give the exchange back: its status and body.

    ``idle`` is the longest silence in seconds.  A cut one is a 502 with the reason as its body.
    """
    exchange = opened.exchange
    exchange.set_quiet(idle)
    data = b""
    try:
        while len(data) < WHOLE_LIMIT and (piece := exchange.read()):
            data += piece
        status = exchange.status
    except (Quiet, UpstreamCut) as ex:
        status, data = 502, (str(ex) or "the upstream was silent").encode()
    if not exchange.reusable:
        exchange.close()
    try:
        opened.provider.tell(GiveBack(opened.worker, exchange))
    except pykka.ActorDeadError:
        exchange.close()
    return status, data
