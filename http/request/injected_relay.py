"""Answers of several rounds: a stream that goes on while tools run, and a whole body.

Tools and the next request are waited for in a thread of their own, so that the client gets
its keepalives meanwhile.  Until that thread is done the recording is its; should the client
leave first, the thread closes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pykka
from attrs import define

from aigateway.actors.codec.header_list import Headers
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.messages import Drain, Opened, Refused
from aigateway.actors.providers.recording import Recording
from aigateway.actors.upstream.errors import Quiet, UpstreamCut
from aigateway.http.request.answers import Answer
from aigateway.http.request.injection import Rounds, give_back
from aigateway.http.request.relay import Finished, InterceptedBody, Patience, UpstreamSilent
from aigateway.http.request.upstream import refusal_answer

__all__ = ["InjectedBody", "WholeBody", "follow"]


@define(eq=False)
class _Between:
    """What goes on between two rounds, and what came of it."""

    done: threading.Event
    first_words: bytes
    ping: bytes
    began: float
    out: bytes = b""
    opened: Opened | None = None
    error: BaseException | None = None


class InjectedBody(InterceptedBody):
    """The body of a streamed answer with injected tools."""

    def __init__(
        self,
        opened: Opened,
        recording: Recording,
        patience: Patience,
        finished: Callable[[Finished], None],
        rounds: Rounds,
    ) -> None:
        super().__init__(opened, recording, patience, finished)
        self._rounds = rounds
        self._between: _Between | None = None
        self._lock = threading.Lock()
        self._left = False

    def _next_piece(self) -> bytes:
        while True:
            if self._between is None:
                out = super()._next_piece()
                if out or self._between is None:
                    return out
            between = self._between
            if not self._sent and between.first_words:
                # The head goes out with the first bytes: tools may take longer than clients
                # wait for that.
                self._sent += len(between.first_words)
                return between.first_words
            ping = self._patience.ping or None
            if not between.done.wait(ping if between.ping else None):
                self._sent += len(between.ping)
                return between.ping
            out = self._go_on(between)
            if out or self._over or self._cut_next:
                return out

    # -- the end of a round

    def _end(self, out: bytes) -> bytes:
        out += self._recording.end(framed=self._exchange.complete)
        return self._pause(out) if self._rounds.loop.calls else super()._end(out)

    def _cut(self, ex: UpstreamCut) -> bytes:
        out = self._recording.cut(str(ex), ex.error_type)
        if self._rounds.loop.calls:
            return self._pause(out)
        self._sent += len(out)
        return out + super()._cut(ex)

    def _pause(self, out: bytes) -> bytes:
        """The round is over; run what was called."""
        first_words, ping = self._rounds.loop.first_words(), self._keepalive()
        self._give_back()
        self._over = False
        self._sent += len(out)
        between = self._between = _Between(threading.Event(), first_words, ping, time.monotonic())
        threading.Thread(
            target=self._bridge, args=(between,), name="injected-tools", daemon=True
        ).start()
        return out

    # -- between rounds, in a thread

    def _bridge(self, between: _Between) -> None:
        try:
            self._run_and_send(between)
        except BaseException as ex:
            between.error = ex
        finally:
            with self._lock:
                between.done.set()
                left = self._left
            if left:
                self._let_go(between)

    def _run_and_send(self, between: _Between) -> None:
        rounds, recording = self._rounds, self._recording
        results = rounds.run()
        between.out = rounds.loop.answer(results, time.time())
        if not rounds.loop.goes_on or self._left:
            return
        if rounds.call.inbound.client_has_left():
            rounds.loop.leave(time.time())
            return
        result = rounds.send(self._opened)
        if isinstance(result, Refused):
            between.out += recording.cut(result.message, result.error_type)
        else:
            between.opened = result

    # -- and back

    def _go_on(self, between: _Between) -> bytes:
        self._between = None
        self._waited += time.monotonic() - between.began
        if between.error is not None:
            # A fault of ours: the stream must not look complete.
            between.out += self._recording.cut(f"injected tools: {between.error}", "server_error")
        if between.opened is not None:
            self._opened = between.opened
            self._exchange = between.opened.exchange
            self._exchange.set_quiet(self._patience.quiet)
            self._sent += len(between.out)
            return between.out
        out = between.out + self._recording.end(framed=True)
        self._recording.close()
        if self._recording.interception.cut:
            self._sent += len(out)
            self._cut_next = True
            self._over = False
        else:
            self._over = True
            self._finish("complete", out)
        return out

    def _client_left(self) -> None:
        between = self._between
        self._rounds.loop.client_left = True
        if between is None:
            super()._client_left()
            return
        with self._lock:
            self._left = True
            done = between.done.is_set()
        if done:
            self._let_go(between)

    def _let_go(self, between: _Between) -> None:
        """The client has gone between two rounds."""
        opened, recording = between.opened, self._recording
        if opened is not None:
            try:
                opened.provider.tell(Drain(opened.worker, opened.exchange, recording))
                return
            except pykka.ActorDeadError:
                opened.exchange.close()
                recording.lost_client()
        elif self._rounds.loop.goes_on or between.error is not None:
            self._rounds.loop.leave(time.time())
        recording.end(framed=True)
        recording.close()


class WholeBody:
    """The body of an answer that is known whole; its records are on disk."""

    def __init__(self, data: bytes, finished: Callable[[Finished], None]) -> None:
        self._data = data
        self._finished = finished
        self._over = False

    def __iter__(self) -> WholeBody:
        return self

    def __next__(self) -> bytes:
        if self._over or not self._data:
            self.close()
            raise StopIteration
        self._over = True
        self._finished(Finished("complete", len(self._data), 0.0))
        return self._data

    def close(self) -> None:
        """Called by the server in any case."""
        if not self._over:
            self._over = True
            self._finished(Finished("left" if self._data else "complete", 0, 0.0))


def follow(rounds: Rounds, opened: Opened, patience: Patience) -> Opened:
    """Take over an answer that may call tools; return the exchange to relay.

    A blocking one is read to its end here, through all its rounds: raises the Answer that
    the client gets instead.
    """
    call, loop, recording = rounds.call, rounds.loop, rounds.recording
    if not loop.event_stream:
        opened, whole = _read_rounds(opened, rounds, patience)
        headers = loop.answer_headers(_converted(recording, opened))
        call.answer_headers = [*headers, ("Content-Length", str(len(whole)))]
        call.make_body = lambda _opened, finished: WholeBody(whole, finished)
        return opened
    call.answer_headers = loop.answer_headers(_converted(recording, opened))
    call.make_body = lambda opened, finished: InjectedBody(
        opened, recording, patience, finished, rounds
    )
    return opened


def _converted(recording: Recording, opened: Opened) -> Headers:
    interception = recording.interception
    if isinstance(interception, BedrockInterception):
        return interception.answer_headers(opened.exchange.headers)
    return opened.exchange.headers


def _read_rounds(opened: Opened, rounds: Rounds, patience: Patience) -> tuple[Opened, bytes]:
    """Read a blocking answer, and go on while tools are called; raises an Answer.

    All records are on disk when it returns.
    """
    recording, loop = rounds.recording, rounds.loop
    while True:
        status = _read_round(opened, recording, patience)
        if not loop.calls:
            break
        loop.answer(rounds.run(), time.time())
        if not loop.goes_on:
            break
        if rounds.call.inbound.client_has_left():
            loop.leave(time.time())
            break
        result = rounds.send(opened)
        if isinstance(result, Refused):
            recording.cut(result.message, result.error_type)
            recording.close()
            raise refusal_answer(loop.api, result)
        opened = result
        if loop.refusal is not None:
            status, body = loop.refusal
            give_back(opened)
            recording.cut("the upstream's answer cannot be relayed", "server_error")
            recording.close()
            raise Answer(status, body, "application/json")
    recording.end(framed=True)
    recording.close()
    if loop.cut:
        message = loop.outcome().error_message or "the provider broke off its answer"
        raise Answer(status, loop.error_body(status, message), "application/json")
    return opened, bytes(loop.answer_body)


def _read_round(opened: Opened, recording: Recording, patience: Patience) -> int:
    """Returns the status for the client should the round not be whole."""
    exchange = opened.exchange
    exchange.set_quiet(patience.idle)
    try:
        while not exchange.complete:
            data = _read(opened, patience)
            if not data:
                break
            recording.data(data)
        else:
            recording.data(exchange.read())
        recording.end(framed=exchange.complete)
    except UpstreamCut as ex:
        recording.cut(str(ex), ex.error_type)
        return ex.status
    finally:
        give_back(opened)
    return UpstreamCut.status


def _read(opened: Opened, patience: Patience) -> bytes:
    exchange = opened.exchange
    while True:
        try:
            return exchange.read()
        except Quiet:
            silent = time.monotonic() - exchange.last_data_at
            if silent >= patience.idle:
                exchange.close()
                raise UpstreamSilent(f"the upstream was silent for {silent:.0f} s") from None
