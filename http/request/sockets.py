"""WebSockets: who gets one, and who is to use HTTP.

Clients of the Responses API try a WebSocket first.  On 426 they go on over HTTP at once, on other
refusals some try again for seconds, so 426 it is wherever HTTP would do: where sessions are
switched off, over the caps, with tools that the gateway injects, and when the provider has none.
Only what HTTP would be refused for too (the token, the budget, the keys) is answered as there.

A handshake is answered when the provider has answered one.
"""

from __future__ import annotations

import base64
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from aigateway.actors.codec.headers import Headers, first_of, joined
from aigateway.actors.codec.websocket import (
    CLOSE,
    PING,
    PONG,
    WrongMessage,
    accept_key,
    encode_frame,
    read_close,
)
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.conversation import NO_OPENING, affinity_of
from aigateway.actors.interception.headers import (
    BYOK,
    BadAgentFirewall,
    Credential,
    Presented,
    UnsafeHeader,
    agent_firewall,
    for_client,
    identify,
)
from aigateway.actors.interception.routes import RESPONSES, Intercept
from aigateway.actors.providers.request import Opened, Refused, UpstreamRequest
from aigateway.actors.providers.socket_session import SessionRules, SocketSession
from aigateway.actors.upstream.exchange import SWITCHED
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.admission import Target
from aigateway.http.request.answers import Answer, plain
from aigateway.http.request.inbound import REQUEST_ID_HEADER, Call
from aigateway.http.request.relay import (
    CutAnswer,
    Finished,
    OpenAnswer,
    Patience,
    Relayed,
    actor_headers,
    headers_for,
    read_whole,
    refusal_answer,
)
from aigateway.http.request.runtime import Runtime
from aigateway.http.request.socket_client import SocketClient
from aigateway.http.request.socket_turns import Calls, SocketTurns

if TYPE_CHECKING:
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.request.pipeline import Pipeline

__all__ = ["SessionBody", "Sockets"]

USE_HTTP = "WebSocket transport is not supported, use HTTP"
REMEMBERED = 600.0
"""Seconds for which a provider that took no handshake is not asked again."""
HANDSHAKE_TIME = 15.0
"""Seconds in which a provider has to answer a handshake: over HTTP its client would be served."""
AS_OVER_HTTP = frozenset({401, 403, 429})
"""Refusals of a handshake that a request over HTTP would meet too."""
VERSION = "13"
"""https://www.rfc-editor.org/rfc/rfc6455#section-4.1, the only one there is."""
ROUTE = "websocket"
"""What a key that rests for handshakes rests for."""

log = structlog.get_logger("ai-gateway")


class Sockets:
    """All WebSockets of this process."""

    def __init__(
        self, runtime: Runtime, pipeline: Pipeline, metrics: RequestMetrics | None
    ) -> None:
        self._runtime = runtime
        self._pipeline = pipeline
        self._settings = settings = pipeline.settings
        self._metrics = metrics
        self.calls: Calls | None = None
        """Set before the first request."""
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self._bodies: set[SessionBody] = set()
        self._without: dict[tuple[str, str], float] = {}
        """Providers that have none, by name and address, and until when that is believed."""
        self._most = math.ceil(settings.websocket_max / max(1, settings.workers))
        if settings.worker_class == "gthread":
            # Each takes a thread for as long as it lasts.
            half = max(1, settings.threads // 2)
            self._most = min(self._most, half) if self._most else half

    # -- for those who look, or end the process

    def __len__(self) -> int:
        return sum(self._users.values())

    def retire(self) -> None:
        """Let all end as soon as nothing runs on them.  Never blocks."""
        for body in list(self._bodies):
            body.session.retire()

    # -- handshakes

    def open(
        self, call: Call, presented: Presented, caller: Caller, target: Target, route: Intercept
    ) -> Relayed:
        """The session of a handshake; raises the Answer to one that gets none."""
        call.upgraded = True
        config = target.provider
        sock = call.inbound.environ.get("gunicorn.socket")
        self._check(call, presented, caller, config, route, sock)
        self._take_place(caller.user_id)
        try:
            return self._open(call, presented, caller, target, sock)
        except BaseException:
            self.free_place(caller.user_id)
            raise

    def _check(
        self,
        call: Call,
        presented: Presented,
        caller: Caller,
        config: ProviderConfig,
        route: Intercept,
        sock: Any,
    ) -> None:
        inbound, settings = call.inbound, self._settings
        if not settings.responses_websocket:
            raise self._use_http("off")
        if route.api != RESPONSES or inbound.method != "GET" or sock is None:
            raise self._use_http("path")
        if not caller.websocket:
            raise self._use_http("coder")
        if not config.websocket or self._without.get(_place(config), 0.0) > time.monotonic():
            raise self._use_http("provider")
        if (
            inbound.header("Upgrade").lower() != "websocket"
            or inbound.header("Sec-WebSocket-Version") != VERSION
            or not inbound.header("Sec-WebSocket-Key")
        ):
            raise self._use_http("handshake", ("Sec-WebSocket-Version", VERSION))
        injector = self._pipeline.injector
        if injector is not None and injector.has_tools(call, presented.token):
            raise self._use_http("tools")

    def _take_place(self, user: str) -> None:
        most_of_user = self._settings.websocket_user_max
        with self._lock:
            if self._most and self._users.total() >= self._most:
                raise self._use_http("replica_cap")
            if most_of_user and self._users[user] >= most_of_user:
                raise self._use_http("user_cap")
            self._users[user] += 1
        if self._metrics is not None:
            self._metrics.series.websocket_sessions.inc()

    def free_place(self, user: str) -> None:
        """A session has ended."""
        with self._lock:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user]
        if self._metrics is not None:
            self._metrics.series.websocket_sessions.dec()

    def _use_http(self, why: str, *headers: tuple[str, str]) -> Answer:
        if self._metrics is not None:
            self._metrics.handshake_refused(why)
        headers = (("Upgrade", "HTTP/1.1"), *headers)
        return plain(426, USE_HTTP, reason=Reason.WEBSOCKET, rule=_RULES[why], headers=headers)

    def _open(
        self, call: Call, presented: Presented, caller: Caller, target: Target, sock: Any
    ) -> Relayed:
        config = target.provider
        try:
            firewall = agent_firewall(call.inbound.headers)
        except BadAgentFirewall as ex:
            raise plain(400, str(ex), reason=Reason.BAD_REQUEST) from ex
        credential = self._pipeline.credential(config, presented, RESPONSES)
        key = base64.b64encode(os.urandom(16)).decode()
        opened = self._shake_hands(call, presented, caller, target, credential, key)
        settings = self._settings
        answering = self._pipeline.upstream.provider_of(opened) or config
        client = SocketClient(
            sock,
            call.inbound.read_ahead(),
            limit=settings.max_body_size,
            bodies=self._pipeline.bodies,
            timeout=settings.body_timeout,
        )
        assert self.calls is not None
        metrics = self._metrics
        turns = SocketTurns(
            self._runtime, self._pipeline, self.calls, call, presented, config, answering,
            opened, credential, firewall, client,
            _uncounted if metrics is None else metrics.messages_of("client"),
        )  # fmt: skip
        rules = SessionRules(
            until=time.monotonic() + settings.websocket_max_age,
            idle_timeout=answering.idle_timeout,
            drain_timeout=settings.drain_timeout,
            keys=self._runtime.tree.keys_of(answering),
            quotes=answering.quoted,
        )
        turns.session = SocketSession(
            opened, client, rules,
            adopt=turns.adopt,
            counted=_uncounted if metrics is None else metrics.messages_of("provider"),
        )  # fmt: skip
        headers = _for_client(opened.exchange.headers, call)
        head = _head(headers, call.inbound.header("Sec-WebSocket-Key"))
        body = SessionBody(self, turns, head, caller.user_id)
        with self._lock:
            self._bodies.add(body)
        return Relayed(SWITCHED, "Switching Protocols", headers, body)

    def forget(self, body: SessionBody) -> None:
        """Its client has gone."""
        with self._lock:
            self._bodies.discard(body)

    def _shake_hands(
        self,
        call: Call,
        presented: Presented,
        caller: Caller,
        target: Target,
        credential: Credential,
        key: str,
    ) -> Opened:
        """The provider's answer to a handshake of ours; raises the Answer for the client."""
        config, inbound = target.provider, call.inbound
        own_key = credential.kind == BYOK
        sent = [field for field in presented.remaining_headers if not _is_handshakes(field[0])]
        headers = headers_for(sent, auth=(), actor=actor_headers(config, caller), own_key=own_key)
        headers += [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", VERSION),
            ("Sec-WebSocket-Key", key),
        ]
        info = identify(inbound.headers, bytes)
        call.client = info.client
        call.begin("provider")
        request = UpstreamRequest(
            method="GET",
            rest=target.rest,
            query=inbound.query,
            headers=call.trace.calling(headers),
            body=b"",
            credential=credential if own_key else None,
            provider=config.name,
            passed=ROUTE,
            affinity=affinity_of(info.session_id, caller.user_id, NO_OPENING),
            api=RESPONSES,
            rules=caller.rules,
        )
        result = self._pipeline.upstream.perform(config, request, within=HANDSHAKE_TIME)
        if isinstance(result, Refused):
            if result.status in AS_OVER_HTTP:
                raise refusal_answer(RESPONSES, result)
            log.warning("no WebSocket", provider=config.name, error=result.message)
            raise self._use_http("provider")
        exchange = result.exchange
        if exchange.switched and _is_accepted(exchange.headers, key):
            return result
        status = exchange.status
        if status in AS_OVER_HTTP:
            headers = _for_client(exchange.headers, call)
            answer = OpenAnswer(result, Patience(0.0, HANDSHAKE_TIME))
            status, data = read_whole(answer)
            kept = [each for each in headers if each[0].lower() not in _OF_THE_BODY]
            content_type = first_of(headers, "content-type") or "application/json"
            raise Answer(status, data, content_type, tuple(kept), reason=Reason.PROVIDER)
        exchange.close()
        result.give_back()
        if status < 500 or status == 501:
            self._without[_place(config)] = time.monotonic() + REMEMBERED
        log.info("the provider has no WebSocket", provider=config.name, status=status)
        raise self._use_http("provider")


class SessionBody:
    """What a server iterates over in the place of a body: serves the session until it is over."""

    finished: Callable[[Finished], None]
    instead: Callable[[int, bytes], bool] | None = None
    failed = False

    def __init__(self, sockets: Sockets, turns: SocketTurns, head: bytes, user: str) -> None:
        self._sockets = sockets
        self._turns = turns
        self._head = head
        self._user = user
        self.finished = _unheard
        self._began = time.monotonic()
        self._over = False

    @property
    def session(self) -> SocketSession:
        return self._turns.session

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        turns = self._turns
        outcome = "left"
        try:
            if turns.client.send(self._head):
                if turns.opened.converse(turns.session):
                    outcome = self._serve()
                else:
                    turns.session.abandon()
        finally:
            self._end(outcome)
        # The server must not touch this connection any more.
        raise CutAnswer

    def _serve(self) -> str:
        turns, client, session = self._turns, self._turns.client, self._turns.session
        while True:
            try:
                message = client.read()
            except WrongMessage as ex:
                client.close(ex.code, str(ex))
                return "refused"
            if message is None:
                return "left"
            if message.opcode < CLOSE:
                turns.take(message)
            elif message.opcode == PING:
                client.send(encode_frame(PONG, message.payload))
                session.pass_on(PING, message.payload)
            elif message.opcode == CLOSE:
                code, reason = read_close(message.payload)
                client.close(code, reason)
                session.leave(code)
                return "complete"

    def close(self) -> None:
        """Called by the server in any case."""
        if not self._over:
            # Nobody has begun with it, so there is no WebSocket yet to be closed.
            self._turns.client.shut()
            self._turns.session.abandon()
            self._turns.opened.give_back()
            self._end("left")

    def _end(self, outcome: str) -> None:
        if self._over:
            return
        self._over = True
        turns = self._turns
        turns.session.leave()
        turns.client.end()
        self._sockets.forget(self)
        self._sockets.free_place(self._user)
        finished = self.finished
        # As an answer's body does: it holds this one.
        self.finished = _unheard
        seconds = time.monotonic() - self._began
        finished(Finished(outcome, turns.client.sent, seconds))


def _place(config: ProviderConfig) -> tuple[str, str]:
    return config.name, config.base_url


def _is_handshakes(name: str) -> bool:
    """Whether a header is about the client's own WebSocket: extensions are not spoken, and as a
    subprotocol some clients name their key."""
    return name.lower().startswith("sec-websocket-") or name.lower() == "content-encoding"


def _is_accepted(headers: Headers, key: str) -> bool:
    return (
        first_of(headers, "sec-websocket-accept") == accept_key(key)
        and not joined(headers, "sec-websocket-extensions")
        and not joined(headers, "sec-websocket-protocol")
    )


def _for_client(headers: Headers, call: Call) -> list[tuple[str, str]]:
    try:
        kept = for_client(headers)
    except UnsafeHeader:
        kept = []
    kept = [field for field in kept if not _is_handshakes(field[0])]
    return [*kept, (REQUEST_ID_HEADER, call.request_id)]


def _head(headers: Headers, key: str) -> bytes:
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
        *(f"{name}: {value}" for name, value in headers if name.lower() not in _OF_THE_BODY),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _unheard(_how: Finished) -> None:
    """Nobody waits for the end, or everybody has heard of it."""


def _uncounted(_messages: int) -> None:
    """Metrics are switched off."""


_OF_THE_BODY = frozenset({"content-type", "content-length", "content-encoding"})
_RULES = {
    "coder": "the Coder deployment does not allow it",
    "handshake": "the handshake is not one",
    "off": "off: --responses-websocket",
    "path": "a WebSocket where there is none",
    "provider": "the provider has none",
    "replica_cap": "over --websocket-max",
    "tools": "tools are injected for this user",
    "user_cap": "over --websocket-user-max",
}
"""Why a handshake is refused: the label of the metric, and the rule in the log."""
