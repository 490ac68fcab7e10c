"""The Falcon application: probes, and the gateway as a sink for everything else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import falcon
import structlog
from gunicorn.arbiter import Arbiter

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.mcp.shelf import ToolShelf, ToolTroubles
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.providers.bedrock.signing import preload
from aigateway.actors.providers.provider import ProviderLimits
from aigateway.actors.recorder.recorder import ControlPlaneChanged
from aigateway.http.diagnosis.answering import Answering
from aigateway.http.logs import configure
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import plain
from aigateway.http.request.call import UNTRACED, Trace
from aigateway.http.request.control_planes import (
    control_plane_starter,
    housekeeper_starter,
    mcp_starter,
    reporter_starter,
)
from aigateway.http.request.gateway import FRONT, Gateway
from aigateway.http.request.inbound import shown_path
from aigateway.http.request.refusals import dialect_of, shaped
from aigateway.http.request.relay import AnyBody
from aigateway.http.request.runtime import Runtime
from aigateway.http.server.parts import begin_again, close_behind, keep_own_headers
from aigateway.http.settings import Settings, load

__all__ = ["GatewayApp", "WaysOut", "create_app", "make_plan"]

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
        front = env[FRONT] = _Front(start_response, trace)
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


class _Front:
    """What Falcon calls to begin an answer: see :class:`~.gateway.Front`."""

    def __init__(self, start_response: StartResponse, trace: Trace) -> None:
        self._start_response = start_response
        self._exact: tuple[str, list[tuple[str, str]]] | None = None
        self.body: AnyBody | None = None
        self.trace = trace
        self.added: list[tuple[str, str]] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], *rest: object) -> Any:
        if self._exact is not None:
            status, headers = self._exact
            keep_own_headers(self._start_response, headers)
        return self._start_response(status, self._whole(status, headers), *rest)

    def exactly(self, status: str, headers: list[tuple[str, str]], body: AnyBody) -> None:
        self._exact = status, headers
        self.body = body

    def close_behind(self) -> None:
        close_behind(self._start_response)

    def instead(self, status: str, headers: list[tuple[str, str]]) -> bool:
        return begin_again(self._start_response, status, self._whole(status, headers))

    def _whole(self, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*self.trace.head(status, headers), *self.added]


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
