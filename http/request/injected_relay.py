"""Answers of several rounds: a stream that goes on while tools run, and a whole body.

Tools and the next request are waited for in a thread of their own, so that the client gets
its keepalives meanwhile.  Until that thread is done the recording is its; should the client
leave first, the thread closes it.
"""

from __future__ import annotations

import threading
import time

from aigateway.actors.providers.request import Opened, Refused
from aigateway.actors.upstream.errors import UpstreamCut
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer
from aigateway.http.request.injection import Rounds
from aigateway.http.request.relay import (
    Body,
    OpenAnswer,
    Pieces,
    Relayed,
    refusal_answer,
    relay_round,
)

__all__ = ["follow"]


def follow(rounds: Rounds, answer: OpenAnswer) -> Relayed:
    """Take over an answer that may call tools: what the client gets of it all.

    A blocking one is read to its end here, through all its rounds: raises the Answer that
    the client gets instead.
    """
    loop = rounds.loop
    if loop.event_stream:
        stream = _Stream(rounds, answer)
        body = Body(answer, stream.pieces(), loop.error_body, stream.leave)
        headers = loop.answer_headers(rounds.headers)
    else:
        whole = _read_rounds(rounds, answer)
        body = Body(answer, _whole(whole), loop.error_body)
        headers = [*loop.answer_headers(rounds.headers), ("Content-Length", str(len(whole)))]
    exchange = answer.exchange
    return Relayed(exchange.status, exchange.reason, headers, body, event_stream=loop.event_stream)


class _Stream:
    """A streamed answer with injected tools."""

    def __init__(self, rounds: Rounds, answer: OpenAnswer) -> None:
        self._rounds = rounds
        self._answer = answer
        self._between: _Between | None = None

    def pieces(self) -> Pieces:
        """What the client gets, over all rounds."""
        answer, loop = self._answer, self._rounds.loop
        while True:
            out = yield from relay_round(answer)
            if not loop.calls:
                return answer.end(out)
            first_words = loop.first_words()
            ping = self._rounds.recording.interception.keepalive()
            answer.give_back()
            answer.cause = None
            began = time.monotonic()
            between = self._between = _Between(self._rounds, answer)
            between.start()
            answer.sent += len(out)
            if out:
                yield out
            if not answer.sent and first_words:
                # The head goes out with the first bytes: tools may take longer than clients
                # wait for that.
                answer.sent += len(first_words)
                yield first_words
            pause = answer.patience.ping or None
            while not between.done.wait(pause if ping else None):
                answer.sent += len(ping)
                yield ping
            self._between = None
            answer.waited += time.monotonic() - began
            out = between.over()
            if not between.goes_on:
                return answer.end(out)
            answer.sent += len(out)
            if out:
                yield out

    def leave(self) -> None:
        """The client has gone before the end."""
        self._rounds.loop.client_left = True
        if self._between is None:
            self._answer.leave()
        else:
            self._between.leave()


class _Between:
    """What goes on between two rounds, in a thread, and what comes of it."""

    def __init__(self, rounds: Rounds, answer: OpenAnswer) -> None:
        self._rounds = rounds
        self._answer = answer
        self._out = b""
        self._opened: Opened | None = None
        self._error: BaseException | None = None
        self._left = False
        self._lock = threading.Lock()
        self.done = threading.Event()

    def start(self) -> None:
        """Run what was called, and send the next round."""
        threading.Thread(target=self._run, name="injected-tools", daemon=True).start()

    def _run(self) -> None:
        try:
            self._run_and_send()
        except BaseException as ex:
            self._error = ex
        finally:
            with self._lock:
                self.done.set()
                left = self._left
            if left:
                self._let_go()

    def _run_and_send(self) -> None:
        rounds = self._rounds
        results = rounds.run()
        self._out = rounds.loop.answer(results, time.time())
        if not rounds.loop.goes_on or self._left:
            return
        if rounds.call.inbound.client_has_left():
            rounds.loop.leave(time.time())
            return
        result = rounds.send(self._answer.opened)
        if isinstance(result, Refused):
            self._out += rounds.recording.cut(result.message, result.error_type)
        else:
            self._opened = result

    @property
    def goes_on(self) -> bool:
        """Another round has begun."""
        return self._opened is not None

    def over(self) -> bytes:
        """Back in the request: take the next round's answer; returns bytes for the client."""
        recording = self._rounds.recording
        if self._error is not None:
            # A fault of ours: the stream must not look complete.
            self._out += recording.cut(f"injected tools: {self._error}", "server_error")
        if self._opened is None:
            return self._out + recording.end(framed=True)
        self._answer.take(self._opened)
        return self._out

    def leave(self) -> None:
        """The client has gone meanwhile."""
        with self._lock:
            self._left = True
            done = self.done.is_set()
        if done:
            self._let_go()

    def _let_go(self) -> None:
        if self._opened is not None:
            self._answer.take(self._opened)
            self._answer.drain()
            return
        if self._rounds.loop.goes_on or self._error is not None:
            self._rounds.loop.leave(time.time())
        self._rounds.recording.end(framed=True)
        self._rounds.recording.close()


def _whole(data: bytes) -> Pieces:
    """The body of an answer that is known whole; its records are on disk."""
    yield from ()
    return data


def _read_rounds(rounds: Rounds, answer: OpenAnswer) -> bytes:
    """Read a blocking answer, and go on while tools are called; raises an Answer.

    All records are on disk when it returns.
    """
    recording, loop = rounds.recording, rounds.loop
    began = time.monotonic()
    while True:
        status = _read_round(rounds, answer)
        if not loop.calls:
            break
        loop.answer(rounds.run(), time.time())
        if not loop.goes_on:
            break
        if rounds.call.inbound.client_has_left():
            loop.leave(time.time())
            break
        result = rounds.send(answer.opened)
        if isinstance(result, Refused):
            recording.cut(result.message, result.error_type)
            recording.close()
            raise refusal_answer(loop.api, result)
        answer.take(result)
        if loop.refusal is not None:
            answer.drop("the upstream's answer cannot be relayed")
            raise Answer(*loop.refusal, "application/json", reason=Reason.PROVIDER)
    recording.end(framed=True)
    recording.close()
    if loop.cut:
        message = loop.outcome().error_message or "the provider broke off its answer"
        body = loop.error_body(status, message)
        raise Answer(status, body, "application/json", reason=Reason.PROVIDER)
    # Reading it to its end was waiting for tools and upstream.
    answer.waited = time.monotonic() - began
    return bytes(loop.answer_body)


def _read_round(rounds: Rounds, answer: OpenAnswer) -> int:
    """Returns the status for the client should the round not be whole."""
    try:
        for _ in relay_round(answer):
            pass
    finally:
        answer.give_back()
    return answer.cause.status if answer.cause is not None else UpstreamCut.status
