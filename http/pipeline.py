"""What a request passes through at the edge, up to the first byte of its answer.

The order is that of the design: is there room, may users bring keys, is the body small
enough, is there a token; who is it; where does the path lead; and only when the
interception is recorded is the upstream called.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pykka
import structlog
from attrs import define, field, frozen

from aigateway.actors.coderd.messages import Accepted, Authorize, Caller, Denied, Unavailable
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.client import identify
from aigateway.actors.providers.interception.credentials import (
    BYOK_HEADER,
    Credential,
    Presented,
    byok_credential,
    centralized,
    extract,
)
from aigateway.actors.providers.interception.decoding import decode
from aigateway.actors.providers.interception.headers import (
    AgentFirewall,
    BadAgentFirewall,
    UnsafeHeader,
    agent_firewall,
    for_upstream,
)
from aigateway.actors.providers.interception.interface import Headers, Interception, InvalidRequest
from aigateway.actors.providers.interception.opening import open_interception
from aigateway.actors.providers.interception.routes import (
    Intercept,
    Passthrough,
    resolve,
    upstream_url,
)
from aigateway.actors.providers.messages import GiveBack, Opened, Perform, Refused
from aigateway.actors.providers.recording import Recording
from aigateway.actors.recorder import records
from aigateway.actors.recorder.ids import new_interception_id
from aigateway.actors.recorder.ledger import Ledger
from aigateway.actors.recorder.recorder import Begin
from aigateway.actors.tree import provider_role
from aigateway.http.answers import Answer, api_error, json_message, plain
from aigateway.http.inbound import BodyTooLarge, Inbound
from aigateway.http.runtime import NoAnswer, Runtime, retry_after
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    # Metrics are imported only where they are switched on.
    from aigateway.http.metrics.observer import RequestMetrics

__all__ = ["INTERCEPTION_HEADER", "Call", "Pipeline"]

PREFIXES = ("/api/v2/aibridge/", "/api/v2/ai-gateway/")
"""Where coderd mounts the same routes; a client may use either or none."""
INTERCEPTION_HEADER = "X-AI-Gateway-Interception-Id"
TOO_LARGE = "Request body too large. The maximum allowed request body size is {}."
BYOK_OFF = "Bring Your Own Key (BYOK) mode is not enabled."
BYOK_DETAIL = "Contact your administrator to enable it with --ai-gateway-allow-byok."

log = structlog.get_logger("ai-gateway")


@define(eq=False)
class Call:
    """One request on its way; filled in step by step, and what the log line is made of."""

    inbound: Inbound
    began: float
    request_id: str = ""
    auth_mode: str = "centralized"
    caller: Caller | None = None
    provider: ProviderConfig | None = None
    route: str = ""
    interception_id: str = ""
    model: str = ""
    client: str = ""
    recorded: bool = False
    """The interception's start was accepted by the control plane."""
    stages: dict[str, float] = field(factory=dict)
    """Seconds spent in each stage so far."""
    _marked: float = 0.0

    def mark(self, stage: str) -> None:
        """The stage that ends now has this name."""
        now = time.monotonic()
        self.stages[stage] = now - (self._marked or self.began)
        self._marked = now

    @property
    def provider_name(self) -> str:
        return self.provider.name if self.provider is not None else ""

    @property
    def user_id(self) -> str:
        return self.caller.user_id if self.caller is not None else ""


@frozen
class _Target:
    provider: ProviderConfig
    rest: str


class Pipeline:
    """Takes a request to an open exchange, or raises the :class:`Answer` that ends it."""

    def __init__(
        self, runtime: Runtime, settings: Settings, metrics: RequestMetrics | None = None
    ) -> None:
        self._runtime = runtime
        self.settings = settings
        self._metrics = metrics

    # -- in order

    def run(self, call: Call) -> tuple[Opened, Recording | None]:
        """Returns the exchange, and what records it when it is intercepted."""
        presented = self._present(call)
        call.mark("edge")
        caller = self._authorize(call, presented)
        call.mark("authorize")
        target, route = self._route(call)
        if isinstance(route, Passthrough):
            return self._pass_through(call, presented, target), None
        if call.inbound.header("Upgrade").lower() == "websocket":
            raise plain(
                426,
                "WebSocket transport is not supported, use HTTP",
                headers=(("Upgrade", "HTTP/1.1"),),
            )
        return self._intercept(call, presented, caller, target, route)

    def _present(self, call: Call) -> Presented:
        inbound, settings = call.inbound, self.settings
        byok = bool(inbound.header(BYOK_HEADER))
        if byok:
            call.auth_mode = "byok"
            if not settings.allow_byok:
                raise json_message(403, BYOK_OFF, BYOK_DETAIL)
        try:
            inbound.check_length(settings.max_body_size)
        except BodyTooLarge as ex:
            raise self._too_large() from ex
        presented = extract(inbound.headers)
        if presented is None:
            if inbound.method == "HEAD":
                log.info("unauthenticated HEAD request", path=inbound.path)
            else:
                log.warning("no auth key provided", method=inbound.method, path=inbound.path)
            raise plain(400, "no authentication key provided")
        call.request_id = presented.request_id
        return presented

    def _authorize(self, call: Call, presented: Presented) -> Caller:
        settings = self.settings
        try:
            answer = self._runtime.ask(
                "control-plane",
                lambda reply: Authorize(presented.token, reply),
                settings.max_wait + 5.0,
            )
        except NoAnswer as ex:
            answer = Unavailable(str(ex))
        if isinstance(answer, Unavailable):
            log.warning("failed to connect to coderd", error=answer.message)
            raise plain(
                answer.status,
                "could not connect to coderd",
                headers=(("Retry-After", str(retry_after(answer.retry_after))),),
            )
        if isinstance(answer, Denied):
            log.warning("key authorization check failed", path=call.inbound.path)
            raise plain(answer.status, answer.message)
        assert isinstance(answer, Caller)
        call.caller = answer
        return answer

    def _route(self, call: Call) -> tuple[_Target, Intercept | Passthrough]:
        inbound = call.inbound
        path = inbound.path
        for prefix in PREFIXES:
            if path.startswith(prefix):
                path = path[len(prefix) - 1 :]
                break
        name, slash, rest = path[1:].partition("/")
        config = self._runtime.tree.provider_config(name)
        if config is None and not self._runtime.tree.providers_loaded:
            raise plain(
                503, "AI Gateway is starting up, retry shortly", headers=(("Retry-After", "1"),)
            )
        route = resolve(config.type, inbound.method, slash + rest) if config is not None else None
        if config is None or route is None:
            if config is not None and not config.enabled:
                raise _disabled(config)
            raise plain(404, f"route not supported: {inbound.method} {inbound.path}")
        if not config.enabled:
            raise _disabled(config)
        call.provider, call.route = config, route.route
        if config.error is not None:
            log.error("request for a misconfigured provider", provider=config.name)
            raise plain(503, f'AI provider "{config.name}" is misconfigured')
        return _Target(config, slash + rest), route

    # -- passed through

    def _pass_through(self, call: Call, presented: Presented, target: _Target) -> Opened:
        inbound, config = call.inbound, target.provider
        own = byok_credential(config.type, presented.remaining_headers)
        headers = self._headers(
            presented.remaining_headers,
            auth=own.headers if own is not None else (),
            actor=(),
            passthrough=True,
            client_ip=inbound.client_ip,
            scheme=inbound.scheme,
            host=inbound.host,
        )
        result = self._send(
            config,
            method=inbound.method,
            url=self._url(target, inbound),
            headers=headers,
            body=self._read_body(inbound),
            add_credential=own is None and config.type != "copilot",
        )
        call.mark("first_byte")
        if isinstance(result, Refused):
            log.warning("passthrough failed", provider=config.name, error=result.message)
            if result.body is not None or result.retry_after is not None:
                raise self._refusal_answer(config.type, result)
            raise plain(502, "upstream proxy error")
        return result

    # -- intercepted

    def _intercept(
        self, call: Call, presented: Presented, caller: Caller, target: _Target, route: Intercept
    ) -> tuple[Opened, Recording]:
        inbound, config = call.inbound, target.provider
        try:
            firewall = agent_firewall(inbound.headers)
        except BadAgentFirewall as ex:
            raise plain(400, str(ex)) from ex
        body = self._read_body(inbound)
        call.interception_id = new_interception_id()
        try:
            interception = open_interception(
                route.api,
                id=call.interception_id,
                body=body,
                content_encoding=inbound.header("Content-Encoding"),
            )
        except InvalidRequest as ex:
            call.interception_id = ""
            raise Answer(ex.status, ex.body, "application/json") from ex
        call.model = interception.model
        credential = self._credential(config, presented, route)
        ledger = Ledger(self._runtime.tree, interception.id)
        recording = Recording(interception, ledger, self._observer(call, caller))
        call.mark("read")
        self._record_start(call, caller, config, interception, credential, firewall)
        call.mark("record")
        if (refusal := _refusal(interception)) is not None:
            recording.close()
            raise refusal
        headers = self._headers(
            presented.remaining_headers, auth=(), actor=_actor_headers(config, caller)
        )
        result = self._send(
            config,
            method=inbound.method,
            url=self._url(target, inbound),
            headers=headers,
            body=interception.upstream_body(),
            route=call.route,
            model=interception.model,
            credential=credential if credential.kind == "byok" else None,
        )
        call.mark("first_byte")
        if isinstance(result, Refused):
            recording.credential_hint = result.credential_hint
            recording.cut(result.message, result.error_type)
            recording.close()
            raise self._refusal_answer(route.api, result)
        recording.credential_hint = result.credential_hint
        if result.provider_name != config.name:
            recording.provider_name = result.provider_name
        interception.begin_answer(result.exchange.status, result.exchange.headers)
        if (refusal := _refusal(interception)) is not None:
            self._discard(result, recording)
            raise refusal
        return result, recording

    @staticmethod
    def _discard(opened: Opened, recording: Recording) -> None:
        """The upstream's answer cannot be relayed: let go of it and record that."""
        opened.exchange.close()
        with contextlib.suppress(pykka.ActorDeadError):
            opened.provider.tell(GiveBack(opened.worker, opened.exchange))
        recording.cut("the upstream's answer cannot be relayed", "server_error")
        recording.close()

    def _credential(
        self, config: ProviderConfig, presented: Presented, route: Intercept
    ) -> Credential:
        own = None
        if presented.byok or config.type == "copilot":
            own = byok_credential(config.type, presented.remaining_headers)
        if own is not None:
            return own
        if config.keys and not presented.byok:
            return centralized(config.type, config.keys[0])
        # The reference fails such a request when it builds its interceptor.
        log.warning("no credential for the provider", provider=config.name)
        if config.type == "copilot":
            text = "missing Copilot authorization: Authorization header not found or invalid"
            raise api_error(route.api, 400, text)
        raise api_error(route.api, 400, f'no credential for the provider "{config.name}"')

    def _record_start(
        self,
        call: Call,
        caller: Caller,
        config: ProviderConfig,
        interception: Interception,
        credential: Credential,
        firewall: AgentFirewall | None,
    ) -> None:
        inbound = call.inbound
        info = identify(inbound.headers, lambda: self._readable(inbound))
        call.client = info.client
        record = records.Interception(
            id=interception.id,
            initiator_id=caller.user_id,
            username=caller.username,
            api_key_id=caller.api_key_id,
            provider="openai" if config.speaks_openai else config.type,
            provider_name=config.name,
            model=interception.model,
            client=info.client,
            user_agent=inbound.header("User-Agent"),
            started_at=time.time(),
            client_session_id=info.session_id,
            correlating_tool_call_id=interception.correlating_tool_call_id,
            credential_kind=credential.kind,
            credential_hint=credential.hint,
            agent_firewall_session_id=firewall.session_id if firewall else None,
            agent_firewall_sequence_number=firewall.sequence if firewall else None,
            workspace_id=caller.workspace_id,
        )
        try:
            answer = self._runtime.ask(
                "recorder", lambda reply: Begin(record, reply), self.settings.max_wait + 5.0
            )
        except NoAnswer as ex:
            answer = Unavailable(str(ex))
        if isinstance(answer, Accepted):
            call.recorded = True
            if self._metrics is not None:
                self._metrics.began(config.name, record.model, call.route)
            return
        log.warning(
            "failed to record interception", interception_id=record.id, error=answer.message
        )
        if isinstance(answer, Unavailable):
            raise plain(
                503,
                "failed to record interception",
                headers=(("Retry-After", str(retry_after(answer.retry_after))),),
            )
        raise plain(500, "failed to record interception")

    def _observer(
        self, call: Call, caller: Caller
    ) -> Callable[[list[records.UsageRecord]], None] | None:
        metrics = self._metrics
        if metrics is None:
            return None
        return lambda found: metrics.records(
            found,
            provider=call.provider_name,
            model=call.model,
            initiator=caller.user_id,
            client=call.client,
        )

    # -- common steps

    def _read_body(self, inbound: Inbound) -> bytes:
        try:
            return inbound.body(self.settings.max_body_size)
        except BodyTooLarge as ex:
            raise self._too_large() from ex

    def _readable(self, inbound: Inbound) -> bytes:
        """The body without its content encoding; it was read and decoded once before."""
        body = inbound.body(self.settings.max_body_size)
        coding = inbound.header("Content-Encoding")
        return decode(body, coding) if coding else body

    def _too_large(self) -> Answer:
        size = self.settings.max_body_size
        shown = f"{size >> 20}MiB" if size % (1 << 20) == 0 else f"{size} bytes"
        return plain(413, TOO_LARGE.format(shown), close=True)

    @staticmethod
    def _headers(headers: Headers, **rules: Any) -> list[tuple[str, str]]:
        try:
            return for_upstream(headers, **rules)
        except UnsafeHeader as ex:
            raise plain(400, f"the request cannot be forwarded: {ex}") from ex

    @staticmethod
    def _url(target: _Target, inbound: Inbound) -> str:
        config = target.provider
        try:
            return upstream_url(config.type, config.base_url, target.rest, inbound.query)
        except ValueError as ex:
            raise plain(400, "the request cannot be forwarded: bad path or query") from ex

    def _send(self, config: ProviderConfig, **perform: Any) -> Opened | Refused:
        wait = config.connect_timeout + config.first_byte_timeout + 5.0
        try:
            result = self._runtime.ask(
                provider_role(config.name), lambda reply: Perform(reply=reply, **perform), wait
            )
        except NoAnswer as ex:
            return Refused(502, f"the provider's actor failed: {ex}", sent=ex.sent)
        assert isinstance(result, Opened | Refused)
        return result

    @staticmethod
    def _refusal_answer(dialect: str, refused: Refused) -> Answer:
        if refused.body is not None:
            headers = () if refused.retry_after is None else (
                ("Retry-After", str(refused.retry_after)),
            )  # fmt: skip
            return Answer(refused.status, refused.body, "application/json", headers)
        return api_error(dialect, refused.status, refused.message, retry_after=refused.retry_after)


def _refusal(interception: Interception) -> Answer | None:
    """What the interception wants the client to get instead of an upstream's answer."""
    if interception.refusal is None:
        return None
    status, body = interception.refusal
    return Answer(status, body, "application/json")


def _actor_headers(config: ProviderConfig, caller: Caller) -> list[tuple[str, str]]:
    values = {"id": caller.user_id, "username": caller.username, "email": caller.email}
    return [(name, values.get(key, "")) for key, name in config.actor_headers.items()]


def _disabled(config: ProviderConfig) -> Answer:
    return plain(503, f'provider_disabled: AI provider "{config.name}" is disabled')
