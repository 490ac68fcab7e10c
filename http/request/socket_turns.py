"""What each message of a client's WebSocket becomes: a response that is recorded, or an error."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from attrs import define, field
from structlog.contextvars import bind_contextvars

from aigateway.actors.codec.headers import HeaderList
from aigateway.actors.codec.splice import set_each
from aigateway.actors.codec.websocket import TEXT, Message, encode_frame
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.headers import AgentFirewall, Credential, Presented
from aigateway.actors.interception.interface import InvalidRequest
from aigateway.actors.interception.responses_socket import (
    BUSY,
    CREATE,
    HARMLESS,
    STEER,
    ClientMessage,
    SocketResponse,
    error_message_of,
    headers_of,
    open_response,
    read_client_message,
    steered_request,
)
from aigateway.actors.interception.routes import RESPONSES
from aigateway.actors.interception.socket_prompts import SocketPrompts
from aigateway.actors.providers.recording import Recording, new_interception_id
from aigateway.actors.providers.request import Opened
from aigateway.actors.providers.socket_session import LIMIT_REACHED, SocketSession, Turn
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import REASONS, Reason
from aigateway.http.request.admission import authorize
from aigateway.http.request.answers import Answer, api_error
from aigateway.http.request.inbound import Call
from aigateway.http.request.refusals import shaped
from aigateway.http.request.relay import Finished
from aigateway.http.request.runtime import STOPPING, Runtime, Stopping
from aigateway.http.request.socket_client import SocketClient

if TYPE_CHECKING:
    from aigateway.http.request.pipeline import Pipeline

__all__ = ["Calls", "SocketTurns"]

METHOD = "WEBSOCKET"
"""In the place of an HTTP method, for logs and metrics."""

log = structlog.get_logger("ai-gateway")


class Calls(Protocol):
    """Where requests are counted, logged and given their places back."""

    def began(self, call: Call) -> None:
        """It is being served."""

    def ended(self, call: Call, status: int, how: Finished, *, failed: bool) -> None:
        """Nothing more is sent, and its place is free."""


@define(eq=False)
class SocketTurns:
    """The client's side of one session: reads messages until there are no more."""

    runtime: Runtime
    pipeline: Pipeline
    calls: Calls
    handshake: Call
    presented: Presented = field(repr=False)
    config: ProviderConfig
    answering: ProviderConfig
    """Of the provider that has answered the handshake."""
    opened: Opened
    credential: Credential = field(repr=False)
    firewall: AgentFirewall | None
    client: SocketClient
    counted: Callable[[int], None]
    """Counts the client's messages."""
    session: SocketSession = field(init=False)
    _caller: Caller | None = None
    """As the control plane knew the key when the last request came."""
    _models: dict[str | None, str] = field(factory=dict)
    """The model of the last response in each lane, as the client asked for it."""
    _headers: dict[str | None, HeaderList] = field(factory=dict)
    """The headers of the last request in each lane."""
    _prompts: SocketPrompts = field(factory=SocketPrompts)

    # -- messages

    def take(self, message: Message) -> None:
        """See to a message of the client's."""
        self.counted(1)
        try:
            asked = read_client_message(message.payload)
        except InvalidRequest as ex:
            self._say(ex.status, ex.body, None)
            return
        if asked.kind == CREATE:
            self._create(message, asked)
        elif asked.kind == STEER:
            self._steer(message, asked)
        elif asked.kind in HARMLESS:
            self.session.pass_on(message.opcode, message.payload)
        else:
            text = f"messages of type {asked.kind!r} are not supported by AI Gateway"
            answer = api_error(RESPONSES, 400, text, reason=Reason.BAD_REQUEST)
            self._refuse(self._call(message.payload, asked), answer, asked.lane)

    def _create(self, message: Message, asked: ClientMessage) -> None:
        call, lane, lanes = self._call(message.payload, asked), asked.lane, self.session.lanes
        if self.session.expired:
            self._refuse(call, _too_old(), lane)
            self.session.end_if_idle()
            return
        if not lanes.take(lane):
            self._refuse(call, api_error(RESPONSES, 400, BUSY, reason=Reason.BAD_REQUEST), lane)
            return
        turn = None
        try:
            self._ask_whether(call)
            call.begin("read")
            self.pipeline.admit(call)
            turn = self._turn(call, message.payload, lane)
        except Answer as answer:
            self._refuse(call, answer, lane)
        except Stopping:
            self._refuse(call, _stopping(), lane)
        except BaseException:
            self._end(call, 500, Finished("failed", 0), failed=True)
            raise
        finally:
            if turn is None:
                lanes.free(lane)
                if self.session.ending:
                    self.session.end_if_idle()
        if turn is not None:
            payload = message.payload
            if self.answering.models is not None:
                payload = set_each(payload, msgspec.json.encode(turn.model), "model")
            call.begin("first_byte")
            call.trace.calling([])
            self.session.start(turn, message.opcode, payload)

    def _steer(self, message: Message, asked: ClientMessage) -> None:
        call = self._call(message.payload, asked)
        try:
            self._ask_whether(call)
        except Answer as answer:
            self._refuse(call, answer, asked.lane)
        except Stopping:
            self._refuse(call, _stopping(), asked.lane)
        else:
            self._end(call, 202, Finished("complete", 0), failed=False)
            self.session.steer(asked.lane, message.opcode, message.payload)

    def adopt(self, lane: str | None, steer: bytes) -> Turn | None:
        """Have a response recorded that the provider begins by itself; None: it cannot be.

        Called by the one who reads the provider.
        """
        payload = steered_request(steer, self._models.get(lane, ""))
        call = self._call(payload)
        call.inbound.headers = self._headers.get(lane, call.inbound.headers)
        call.caller = self._caller or self.handshake.caller
        try:
            self.pipeline.admit(call)
            return self._turn(call, payload, lane)
        except Answer as answer:
            self._note(call, answer)
            log.error(
                "a response that nobody asked for cannot be recorded",
                status=answer.status,
                reason=call.reason,
                error=answer.text,
            )
            self._end(call, answer.status, Finished("refused", 0), failed=True)
        except Stopping:
            self._end(call, 503, Finished("refused", 0), failed=True)
        return None

    # -- one response

    def _call(self, payload: bytes, asked: ClientMessage | None = None) -> Call:
        before = self.handshake
        inbound = copy.copy(before.inbound)
        if asked is not None:
            inbound.headers = headers_of(inbound.headers, asked)
        inbound.method = METHOD
        inbound.body = payload
        call = Call(inbound, time.monotonic(), request_id=f"{random.getrandbits(64):016x}")
        bind_contextvars(request_id=call.request_id)
        call.proxy_id, call.auth_mode = before.proxy_id, before.auth_mode
        call.provider, call.route = before.provider, before.route
        call.upgraded = True
        call.trace = before.trace.turn()
        self.calls.began(call)
        return call

    def _ask_whether(self, call: Call) -> None:
        """Whether this user may; raises an Answer, or Stopping."""
        if self.runtime.draining or self.session.ending:
            raise Stopping
        if self.pipeline.rate_limit is not None:
            self.pipeline.rate_limit.check(call.inbound)
        call.begin("authorize")
        pipeline = self.pipeline
        caller = authorize(call, self.presented, self.runtime, pipeline.settings.max_wait)
        pipeline.let_in(caller, self.config)
        self._caller = caller

    def _turn(self, call: Call, payload: bytes, lane: str | None) -> Turn:
        """A response whose start is recorded; raises an Answer."""
        config = self.config
        assert call.caller is not None
        call.trace.intercept(
            provider=config.name, kind=config.type, user=call.caller.user_id,
            api=RESPONSES, route=call.route,
        )  # fmt: skip
        call.interception_id = new_interception_id()
        try:
            response = open_response(call.interception_id, payload, call.inbound.headers, lane)
        except InvalidRequest as ex:
            call.interception_id = ""
            raise Answer(ex.status, ex.body, "application/json") from ex
        model = self.pipeline.choose_model(call, config, RESPONSES, response.model)
        if self.answering is not config:
            # Another one of the group cannot be asked on this connection.
            model = self.pipeline.choose_model(call, self.answering, RESPONSES, response.model)
        recording = self.pipeline.record(
            call, RESPONSES, response, response, self.credential, self.firewall,
            lambda key, prompt: self._prompts.fingerprint(key, prompt, response),
        )  # fmt: skip
        if response.refusal is not None:
            recording.close()
            raise Answer(*response.refusal, "application/json", reason=Reason.BAD_REQUEST)
        recording.answered_by(self.opened, model, asked=(config.name, call.model))
        self._models[lane], self._headers[lane] = response.model, call.inbound.headers
        return self._running(call, response, recording, model)

    def _running(
        self, call: Call, response: SocketResponse, recording: Recording, model: str
    ) -> Turn:
        waiting_since = time.monotonic()

        def begun() -> None:
            nonlocal waiting_since
            waiting_since = time.monotonic()
            call.begin("relay")
            call.trace.answered()

        def over(outcome: str, sent: int) -> None:
            waited = time.monotonic() - waiting_since
            failed = response.outcome().error_type is not None
            if not failed:
                self._prompts.answered(response)
            self._end(call, response.status, Finished(outcome, sent, waited), failed=failed)

        return Turn(response, model, recording, begun, over)

    # -- what is said

    def _refuse(self, call: Call, answer: Answer, lane: str | None) -> None:
        said = shaped(answer, RESPONSES)
        self._note(call, answer)
        call.trace.refused(said.status, said.body if answer.text else b"")
        sent = self._say(said.status, said.body, lane)
        self._end(call, said.status, Finished("refused", sent), failed=True)

    def _say(self, status: int, body: bytes, lane: str | None) -> int:
        frame = encode_frame(TEXT, error_message_of(status, body, lane))
        self.client.send(frame)
        return len(frame)

    def _note(self, call: Call, answer: Answer) -> None:
        call.reason = str(answer.reason)
        call.rule = answer.rule or REASONS[answer.reason]

    def _end(self, call: Call, status: int, how: Finished, *, failed: bool) -> None:
        self.calls.ended(call, status, how, failed=failed)
        call.trace.finished(how.outcome)


def _stopping() -> Answer:
    return api_error(RESPONSES, 503, STOPPING, reason=Reason.STOPPING, retry_after=1)


def _too_old() -> Answer:
    text = "This connection is too old. Open another one to go on."
    body = error_body(RESPONSES, 400, text, "invalid_request_error", LIMIT_REACHED)
    return Answer(400, body, "application/json", reason=Reason.WEBSOCKET)
