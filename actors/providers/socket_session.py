"""A session of the Responses API over a WebSocket: what comes from the provider, read and relayed.

Theory of operation.  A session has two threads or greenlets, and each of them waits on one socket:

- the client's request reads what the client says.  For each message it asks whether it may be, and
  hands it on with :meth:`SocketSession.start` or :meth:`SocketSession.pass_on`;
- a worker of the provider, which owns the connection, reads what the provider says
  (:meth:`SocketSession.run`), shows it to the response that it is about, and writes it to the
  client: no event passes a queue.

What they share is who runs (:class:`~..interception.responses_socket.Lanes`).  A response belongs
to the one that takes it out of there, so its end is recorded once, no matter who notices it
first: by its last message, a connection that breaks, a client that has gone.

Rules:

- the last message of a response goes out when all of its records are on disk;
- a response that is cut is told to the client as an error, and then the connection is closed: its
  code says that something went wrong, even where the provider's said that all is well;
- when the client goes while responses run, the provider is read on for their usage, for a while;
- a session that is to end lets what runs finish, and closes with 1012 ("service restart"), on
  which clients connect again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from attrs import define, field, frozen

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.codec.websocket import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Message,
    MessageReader,
    WrongMessage,
    close_frame,
    encode_frame,
    read_close,
)
from aigateway.actors.interception.masking import mask_text
from aigateway.actors.interception.responses_socket import (
    BUSY,
    Lanes,
    SocketResponse,
    begins_response,
    error_message,
    mask_error,
    refused_status,
    tells_failure,
)
from aigateway.actors.providers.jobs import Told
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Opened
from aigateway.actors.upstream.errors import GatewayEnds, Quiet, UpstreamCut
from aigateway.actors.upstream.exchange import Exchange

__all__ = ["LIMIT_REACHED", "Client", "SessionRules", "SocketSession", "Turn"]

MESSAGE_LIMIT = 64 * 1024 * 1024
"""Bytes of the largest message of a provider: what is read of a blocking answer."""
LOOK = 15.0
"""Seconds of silence after which a session looks at its clocks."""
GOODBYE = 2.0
"""Seconds in which the other side has to answer a close."""

_LOGGED = 4096
"""Bytes of the original that are logged."""

NORMAL = 1000
GOING_AWAY = 1001
BROKEN = 1011
RESTART = 1012
LIMIT_REACHED = "websocket_connection_limit_reached"
"""The code of the error that says that a connection is too old; a client opens another one."""

log = structlog.get_logger("ai-gateway.provider")


class Client(Protocol):
    """The client's end of a session.  Used from two threads."""

    def send(self, data: bytes) -> bool:
        """Send frames; False when the client has gone."""

    def close(self, code: int, reason: str) -> None:
        """Say why it ends; the first time counts."""

    def wait(self, seconds: float) -> bool:
        """Whether its reader has ended within so many seconds."""

    def shut(self) -> None:
        """Break the connection: its reader wakes up."""


@define(eq=False)
class Turn:
    """One response that runs on a session.  Belongs to the one that took it out of the lanes."""

    response: SocketResponse
    model: str
    """By the provider's own name."""
    recording: Recording = field(repr=False)
    begun: Callable[[], None] = field(repr=False)
    """The provider begins to answer."""
    over: Callable[[str, int], None] = field(repr=False)
    """Is told once how it ended (complete, cut or left), and the bytes sent to the client."""
    sent: int = 0
    answered: bool = False


@frozen(kw_only=True)
class SessionRules:
    """What holds for a session.  Times in seconds, points in time monotonic."""

    until: float
    """From then on nothing new begins."""
    idle_timeout: float
    """Longest silence of the provider inside an answer."""
    drain_timeout: float
    """How long it is read on after the client has gone."""
    keys: tuple[str, ...] = field(repr=False)
    """What must not be quoted in errors; the provider's own."""
    quotes: bool
    """Whether the log may quote errors."""


class SocketSession:
    """Both connections of a session, and what runs on it."""

    def __init__(
        self,
        opened: Opened,
        client: Client,
        rules: SessionRules,
        *,
        adopt: Callable[[str | None, bytes], Turn | None],
        counted: Callable[[int], None],
    ) -> None:
        """``adopt`` has a response recorded that the provider begins by itself, in this lane and
        after this ``response.steer``; None: it cannot be.  ``counted`` counts the provider's
        messages."""
        self.opened = opened
        self.exchange: Exchange = opened.exchange
        self._client = client
        self._rules = rules
        self._adopt = adopt
        self._counted = counted
        self.lanes: Lanes[Turn] = Lanes()
        self._steers: dict[str | None, bytes] = {}
        self._writing = threading.Lock()
        self._over = False
        self._ending = False
        self._goodbye_said = False
        self._left_at: float | None = None
        self._spoken_at = time.monotonic()

    # -- by the one who reads the client

    @property
    def ending(self) -> bool:
        """Nothing new begins here."""
        return self._ending or self._over

    @property
    def expired(self) -> bool:
        """It is too old for anything new."""
        return time.monotonic() >= self._rules.until

    def start(self, turn: Turn, opcode: int, payload: bytes) -> None:
        """A response that is recorded runs in its lane, and its request goes to the provider.

        The turn is the session's from here on.
        """
        lane = turn.response.lane
        if not self.lanes.fill(lane, turn):
            self._cut(turn, BUSY, "bad_request")
            return
        self._spoken_at = time.monotonic()
        if not self._over:
            try:
                self._tell_provider(encode_frame(opcode, payload, os.urandom(4)))
                return
            except UpstreamCut as ex:
                reason, error_type = str(ex), ex.error_type
        else:
            reason, error_type = "the provider closed the connection", "server_error"
        # Unless the other one has it already.
        if self.lanes.pop(lane) is turn:
            self._cut(turn, reason, error_type)

    def pass_on(self, opcode: int, payload: bytes) -> None:
        """Something that begins nothing goes to the provider."""
        try:
            self._tell_provider(encode_frame(opcode, payload, os.urandom(4)))
        except UpstreamCut:
            # Its reader sees to that.
            return

    def steer(self, lane: str | None, opcode: int, payload: bytes) -> None:
        """More input for what runs; a response that follows by itself is one to this."""
        self._steers[lane] = payload
        self.pass_on(opcode, payload)

    def end_if_idle(self) -> None:
        """Close when nothing runs."""
        if not len(self.lanes):
            self.exchange.interrupt("the session is over")

    def leave(self, code: int | None = None) -> None:
        """The client has gone, by a close with this code or without one."""
        if self._left_at is None:
            self._left_at = time.monotonic()
            if not len(self.lanes):
                self._say_goodbye(GOING_AWAY if code is None else code)

    # -- from outside

    def retire(self) -> None:
        """End as soon as nothing runs.  Never blocks."""
        self._ending = True
        self.end_if_idle()

    # -- by the worker that owns the connection

    def run(self) -> None:
        """Relay until the session is over.  Then all is recorded, and both sides know."""
        code, reason = BROKEN, "the gateway failed"
        try:
            code, reason = self._relay()
        finally:
            self._over = True
            for turn in self.lanes.pop_all():
                self._cut(turn, reason, "server_error")
            self._say_goodbye(NORMAL)
            self.exchange.close()
            self._client.close(code, reason)
            if not self._client.wait(GOODBYE):
                self._client.shut()

    def abandon(self) -> None:
        """Nobody will run it."""
        self._over = True
        for turn in self.lanes.pop_all():
            self._cut(turn, "the provider's actor died", "server_error")
        self.exchange.close()
        self._client.close(BROKEN, "the gateway failed")
        self._client.shut()

    def _relay(self) -> tuple[int, str]:
        """Returns the code and reason for the client."""
        exchange = self.exchange
        reader = MessageReader(masked=False, limit=MESSAGE_LIMIT)
        look = min(LOOK, self._rules.idle_timeout)
        while True:
            if (done := self._done()) is not None:
                return done
            exchange.set_quiet(look)
            try:
                data = exchange.read()
            except Quiet:
                if self._too_quiet():
                    return self._broken("the provider was silent for too long", "timeout")
                continue
            except GatewayEnds as ex:
                if (done := self._done()) is not None:
                    return done
                return self._broken(str(ex), ex.error_type, RESTART)
            except UpstreamCut as ex:
                return self._broken(str(ex), ex.error_type)
            if not data:
                return self._broken("the provider closed the connection")
            reader.feed(data)
            try:
                closed = self._take(reader)
            except WrongMessage as ex:
                self._say_goodbye(ex.code)
                return self._broken(f"the provider sent {ex}")
            if closed is not None:
                return self._closed(closed)

    def _done(self) -> tuple[int, str] | None:
        """Whether it is over by the gateway's own rules, or the client's."""
        running = len(self.lanes)
        if self._left_at is not None:
            drained = time.monotonic() - self._left_at >= self._rules.drain_timeout
            if drained or not running:
                for turn in self.lanes.pop_all():
                    self._lose(turn)
                return GOING_AWAY, "the client has gone"
        if running:
            return None
        if self._ending:
            return RESTART, "AI Gateway is being restarted, connect again"
        if self.expired:
            self._show(error_message(400, _LIMIT))
            return GOING_AWAY, LIMIT_REACHED
        return None

    def _too_quiet(self) -> bool:
        silent = time.monotonic() - self._spoken_at
        return bool(self.lanes.running()) and silent >= self._rules.idle_timeout

    def _broken(
        self, reason: str, error_type: str = "server_error", code: int = BROKEN
    ) -> tuple[int, str]:
        """The provider's connection is of no use any more."""
        self._over = True
        for turn in self.lanes.pop_all():
            self._cut(turn, reason, error_type)
        return code, reason

    def _closed(self, message: Message) -> tuple[int, str]:
        code, reason = read_close(message.payload)
        if self.opened.shared:
            reason = mask_text(reason, self._rules.keys)
        self._say_goodbye(code)
        if self.lanes.running():
            said = f"{code}" if code is not None else "no code"
            text = f"the provider closed the connection with {said}: {reason}".removesuffix(": ")
            self._broken(text)
            return (BROKEN if code in (None, NORMAL) else code or BROKEN), reason or text
        return NORMAL if code is None else code, reason

    def _take(self, reader: MessageReader) -> Message | None:
        """Relay what is whole; returns the provider's close, if that has come."""
        out: list[bytes] = []
        count = 0
        closed = None
        try:
            while closed is None and (message := reader.next()) is not None:
                if message.opcode < CLOSE:
                    count += 1
                    self._event(message, out)
                elif message.opcode == PING:
                    self._answer_ping(message)
                    out.append(message.wire)
                elif message.opcode == CLOSE:
                    closed = message
                # A pong answers a ping that was passed on, and was answered before.
        finally:
            self._flush(out)
            if count:
                self._spoken_at = time.monotonic()
                self._counted(count)
        return closed

    def _event(self, message: Message, out: list[bytes]) -> None:
        payload, wire = message.payload, message.wire
        turn = self.lanes.find(payload)
        if turn is None:
            if begins_response(payload):
                turn = self._take_up(payload)
            else:
                shown = self._without_secrets(payload, None)
                out.append(wire if shown is payload else encode_frame(message.opcode, shown))
                return
        # PERF: most are deltas, in which there is no such word.
        if b'"error"' in payload:
            shown = self._without_secrets(payload, turn)
            if shown is not payload:
                payload, wire = shown, encode_frame(message.opcode, shown)
        if not turn.answered:
            turn.answered = True
            turn.begun()
        turn.recording.data(payload)
        turn.sent += len(wire)
        if turn.response.over:
            # What came before need not wait for the disk.
            self._flush(out)
            turn.recording.end(framed=True)
            turn.recording.close()
            # The client may ask again as soon as it knows.
            self.lanes.pop(turn.response.lane)
            turn.over("complete" if self._left_at is None else "left", turn.sent)
        out.append(wire)

    def _take_up(self, payload: bytes) -> Turn:
        """A response that nobody asked for just now."""
        lane = self.lanes.lane_of(payload)
        turn = self._adopt(lane, self._steers.pop(lane, b""))
        if turn is None:
            raise WrongMessage("a response that cannot be recorded", BROKEN)
        self.lanes.put(lane, turn)
        return turn

    def _without_secrets(self, payload: bytes, turn: Turn | None) -> bytes:
        """The same object where there is nothing to hide."""
        opened = self.opened
        if not opened.shared or not tells_failure(payload):
            return payload
        status = refused_status(payload)
        if status:
            answer = ProviderAnswer(status, (), payload, True, time.time(), None)
            model = turn.model if turn is not None else ""
            tell_quietly(opened.provider, Told(self.exchange, answer, model))
        shown = mask_error(payload, self._rules.keys)
        if shown == payload:
            return payload
        log.warning(
            "account masked in an error answer",
            provider=opened.provider_name,
            status=status,
            original=payload[:_LOGGED].decode("utf-8", "replace") if self._rules.quotes else "",
        )
        return shown

    def _answer_ping(self, message: Message) -> None:
        # Who waits for a provider that does not read must not keep the other from reading.
        if self._writing.acquire(blocking=False):
            try:
                self.exchange.send(encode_frame(PONG, message.payload, os.urandom(4)))
            except UpstreamCut:
                # The next read says so.
                return
            finally:
                self._writing.release()

    # -- how a response ends before its end

    def _cut(self, turn: Turn, reason: str, error_type: str) -> None:
        words = turn.recording.cut(reason, error_type)
        words = words or turn.response.error_event(error_type, reason)
        turn.recording.close()
        if self._left_at is None:
            turn.sent += len(words)
            turn.over("cut", turn.sent)
            self._show(words)
        else:
            turn.over("left", turn.sent)

    def _lose(self, turn: Turn) -> None:
        """The client has gone, and nobody reads on."""
        turn.recording.lost_client()
        turn.recording.close()
        turn.over("left", turn.sent)

    # -- writing

    def _flush(self, out: list[bytes]) -> None:
        if out and self._left_at is None:
            data = out[0] if len(out) == 1 else b"".join(out)
            if not self._client.send(data):
                self.leave()
        out.clear()

    def _show(self, payload: bytes) -> None:
        """Something of the gateway's own, for the client."""
        self._flush([encode_frame(TEXT, payload)])

    def _tell_provider(self, frame: bytes) -> None:
        with self._writing:
            self.exchange.send(frame)

    def _say_goodbye(self, code: int | None) -> None:
        if self._goodbye_said:
            return
        self._goodbye_said = True
        try:
            self._tell_provider(close_frame(code, "", os.urandom(4)))
        except UpstreamCut:
            # It has gone first.
            return


_LIMIT = {
    "type": "invalid_request_error",
    "code": LIMIT_REACHED,
    "message": "This connection is too old. Open another one to go on.",
    "param": None,
}
