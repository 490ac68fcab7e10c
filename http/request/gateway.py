"""The data plane's Falcon sink: everything that is not a probe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import falcon
import structlog
from structlog.contextvars import bind_contextvars

from aigateway.actors.codec.headers import Headers, values_of
from aigateway.actors.interception.headers import UnsafeHeader, for_client
from aigateway.actors.values.policy import content_level
from aigateway.http.logs import write_line
from aigateway.http.metrics.reasons import REASONS, Reason
from aigateway.http.request.answers import Answer, plain
from aigateway.http.request.call import Call, Trace
from aigateway.http.request.client_address import ClientAddresses
from aigateway.http.request.cors import Cors, without_cors
from aigateway.http.request.inbound import REQUEST_ID_HEADER, ClientVanished, Inbound, request_id_of
from aigateway.http.request.pipeline import INTERCEPTION_HEADER, Pipeline
from aigateway.http.request.refusals import dialect_of, shaped
from aigateway.http.request.relay import AnyBody, Finished, Relayed
from aigateway.http.request.runtime import STOPPING, Runtime, Stopping
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.tracing.service import Tracing

__all__ = ["FRONT", "Front", "Gateway"]

FRONT = "aigateway.front"
"""WSGI environment key for the request's :class:`Front`."""
BUFFERING = "X-Accel-Buffering"

log = structlog.get_logger("ai-gateway")


class Front(Protocol):
    """An answer as it goes to the server, where WSGI and Falcon have no word for it."""

    trace: Trace
    added: list[tuple[str, str]]
    """Headers of any answer, the gateway's own or a provider's."""

    def exactly(self, status: str, headers: list[tuple[str, str]], body: AnyBody) -> None:
        """Send this status line, these headers and this body, in the place of Falcon's."""

    def close_behind(self) -> None:
        """Close the connection behind the answer."""

    def instead(self, status: str, headers: list[tuple[str, str]]) -> bool:
        """Replace a head that was not sent yet; False where that cannot be done."""


class Gateway:
    """Takes each request through the pipeline and relays the answer."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._addresses: ClientAddresses | None = None
        self._cors = Cors(settings.cors_origins) if settings.cors_origins else None
        if settings.trusted_proxies:
            self._addresses = ClientAddresses(settings.trusted_proxies)
        self.metrics = _metrics(settings)
        self.tracing = _tracing(settings)
        self.pipeline = Pipeline(runtime, settings, self.metrics)
        self.admission = self.pipeline.admission
        self.pipeline.sockets.calls = self
        self.calls: set[Call] = set()
        """Requests that are being served."""

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """Falcon's sink: answers ``req``."""
        self._runtime.start()
        front: Front = req.env[FRONT]
        call = Call(Inbound.of(req.env), time.monotonic())
        if self._addresses is not None:
            inbound = call.inbound
            inbound.client_ip = self._addresses.of(inbound.peer_ip, inbound.headers)
        call.request_id = request_id_of(call.inbound)
        # On every line that is logged while this request is served; the next one on this
        # connection, or in this thread, puts its own in the place.
        bind_contextvars(request_id=call.request_id)
        call.trace = front.trace
        self.calls.add(call)
        try:
            if self._cors is not None:
                front.added = self._cors.headers(call.inbound)
                if (preflight := self._cors.preflight(call.inbound)) is not None:
                    raise preflight
            if self._runtime.draining:
                raise _stopping()
            relayed = self._run(call)
        except Answer as answer:
            self._answer(front, resp, call, answer)
        except BaseException as ex:
            # A fault of ours, which Falcon's error handler answers, or the worker is ending.
            if isinstance(ex, Exception):
                _note(call, Reason.FAULT)
            self._over(call, 500, Finished("failed", 0))
            raise
        else:
            self._relay(front, call, relayed)

    def _run(self, call: Call) -> Relayed:
        """Up to the head of the answer; without one the place is free again."""
        try:
            return self.pipeline.run(call)
        except ClientVanished as ex:
            self._leave(call)
            text = "incomplete request body"
            raise plain(400, text, reason=Reason.BAD_REQUEST, close=True) from ex
        except Stopping as ex:
            self._leave(call)
            raise _stopping() from ex
        except BaseException:
            self._leave(call)
            raise

    def _leave(self, call: Call) -> None:
        """Give the request's place back, if it got one."""
        if call.admitted:
            call.admitted = False
            self.admission.leave()

    # -- requests on WebSockets

    def began(self, call: Call) -> None:
        """A request on a WebSocket is being served."""
        self.calls.add(call)

    def ended(self, call: Call, status: int, how: Finished, *, failed: bool) -> None:
        """It is over; its place is free."""
        self._leave(call)
        self._over(call, status, how, failed=failed)

    def _over(self, call: Call, status: int, how: Finished, *, failed: bool = False) -> None:
        """Nothing more is sent: log it, count it, forget it."""
        self.calls.discard(call)
        seconds = time.monotonic() - call.began
        overhead = max(0.0, seconds - call.stages.get("first_byte", 0.0) - how.upstream_seconds)
        _log(call, status, how, seconds, overhead)
        if self.metrics is not None:
            _count(self.metrics, call, how, failed, seconds, overhead)

    def _relay(self, front: Front, call: Call, relayed: Relayed) -> None:
        body = relayed.body

        def finished(how: Finished) -> None:
            self._leave(call)
            if how.outcome == "refused":
                _note(call, Reason.STOPPING)
            self._over(call, how.status or relayed.status, how, failed=body.failed)
            call.trace.finished(how.outcome)

        def instead(status: int, data: bytes) -> bool:
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
                ("Retry-After", "1"),
                *_own_headers(call),
            ]
            return front.instead(f"{status} Service Unavailable", headers)

        body.finished, body.instead = finished, instead
        call.trace.relaying()
        status = f"{relayed.status} {relayed.reason or 'Unknown'}"
        headers = _headers(call, relayed)
        front.exactly(status, without_cors(headers) if self._cors is not None else headers, body)

    def _answer(self, front: Front, resp: falcon.Response, call: Call, answer: Answer) -> None:
        """The gateway answers by itself."""
        said = shaped(answer, dialect_of(call.inbound.path, self._runtime.tree))
        resp.status = said.status
        resp.data = said.body
        resp.content_type = said.content_type
        for name, value in (*said.headers, *_own_headers(call)):
            resp.append_header(name, value)
        if said.close or self._runtime.draining:
            front.close_behind()
        answered = answer.status < 400
        if not answered:
            # An upstream's words may quote the request.
            recorded = content_level(self.pipeline.settings.content, call.rules) != "none"
            own = answer.text or recorded
            call.trace.refused(said.status, said.body if own else b"")
        vanished = isinstance(answer.__cause__, ClientVanished)
        if not answered and not vanished:
            _note(call, answer.reason, answer.rule)
        outcome = "left" if vanished else "complete" if answered else "refused"
        self._over(call, answer.status, Finished(outcome, len(said.body)))


def _headers(call: Call, relayed: Relayed) -> list[tuple[str, str]]:
    """What the client gets of the upstream's headers, and the gateway's own."""
    try:
        headers = for_client(relayed.headers)
    except UnsafeHeader:
        headers = [("Content-Type", "application/octet-stream")]
    left_out = set()
    if relayed.event_stream:
        # Pings or an error event may change the length that was declared.
        left_out.add("content-length")
    streaming = relayed.event_stream or _is_event_stream(headers)
    if streaming:
        # nginx holds a stream back until it has a buffer of it, unless it is told not to.
        left_out.add(BUFFERING.lower())
    if left_out:
        headers = [(name, value) for name, value in headers if name.lower() not in left_out]
    if streaming:
        headers.append((BUFFERING, "no"))
    return [*headers, *_own_headers(call)]


def _own_headers(call: Call) -> list[tuple[str, str]]:
    headers = [(REQUEST_ID_HEADER, call.request_id)]
    if call.interception_id:
        headers.append((INTERCEPTION_HEADER, call.interception_id))
    if call.cap_warning is not None:
        headers.append(call.cap_warning)
    return headers


def _note(call: Call, reason: Reason, rule: str = "") -> None:
    """Why it is refused, for the log line and the metric."""
    call.reason = str(reason)
    call.rule = rule or REASONS[reason]


def _count(
    metrics: RequestMetrics,
    call: Call,
    how: Finished,
    failed: bool,
    seconds: float,
    overhead: float,
) -> None:
    if call.reason:
        metrics.refused(call.reason)
    if call.recorded:
        failed = failed or how.outcome in ("refused", "failed", "cut")
        metrics.ended(
            provider=call.provider_name,
            model=call.model,
            route=call.route,
            method=call.inbound.method,
            initiator=call.user_id,
            client=call.client,
            failed=failed,
            seconds=seconds,
        )
    elif call.stage == "relay" and not call.upgraded and how.outcome != "refused":
        metrics.passed_through(call.provider_name, call.route, call.inbound.method)
    if call.provider is not None and (call.recorded or not call.upgraded):
        # A session's time is no request's.
        call.stages[call.stage] = max(0.0, seconds - sum(call.stages.values()))
        metrics.times.add(call.provider_name, call.stages, overhead)


def _log(call: Call, status: int, how: Finished, seconds: float, overhead: float) -> None:
    inbound = call.inbound
    fields = {
        "request_id": call.request_id,
        "method": inbound.method,
        "path": inbound.shown_path,
        "status": status,
        "client_ip": inbound.client_ip,
        "outcome": how.outcome,
        "reason": call.reason,
        "rule": call.rule,
        "interception_id": call.interception_id,
        "user_id": call.user_id,
        "provider": call.provider_name,
        "model": call.model,
        "duration_ms": round(seconds * 1000, 1),
        "overhead_ms": round(overhead * 1000, 1),
        "bytes": how.sent,
        "aibridgeproxy_id": call.proxy_id,
    }
    shown = {name: value for name, value in fields.items() if value != ""}
    if inbound.method == "HEAD" and call.reason == Reason.NO_KEY:
        # How clients look whether anybody is there: no news.
        log.debug("request", **shown)
        return
    write_line("info", "ai-gateway", "request", shown)


def _is_event_stream(headers: Headers) -> bool:
    kinds = values_of(headers, "content-type")
    return any(kind.lower().startswith("text/event-stream") for kind in kinds)


def _stopping() -> Answer:
    return plain(503, STOPPING, reason=Reason.STOPPING, retry_after=1, close=True)


def _metrics(settings: Settings) -> RequestMetrics | None:
    if not settings.prometheus_enable:
        return None
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.metrics.series import Series

    return RequestMetrics(Series(), initiators=settings.metrics_initiator_label)


def _tracing(settings: Settings) -> Tracing | None:
    if not settings.traces:
        return None
    from aigateway.http.tracing.service import Tracing

    return Tracing(settings)
