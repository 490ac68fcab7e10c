"""The data plane's Falcon sink: everything that is not a probe."""

from __future__ import annotations

import time
from typing import Any

import falcon
import structlog

from aigateway.actors.providers.interception.headers import UnsafeHeader, for_client
from aigateway.actors.providers.messages import Opened
from aigateway.actors.providers.recording import Recording
from aigateway.http.admission import Admission
from aigateway.http.answers import Answer, json_message, plain
from aigateway.http.inbound import ClientVanished, Inbound
from aigateway.http.pipeline import INTERCEPTION_HEADER, Call, Pipeline
from aigateway.http.relay import Finished, InterceptedBody, PassthroughBody, Patience
from aigateway.http.runtime import Runtime
from aigateway.http.settings import Settings

__all__ = ["CLOSE_BEHIND", "EXACT_HEAD", "Gateway"]

EXACT_HEAD = "aigateway.head"
"""WSGI environment key for a status line and headers to send exactly as they are."""
CLOSE_BEHIND = "aigateway.close"
"""WSGI environment key: close the connection behind the answer."""
CAPACITY = "AI Gateway is currently at capacity. Please try again later."

log = structlog.get_logger("ai-gateway")


class Gateway:
    """Takes each request through the pipeline and relays the answer."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self.pipeline = Pipeline(runtime, settings)
        self.admission = Admission(
            settings.max_concurrency, settings.queue_depth, settings.queue_wait
        )
        self._patience = Patience(settings.keepalive_ping, settings.idle_timeout)

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """Falcon's sink: answers ``req``."""
        self._runtime.start()
        if self._runtime.draining:
            self._answer(req, resp, plain(503, "AI Gateway is shutting down", close=True))
            return
        if not self.admission.enter():
            self._answer(req, resp, json_message(503, CAPACITY))
            return
        call = Call(Inbound.of(req.env), time.monotonic())
        try:
            opened, recording = self.pipeline.run(call)
        except Answer as answer:
            self.admission.leave()
            self._answer(req, resp, answer)
            if call.interception_id:
                resp.append_header(INTERCEPTION_HEADER, call.interception_id)
            self._log(call, answer.status, Finished("refused", len(answer.body), 0.0))
        except ClientVanished:
            self.admission.leave()
            log.info("the client vanished inside its request", path=call.inbound.path)
            self._answer(req, resp, plain(400, "incomplete request body", close=True))
        except BaseException:
            self.admission.leave()
            raise
        else:
            self._relay(req, resp, call, opened, recording)

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
            self.admission.leave()
            self._log(call, status, how)

        try:
            headers = for_client(exchange.headers)
        except UnsafeHeader:
            headers = [("Content-Type", "application/octet-stream")]
        if recording is not None:
            if recording.interception.event_stream:
                # Pings or an error event may change the length that was declared.
                headers = [(n, value) for n, value in headers if n.lower() != "content-length"]
            headers.append((INTERCEPTION_HEADER, call.interception_id))
            resp.stream = InterceptedBody(opened, recording, self._patience, finished)
        else:
            resp.stream = PassthroughBody(opened, self._patience, finished)
        reason = exchange.reason or "Unknown"
        req.env[EXACT_HEAD] = (f"{status} {reason}", headers)

    def _answer(self, req: falcon.Request, resp: falcon.Response, answer: Answer) -> None:
        resp.status = answer.status
        resp.data = answer.body
        resp.content_type = answer.content_type
        for name, value in answer.headers:
            resp.append_header(name, value)
        if answer.close:
            req.env[CLOSE_BEHIND] = True

    def _log(self, call: Call, status: int, how: Finished) -> None:
        inbound = call.inbound
        duration = time.monotonic() - call.began
        log.info(
            "request",
            method=inbound.method,
            path=inbound.path,
            status=status,
            outcome=how.outcome,
            interception_id=call.interception_id or None,
            user_id=call.caller.user_id if call.caller else None,
            provider=call.provider.name if call.provider else None,
            model=call.model or None,
            duration_ms=round(duration * 1000, 1),
            bytes=how.sent,
            aibridgeproxy_id=call.request_id or None,
        )
