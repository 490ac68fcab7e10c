"""The data plane's Falcon sink: everything that is not a probe."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import falcon
from structlog.contextvars import bind_contextvars

from aigateway.actors.codec.header_list import Headers
from aigateway.actors.interception.headers import UnsafeHeader, for_client
from aigateway.actors.providers.messages import Opened
from aigateway.actors.providers.recording import Recording
from aigateway.actors.upstream.errors import GatewayEnds
from aigateway.http.logs import write_line
from aigateway.http.request.answers import Answer, api_error, plain
from aigateway.http.request.call import Call
from aigateway.http.request.inbound import ClientVanished, Inbound
from aigateway.http.request.inflight import STOPPING, Stopping
from aigateway.http.request.pipeline import INTERCEPTION_HEADER, Pipeline
from aigateway.http.request.refusals import dialect_of, shaped
from aigateway.http.request.relay import Finished, InterceptedBody, PassthroughBody
from aigateway.http.request.request_id import REQUEST_ID_HEADER, request_id_of
from aigateway.http.request.runtime import Runtime
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.tracing.service import Tracing

__all__ = ["ANEW", "CLOSE_BEHIND", "EXACT_HEAD", "TRACE", "Gateway"]

EXACT_HEAD = "aigateway.head"
"""WSGI environment key for a status line and headers to send exactly as they are."""
CLOSE_BEHIND = "aigateway.close"
"""WSGI environment key: close the connection behind the answer."""
BUFFERING = "X-Accel-Buffering"
ANEW = "aigateway.anew"
"""WSGI environment key: a function that replaces a head that was not sent yet."""
TRACE = "aigateway.trace"
"""WSGI environment key for the request's :class:`RequestTrace`, if it is traced."""


class Gateway:
    """Takes each request through the pipeline and relays the answer."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self.metrics = _metrics(settings)
        self.tracing = _tracing(settings)
        self.pipeline = Pipeline(runtime, settings, self.metrics)
        self.admission = self.pipeline.admission
        self.calls: set[Call] = set()
        """Requests that are being served."""

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """Falcon's sink: answers ``req``."""
        self._runtime.start()
        call = Call(Inbound.of(req.env), time.monotonic())
        call.request_id = request_id_of(call.inbound)
        # On every line that is logged while this request is served; the next one on this
        # connection, or in this thread, puts its own in the place.
        bind_contextvars(request_id=call.request_id)
        if self.tracing is not None:
            call.trace = req.env.get(TRACE)
        self.calls.add(call)
        try:
            if self._runtime.draining:
                raise _stopping()
            opened, recording = self._run(call)
        except Answer as answer:
            said = shaped(answer, dialect_of(call.inbound.path, self._runtime.tree))
            self._answer(req, resp, said)
            resp.append_header(REQUEST_ID_HEADER, call.request_id)
            if call.interception_id:
                resp.append_header(INTERCEPTION_HEADER, call.interception_id)
            answered = answer.status < 400
            if call.trace is not None and not answered:
                # An upstream's words may quote the request.
                own = answer.text or self.pipeline.settings.content != "none"
                call.trace.refused(said.status, said.body if own else b"")
            vanished = isinstance(answer.__cause__, ClientVanished)
            outcome = "left" if vanished else "complete" if answered else "refused"
            self._over(call, answer.status, Finished(outcome, len(said.body), 0.0))
        except BaseException:
            # A fault of ours, which Falcon's error handler answers, or the worker is ending.
            self._over(call, 500, Finished("failed", 0, 0.0))
            raise
        else:
            self._relay(req, resp, call, opened, recording)

    def _run(self, call: Call) -> tuple[Opened, Recording | None]:
        """Up to the head of the answer; without one the place is free again."""
        try:
            return self.pipeline.run(call)
        except ClientVanished as ex:
            self._leave(call)
            raise plain(400, "incomplete request body", close=True) from ex
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

    def _over(
        self, call: Call, status: int, how: Finished, recording: Recording | None = None
    ) -> None:
        """Nothing more is sent: log it, count it, forget it."""
        self.calls.discard(call)
        self._log(call, status, how)
        self._count(call, how, recording)

    def _relay(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        call: Call,
        opened: Opened,
        recording: Recording | None,
    ) -> None:
        exchange = opened.exchange
        status = exchange.status

        def finished(how: Finished) -> None:
            self._leave(call)
            self._over(call, how.status or status, how, recording)
            if call.trace is not None:
                call.trace.finished(how.outcome)

        try:
            headers = for_client(call.answer_headers or exchange.headers)
        except UnsafeHeader:
            headers = [("Content-Type", "application/octet-stream")]
        body: Any
        if recording is not None:
            if recording.interception.event_stream:
                # Pings or an error event may change the length that was declared.
                headers = [(n, value) for n, value in headers if n.lower() != "content-length"]
            headers.append((INTERCEPTION_HEADER, call.interception_id))
            if call.make_body is None:
                body = InterceptedBody(opened, recording, call.patience, finished)
            else:
                body = call.make_body(opened, finished)
        elif call.dump is not None:
            body = call.dump.passthrough(opened, call.patience, finished)
            body.watch = call.watch
        else:
            body = PassthroughBody(opened, call.patience, finished)
            body.watch = call.watch
        streaming = recording is not None and recording.interception.event_stream
        if streaming or _is_event_stream(headers):
            # nginx holds a stream back until it has a buffer of it, unless it is told not to.
            headers = [(n, value) for n, value in headers if n.lower() != BUFFERING.lower()]
            headers.append((BUFFERING, "no"))
        headers.append((REQUEST_ID_HEADER, call.request_id))
        body.instead = partial(_instead, req, call, recording)
        resp.stream = body
        if call.trace is not None:
            call.trace.relaying()
        reason = exchange.reason or "Unknown"
        req.env[EXACT_HEAD] = (f"{status} {reason}", headers)

    def _answer(self, req: falcon.Request, resp: falcon.Response, answer: Answer) -> None:
        resp.status = answer.status
        resp.data = answer.body
        resp.content_type = answer.content_type
        for name, value in answer.headers:
            resp.append_header(name, value)
        if answer.close or self._runtime.draining:
            req.env[CLOSE_BEHIND] = True

    def _count(self, call: Call, how: Finished, recording: Recording | None) -> None:
        metrics = self.metrics
        if metrics is None:
            return
        seconds = time.monotonic() - call.began
        if call.recorded:
            failed = how.outcome in ("refused", "failed", "cut") or (
                recording is not None and recording.interception.outcome().error_type is not None
            )
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
        elif call.stage == "relay" and how.outcome != "refused":
            metrics.passed_through(call.provider_name, call.route, call.inbound.method)
        if call.provider is not None:
            call.stages[call.stage] = max(0.0, seconds - sum(call.stages.values()))
            overhead = max(0.0, seconds - _waited(call, how))
            metrics.times.add(call.provider_name, call.stages, overhead)

    def _log(self, call: Call, status: int, how: Finished) -> None:
        inbound = call.inbound
        duration = time.monotonic() - call.began
        fields = {
            "request_id": call.request_id,
            "method": inbound.method,
            "path": inbound.shown_path,
            "status": status,
            "outcome": how.outcome,
            "interception_id": call.interception_id,
            "user_id": call.user_id,
            "provider": call.provider_name,
            "model": call.model,
            "duration_ms": round(duration * 1000, 1),
            "overhead_ms": round(max(0.0, duration - _waited(call, how)) * 1000, 1),
            "bytes": how.sent,
            "aibridgeproxy_id": call.proxy_id,
        }
        shown = {name: value for name, value in fields.items() if value != ""}
        write_line("info", "ai-gateway", "request", shown)


def _is_event_stream(headers: Headers) -> bool:
    return any(
        name.lower() == "content-type" and value.strip().lower().startswith("text/event-stream")
        for name, value in headers
    )


def _stopping() -> Answer:
    return plain(503, STOPPING, headers=(("Retry-After", "1"),), close=True)


def _instead(
    req: falcon.Request, call: Call, recording: Recording | None, ex: GatewayEnds
) -> bytes:
    """Put an error answer into the place of one of which nothing was sent; returns its body."""
    if recording is not None:
        data = recording.interception.error_body(ex.status, str(ex))
    else:
        kind = call.provider.type if call.provider is not None else ""
        data = api_error(kind, ex.status, str(ex)).body
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(data))),
        ("Retry-After", "1"),
    ]
    headers.append((REQUEST_ID_HEADER, call.request_id))
    if call.interception_id:
        headers.append((INTERCEPTION_HEADER, call.interception_id))
    begun = req.env[ANEW](f"{ex.status} Service Unavailable", headers)
    return data if begun else b""


def _waited(call: Call, how: Finished) -> float:
    """Seconds of a request that were the upstream's."""
    return call.stages.get("first_byte", 0.0) + call.waited + how.upstream_seconds


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
