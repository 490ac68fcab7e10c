"""The Falcon application: probes, and the gateway as a sink for everything else, which goes
through the pipeline and is relayed, counted and logged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import structlog
from gunicorn.arbiter import Arbiter
from structlog.contextvars import bind_contextvars

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.codec.headers import Headers, values_of
from aigateway.actors.interception.headers import UnsafeHeader, for_client
from aigateway.actors.mcp.shelf import ToolShelf, ToolTroubles
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.providers.bedrock.signing import preload
from aigateway.actors.providers.provider import ProviderLimits
from aigateway.actors.recorder.recorder import ControlPlaneChanged
from aigateway.actors.values.policy import content_level
from aigateway.http.diagnosis.answering import Answering
from aigateway.http.logs import configure, write_line
from aigateway.http.metrics.reasons import REASONS, Reason
from aigateway.http.request.answers import Answer, plain
from aigateway.http.request.client_address import ClientAddresses
from aigateway.http.request.control_planes import (
    control_plane_starter,
    housekeeper_starter,
    mcp_starter,
    reporter_starter,
)
from aigateway.http.request.cors import Cors, without_cors
from aigateway.http.request.inbound import (
    REQUEST_ID_HEADER,
    UNTRACED,
    Call,
    ClientVanished,
    Inbound,
    Trace,
    request_id_of,
    shown_path,
)
from aigateway.http.request.pipeline import INTERCEPTION_HEADER, Pipeline
from aigateway.http.request.refusals import dialect_of, shaped
from aigateway.http.request.relay import AnyBody, Finished, Relayed
from aigateway.http.request.runtime import STOPPING, Runtime, Stopping
from aigateway.http.server.parts import begin_again, close_behind, keep_own_headers
from aigateway.http.settings import Settings, load

if TYPE_CHECKING:
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.tracing.service import Tracing

__all__ = ["Gateway", "GatewayApp", "WaysOut", "create_app", "make_plan"]

_FRONT = "aigateway.front"
"""WSGI environment key for the request's :class:`_Front`."""
BUFFERING = "X-Accel-Buffering"

log = structlog.get_logger("ai-gateway")

StartResponse = Callable[..., Any]


class WaysOut:
    """What is done when this process cannot go on.

    Here it is ended at once.  A server's worker knows better, and puts its own ways here.
    """

    def __init__(self) -> None:
        self.end_gateway: Callable[[str], object] = lambda _reason: os._exit(
            Arbiter.WORKER_BOOT_ERROR
        )
        self.end_process: Callable[[str], object] = lambda _reason: os.kill(
            os.getpid(), signal.SIGABRT
        )

    def refused(self, reason: str) -> None:
        """There will never be a control plane: no other worker process would fare better."""
        log.critical("AI Gateway daemon exited", reason=reason)
        self.end_gateway(f"AI Gateway daemon exited: {reason}")

    def give_up(self, reason: str) -> None:
        """The actors fail again and again: another worker process may do better."""
        log.critical("this worker process gives up", reason=reason)
        self.end_process(reason)


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
        front: _Front = req.env[_FRONT]
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

    def _relay(self, front: _Front, call: Call, relayed: Relayed) -> None:
        # What is kept for as long as the answer takes is not all of it.
        body, status = relayed.body, relayed.status

        def finished(how: Finished) -> None:
            self._leave(call)
            if how.outcome == "refused":
                _note(call, Reason.STOPPING)
            self._over(call, how.status or status, how, failed=body.failed)
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
        line = f"{status} {relayed.reason or 'Unknown'}"
        headers = _headers(call, relayed)
        front.exactly(line, without_cors(headers) if self._cors is not None else headers, body)

    def _answer(self, front: _Front, resp: falcon.Response, call: Call, answer: Answer) -> None:
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
        # A session's time is not a request's.
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


class _Front:
    """An answer as it goes to the server, where WSGI and Falcon have no word for it: what
    Falcon calls to begin it."""

    def __init__(self, start_response: StartResponse, trace: Trace) -> None:
        self._start_response = start_response
        self._exact: tuple[str, list[tuple[str, str]]] | None = None
        self.body: AnyBody | None = None
        self.trace = trace
        self.added: list[tuple[str, str]] = []
        """Headers of any answer, the gateway's own or a provider's."""

    def __call__(self, status: str, headers: list[tuple[str, str]], *rest: object) -> Any:
        if self._exact is not None:
            status, headers = self._exact
            keep_own_headers(self._start_response, headers)
        return self._start_response(status, self._whole(status, headers), *rest)

    def exactly(self, status: str, headers: list[tuple[str, str]], body: AnyBody) -> None:
        """Send this status line, these headers and this body, in the place of Falcon's."""
        self._exact = status, headers
        self.body = body

    def close_behind(self) -> None:
        """Close the connection behind the answer."""
        close_behind(self._start_response)

    def instead(self, status: str, headers: list[tuple[str, str]]) -> bool:
        """Replace a head that was not sent yet; False where that cannot be done."""
        return begin_again(self._start_response, status, self._whole(status, headers))

    def _whole(self, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*self.trace.head(status, headers), *self.added]


class _Healthz:
    """The process is alive: 200 with an empty body, for any method."""

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: object) -> None:
        del req
        resp.status = falcon.HTTP_200


class _Readyz:
    """200 while requests can be served, 503 otherwise; the body says why, or what is amiss."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: object) -> None:
        del req
        self._runtime.start()
        reason = self._runtime.why_not_ready()
        resp.status = falcon.HTTP_503 if reason else falcon.HTTP_200
        disk = self._runtime.disk
        if reason or disk != "ok":
            resp.text = f"{reason or f'the disk for records is {disk}'}\n"


class GatewayApp(falcon.App[falcon.Request, falcon.Response]):
    """Falcon, with one addition: a sink may set a status line and headers exactly.

    Falcon folds header names to lower case and repeated headers into one; an answer that is
    relayed keeps them as the provider sent them.
    """

    def __init__(
        self, runtime: Runtime, settings: Settings, ways_out: WaysOut, answering: Answering
    ) -> None:
        super().__init__(media_type="text/plain; charset=utf-8")
        self.runtime = runtime
        self.ways_out = ways_out
        self.answering = answering
        self.gateway = Gateway(runtime, settings)
        self.req_options.strip_url_path_trailing_slash = False
        self.add_error_handler(Exception, self._unexpected)
        self.add_sink(self.gateway, prefix="/")
        self.add_sink(_Healthz(), prefix=r"/healthz\Z")
        self.add_sink(_Readyz(runtime), prefix=r"/readyz\Z")

    def _unexpected(
        self, req: falcon.Request, resp: falcon.Response, ex: Exception, _params: dict[str, object]
    ) -> None:
        """A fault of ours: the traceback goes to the log, never to the client."""
        log.error("unexpected error", method=req.method, path=shown_path(req.path), exc_info=ex)
        said = plain(500, "internal error", reason=Reason.FAULT)
        said = shaped(said, dialect_of(req.path, self.runtime.tree))
        resp.status = said.status
        resp.content_type = said.content_type
        resp.data = said.body

    def __call__(self, env: dict[str, object], start_response: StartResponse) -> Iterable[bytes]:
        tracing = self.gateway.tracing
        trace = (tracing.begin(env) if tracing is not None else None) or UNTRACED
        front = env[_FRONT] = _Front(start_response, trace)
        try:
            body = super().__call__(env, front)
        except BaseException:
            if front.body is not None:
                # The server never got it.
                front.body.close()
            raise
        finally:
            trace.handled()
        # Of a HEAD request Falcon forgets the body, which has to be closed all the same.
        return body if front.body is None else front.body


def create_app(settings: Settings | None = None) -> GatewayApp:
    """Make the WSGI application from ``settings``, by default from the environment.

    Then it also logs as those say.  Actors are not started here but in the process that
    serves the first request, or by gunicorn's hooks after the fork.  Raises SettingsError.
    """
    if settings is None:
        settings = load({}, os.environ)
        configure(settings)
    if any("BEDROCK_" in name.upper() for name in settings.provider_environ):
        # Now, before the fork and before any stream.
        preload()
    tree = ActorTree()
    ways_out = WaysOut()
    answering = Answering()
    plan = make_plan(settings, tree, ways_out, answering)
    runtime = Runtime(plan, tree, give_up=ways_out.give_up)
    return GatewayApp(runtime, settings, ways_out, answering)


def make_plan(
    settings: Settings,
    tree: ActorTree,
    ways_out: WaysOut | None = None,
    answering: Answering | None = None,
) -> GatewayPlan:
    """What the supervisor is to build.  Raises SettingsError for wrong provider variables."""

    def connected() -> None:
        tell_quietly(tree.find("recorder"), ControlPlaneChanged())

    answering = answering or Answering()
    shelf, troubles = ToolShelf(), ToolTroubles()
    return GatewayPlan(
        start_control_plane=control_plane_starter(
            settings, on_fatal=(ways_out or WaysOut()).refused, on_connected=connected
        ),
        state_dir=Path(settings.state_dir),
        spool_max_size=settings.spool_max_size,
        limits=ProviderLimits(settings.drain_max, settings.drain_timeout),
        start_mcp=mcp_starter(settings, tree, shelf, troubles),
        tool_shelf=shelf,
        tool_troubles=troubles,
        start_housekeeper=housekeeper_starter(settings),
        start_reporter=reporter_starter(settings, answering, lambda: answering.address),
    )
