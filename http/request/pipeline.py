"""What a request passes through at the edge, up to the first byte of its answer.

The order is that of the design: is the client within its rate, may users bring keys, is the
body small enough, is there a token; who is it; where does the path lead; is the body there,
and is there room; and only when the interception is recorded is the upstream called.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pykka
import structlog
from attrs import evolve

from aigateway.actors.codec.header_list import Headers
from aigateway.actors.codec.reading import members, text
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.affinity import affinity_of, affinity_of_passed
from aigateway.actors.interception.client import identify
from aigateway.actors.interception.credentials import (
    BYOK,
    Credential,
    Presented,
    byok_credential,
    centralized,
)
from aigateway.actors.interception.headers import BadAgentFirewall, agent_firewall
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.interface import Interception, InvalidRequest
from aigateway.actors.interception.opening import decoded, open_interception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import (
    COMPACTION,
    MESSAGES,
    RESPONSES,
    Intercept,
    Passthrough,
)
from aigateway.actors.interception.stored_ids import (
    ids_in_body,
    ids_in_path,
)
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.bedrock.counting import COUNT_TOKENS, count_answer
from aigateway.actors.providers.bedrock.making import standing_credential
from aigateway.actors.providers.making import NO_CREDENTIAL, url_for
from aigateway.actors.providers.messages import GiveBack, Opened, Refused
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.actors.providers.served import model_for, recorded_model
from aigateway.actors.recorder.ids import new_interception_id
from aigateway.actors.recorder.ledger import Ledger
from aigateway.actors.recorder.policy import RecordPolicy
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.values import records
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.request.admission import Admission
from aigateway.http.request.answers import Answer, api_error, json_message, plain
from aigateway.http.request.authorization import authorize, present, too_large
from aigateway.http.request.body_reading import Bodies
from aigateway.http.request.call import Call
from aigateway.http.request.inbound import (
    BodyTooLarge,
    BodyTooSlow,
    Inbound,
    MalformedBody,
    TooManyBodies,
)
from aigateway.http.request.injected_relay import follow
from aigateway.http.request.injection import Injector, Rounds, without_codings
from aigateway.http.request.model_list import listed_models, no_such_model
from aigateway.http.request.rate_limit import make_rate_limit
from aigateway.http.request.record_start import readable_body, record_start
from aigateway.http.request.relay import Patience, read_whole
from aigateway.http.request.routing import Target, find_route
from aigateway.http.request.runtime import Runtime
from aigateway.http.request.stored_ids import CreatedId, StoredIds
from aigateway.http.request.upstream import Upstream, headers_for, refusal_answer
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    # Metrics are imported only where they are switched on.
    from aigateway.http.metrics.observer import RequestMetrics

__all__ = ["INTERCEPTION_HEADER", "Pipeline"]

CAPACITY = "AI Gateway is currently at capacity. Please try again later."
INTERCEPTION_HEADER = "X-AI-Gateway-Interception-Id"
_MODELS = frozenset({"/models/", "/v1/models/"})
"""Passed routes to one model of the account."""

log = structlog.get_logger("ai-gateway")


_NAMES_IDS = (RESPONSES, COMPACTION)
"""APIs whose requests may name what was stored before."""


class Pipeline:
    """Takes a request to an open exchange, or raises the :class:`Answer` that ends it."""

    def __init__(
        self, runtime: Runtime, settings: Settings, metrics: RequestMetrics | None = None
    ) -> None:
        self._runtime = runtime
        self.settings = settings
        self._metrics = metrics
        self._rate_limit = make_rate_limit(settings)
        self.bodies = Bodies(
            settings.max_bodies_size, settings.body_timeout, settings.body_least_rate
        )
        self.admission = Admission(
            settings.max_concurrency, settings.queue_depth, settings.queue_wait
        )
        self._upstream = Upstream(runtime)
        self._stored = StoredIds(runtime) if settings.local else None
        self._policy = RecordPolicy(
            content=settings.content != "none", lines=settings.structured_logging_source != "coderd"
        )
        self._injector: Injector | None = None
        if runtime.plan.start_mcp is not None:
            self._injector = Injector(
                runtime,
                max_rounds=settings.mcp_max_iterations,
                tool_timeout=settings.mcp_tool_timeout,
                max_result_size=settings.mcp_max_result_size,
            )

    # -- in order

    def run(self, call: Call) -> tuple[Opened, Recording | None]:
        """Returns the exchange, and what records it when it is intercepted."""
        if self._rate_limit is not None:
            self._rate_limit.check(call.inbound)
        presented = present(call, self.settings)
        call.begin("authorize")
        caller = authorize(call, presented, self._runtime, self.settings.max_wait)
        call.begin("read")
        target, route = find_route(call, self._runtime.tree)
        if isinstance(route, Passthrough):
            return self._pass_through(call, presented, caller, target, route), None
        if call.inbound.header("Upgrade").lower() == "websocket":
            raise plain(
                426,
                "WebSocket transport is not supported, use HTTP",
                headers=(("Upgrade", "HTTP/1.1"),),
            )
        return self._intercept(call, presented, caller, target, route)

    # -- passed through

    def _pass_through(
        self,
        call: Call,
        presented: Presented,
        caller: Caller,
        target: Target,
        route: Passthrough,
    ) -> Opened:
        inbound, config = call.inbound, target.provider
        if (listed := listed_models(config, inbound.method, target.rest)) is not None:
            raise listed
        if config.bedrock is not None and config.bedrock.invokes:
            if (target.rest, inbound.method) == (COUNT_TOKENS, "POST"):
                raise self._count_tokens(call, presented, config)
            said = f'the provider "{config.name}" is AWS Bedrock, which has no such route'
            raise api_error(config.type, 404, said)
        body = self._read_body(call)
        own = None
        if config.bedrock is None:
            own = byok_credential(config.type, presented.remaining_headers)
        if own is None and inbound.method == "DELETE" and route.route in _MODELS:
            # The account's own models are everybody's.
            raise plain(404, f"route not supported: {inbound.method} {inbound.shown_path}")
        if self._stored is not None and own is None:
            self._check_passed_ids(self._stored, call, caller, target, route, body)
        url = _url(config, target.rest, inbound.query)
        if call.trace is not None:
            call.trace.passthrough(call.route, url, inbound.method)
        if config.dump_dir:
            from aigateway.http.request.dump import dump_of_passthrough

            call.dump = dump_of_passthrough(config.dump_dir, config.name, url)
        headers = headers_for(
            call.traced(presented.remaining_headers),
            auth=own.headers if own is not None else (),
            actor=(),
            own_key=own is not None,
            passthrough=True,
            forwarded=self.settings.send_forwarded_headers,
            client_ip=inbound.client_ip,
            scheme=inbound.scheme,
            host=inbound.host,
        )
        request = UpstreamRequest(
            method=inbound.method,
            rest=target.rest,
            query=inbound.query,
            headers=headers,
            body=body,
            provider=config.name,
            model=_passed_model(config, inbound, body),
            add_credential=own is None and config.type != "copilot",
            attempts=call.dump,
            passed=call.route,
            affinity=affinity_of_passed(
                identify(inbound.headers, lambda: b"").session_id, call.user_id, call.route
            ),
        )
        call.begin("provider")
        result = self._upstream.perform(config, request)
        call.patience = Patience(0.0, config.idle_timeout)
        call.answered(result.begun_at)
        if isinstance(result, Refused):
            log.warning("passthrough failed", provider=config.name, error=result.message)
            if result.body is not None or result.retry_after is not None:
                raise refusal_answer(config.type, result)
            raise plain(502, "upstream proxy error")
        makes = route.route == "/conversations" and inbound.method == "POST"
        if makes and self._stored is not None and own is None:
            call.watch = CreatedId(self._stored, caller, result.exchange)
        return result

    def _check_passed_ids(
        self,
        stored: StoredIds,
        call: Call,
        caller: Caller,
        target: Target,
        route: Passthrough,
        body: bytes,
    ) -> None:
        """Raise the Answer for a request that names what another user has stored."""
        ids = ids_in_path(target.rest)
        if body and route.route == "/responses/":
            ids += ids_in_body(_decoded(target.provider.type, call.inbound, body))
        stored.check(caller, target.provider.type, ids)

    def _count_tokens(self, call: Call, presented: Presented, config: ProviderConfig) -> Answer:
        """AWS's count in Anthropic's shape; raises an Answer when there is none."""
        body = self._read_body(call)
        fields = members(_decoded(MESSAGES, call.inbound, body))
        model = text(fields.get("model")) or ""
        if model_for(config, model, config.name) is None:
            raise no_such_model(config, MESSAGES, model)
        request = UpstreamRequest(
            method="POST",
            rest=COUNT_TOKENS,
            headers=headers_for(presented.remaining_headers, auth=(), actor=()),
            body=body,
            api=MESSAGES,
            provider=config.name,
            model=model,
        )
        call.begin("provider")
        result = self._upstream.perform(config, request)
        call.answered(result.begun_at)
        if isinstance(result, Refused):
            raise refusal_answer(MESSAGES, result)
        status, counted = count_answer(*read_whole(result, config.idle_timeout))
        return Answer(status, counted, "application/json")

    # -- intercepted

    def _intercept(
        self, call: Call, presented: Presented, caller: Caller, target: Target, route: Intercept
    ) -> tuple[Opened, Recording]:
        inbound, config = call.inbound, target.provider
        try:
            firewall = agent_firewall(inbound.headers)
        except BadAgentFirewall as ex:
            raise plain(400, str(ex)) from ex
        trace = call.trace
        if trace is not None:
            trace.intercept(provider=config.name, user=caller.user_id)
        opened = self._open(call, route)
        interception: Interception = opened
        if model_for(config, interception.model, config.name) is None:
            call.interception_id = ""
            raise no_such_model(config, route.api, interception.model)
        if self._injector is not None:
            interception = self._injector.offer(interception, call, route.api, presented.token)
        call.model = recorded_model(config, interception.model)
        credential = self._credential(config, presented, route)
        observe = self._observer(call, caller)
        if self._stored is not None and route.api in _NAMES_IDS and credential.kind != BYOK:
            if opened.opening.names_stored:
                try:
                    self._stored.check(caller, route.api, ids_in_body(readable_body(inbound)))
                except Answer:
                    call.interception_id = ""
                    raise
            if opened.opening.stored:
                observe = self._stored.watching(caller, observe)
        recording = self._recording(call, interception, observe)
        if trace is not None:
            recording.trace = trace
            trace.created(interception, model=call.model, bedrock=_bedrock(config, route))
        call.begin("record")
        record_start(
            self._runtime,
            self.settings,
            call,
            caller,
            config,
            interception,
            credential,
            firewall,
            self._policy,
        )
        affinity = affinity_of(call.session_id, caller.user_id, opened.opening)
        self._runtime.inflight.record(recording)
        if self._metrics is not None:
            self._metrics.began(config.name, call.model, call.route)
        call.begin("provider")
        if trace is not None:
            trace.recorded()
        if (refusal := _refusal(interception)) is not None:
            recording.close()
            raise refusal
        client_headers: Headers = presented.remaining_headers
        if isinstance(interception, InjectedInterception):
            client_headers = without_codings(client_headers)

        try:
            headers = headers_for(
                client_headers,
                auth=(),
                actor=_actor_headers(config, caller),
                own_key=credential.kind == BYOK,
            )
            _url(config, target.rest, inbound.query)
            request = UpstreamRequest(
                method=inbound.method,
                rest=target.rest,
                query=inbound.query,
                headers=call.traced(headers),
                body=interception.upstream_body(),
                credential=credential if credential.kind == BYOK else None,
                provider=config.name,
                route=call.route,
                model=interception.model,
                affinity=affinity,
                api=route.api,
                streaming=interception.streaming,
                attempts=call.dump,
            )
            result = self._upstream.perform(config, request)
            if self._injector is not None and isinstance(interception, InjectedInterception):
                result = self._injector.without_refused(
                    interception,
                    result,
                    lambda body: self._upstream.perform(config, evolve(request, body=body)),
                    config.name,
                )
        except Answer:
            recording.cut("the request cannot be forwarded", "bad_request")
            recording.close()
            raise
        except BaseException:
            # A fault of ours: the interception has ended all the same.
            recording.cut("the gateway failed", "server_error")
            recording.close()
            raise
        call.answered(result.begun_at)
        if trace is not None:
            trace.answered()
        recording.credential_hint = result.credential_hint
        recording.abandoned(result.abandoned)
        if isinstance(result, Refused):
            recording.cut(result.message, result.error_type)
            recording.close()
            raise refusal_answer(route.api, result)
        self._begin_answer(call, config, result, recording, route.api)
        if self._injector is not None and isinstance(interception, InjectedInterception):
            began = time.monotonic()
            result = follow(
                Rounds(
                    injector=self._injector,
                    upstream=self._upstream,
                    call=call,
                    loop=interception,
                    recording=recording,
                    token=presented.token,
                    request=request,
                    config=config,
                ),
                result,
                call.patience,
            )
            # A blocking answer was read to its end: that is waiting for tools and upstream.
            call.waited += time.monotonic() - began
        return result, recording

    def _open(self, call: Call, route: Intercept) -> Relay:
        body = self._read_body(call)
        call.interception_id = new_interception_id()
        try:
            return open_interception(
                route.api,
                id=call.interception_id,
                body=body,
                content_encoding=call.inbound.header("Content-Encoding"),
                headers=call.inbound.headers,
                ask_usage=self._asks_usage(call.provider),
            )
        except InvalidRequest as ex:
            call.interception_id = ""
            raise Answer(ex.status, ex.body, "application/json") from ex

    def _asks_usage(self, config: ProviderConfig | None) -> bool:
        """Whether everybody who may answer takes ``stream_options``."""
        if config is None or not config.stream_options:
            return False
        names = (*config.fallback, *(name for name, _ in config.group))
        others = map(self._runtime.tree.provider_config, names)
        return all(other is None or other.stream_options for other in others)

    def _credential(
        self, config: ProviderConfig, presented: Presented, route: Intercept
    ) -> Credential:
        if config.bedrock is not None:
            return standing_credential(config)
        own = None
        if presented.byok or config.type == "copilot":
            own = byok_credential(config.type, presented.remaining_headers)
        if own is not None:
            return own
        if config.keys and not presented.byok:
            return centralized(config.type, config.keys[0])
        if config.no_key and not presented.byok:
            return NO_CREDENTIAL
        # The reference fails such a request when it builds its interceptor.
        log.warning("no credential for the provider", provider=config.name)
        if config.type == "copilot":
            text = "missing Copilot authorization: Authorization header not found or invalid"
            raise api_error(route.api, 400, text)
        raise api_error(route.api, 400, f'no credential for the provider "{config.name}"')

    def _recording(
        self,
        call: Call,
        interception: Interception,
        observe: Callable[[list[records.UsageRecord]], None] | None,
    ) -> Recording:
        ledger = Ledger(self._runtime.tree, interception.id)
        config = call.provider
        if config is None or not config.dump_dir:
            return Recording(interception, ledger, observe, self._policy)
        from aigateway.http.request.dump import DumpedRecording, dump_of_interception

        call.dump = dump_of_interception(config.dump_dir, config.name, call.model, interception.id)
        return DumpedRecording(call.dump, interception, ledger, observe, self._policy)

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

    def _begin_answer(
        self,
        call: Call,
        config: ProviderConfig,
        opened: Opened,
        recording: Recording,
        api: str,
    ) -> None:
        """The head is there; raises an Answer when what follows cannot be relayed."""
        exchange = opened.exchange
        answering = self._upstream.provider_of(opened) or config
        call.patience = Patience.with_provider(answering, api, self.settings.keepalive_ping)
        if answering.keepalive_ping is not None:
            recording.interception.keepalives = answering.keepalive_ping > 0
        recording.answered_by(
            opened.provider_name, opened.model, instead_of=(config.name, call.model)
        )
        if opened.converted:
            converted = BedrockInterception(recording.interception, call.model)
            recording.interception = converted
            converted.begin_answer(exchange.status, exchange.headers)
            call.answer_headers = converted.answer_headers(exchange.headers)
        else:
            recording.interception.begin_answer(exchange.status, exchange.headers)
        if (refusal := _refusal(recording.interception)) is not None:
            _discard(opened, recording)
            raise refusal

    def _read_body(self, call: Call) -> bytes:
        """The whole body; then the request has a place, too.  Raises an Answer."""
        inbound = call.inbound
        try:
            body = inbound.read_body(self.settings.max_body_size, self.bodies)
        except BodyTooLarge as ex:
            raise too_large(self.settings.max_body_size) from ex
        except BodyTooSlow as ex:
            log.warning("request body given up", reason=str(ex), user_id=call.user_id)
            raise plain(408, f"request body too slow: {ex}", close=True) from ex
        except TooManyBodies as ex:
            log.warning("too many request bodies are being read", held=self.bodies.held)
            text = "too many request bodies are being read, please try again later"
            raise plain(503, text, headers=(("Retry-After", "1"),), close=True) from ex
        except MalformedBody as ex:
            raise plain(400, f"malformed request body: {ex}", close=True) from ex
        self._admit(call)
        return body

    def _admit(self, call: Call) -> None:
        """Wait for a place; raises an Answer when there is none.

        Only now: a place is for a request that is whole, not for one that drips.
        """
        if self.admission.limited:
            call.begin("place")
        if not self.admission.enter():
            raise json_message(503, CAPACITY)
        call.admitted = True
        if self.admission.limited:
            call.begin("read")


def _discard(opened: Opened, recording: Recording) -> None:
    """The upstream's answer cannot be relayed: let go of it and record that."""
    opened.exchange.close()
    with contextlib.suppress(pykka.ActorDeadError):
        opened.provider.tell(GiveBack(opened.worker, opened.exchange))
    recording.cut("the upstream's answer cannot be relayed", "server_error")
    recording.close()


def _refusal(interception: Interception) -> Answer | None:
    """What the interception wants the client to get instead of an upstream's answer."""
    if interception.refusal is None:
        return None
    status, body = interception.refusal
    return Answer(status, body, "application/json")


def _url(config: ProviderConfig, rest: str, query: str) -> str:
    """Where the request would go; raises the Answer for a path or query that no URL may have."""
    try:
        return url_for(config, rest, query)
    except Unsendable as ex:
        raise plain(400, "the request cannot be forwarded: bad path or query") from ex


def _decoded(dialect: str, inbound: Inbound, body: bytes) -> bytes:
    """A body without its content coding; raises the Answer where it has none."""
    try:
        return decoded(dialect, body, inbound.header("Content-Encoding"))
    except InvalidRequest as ex:
        raise Answer(ex.status, ex.body, "application/json") from ex


def _passed_model(config: ProviderConfig, inbound: Inbound, body: bytes) -> str:
    """The model that a passed request asks for, as far as it matters; raises an Answer.

    A provider with a list must not be asked for other models on other ways, and its own names
    mean nothing to it.
    """
    if config.models is None or not body:
        return ""
    fields = members(_decoded(config.type, inbound, body))
    if "model" not in fields:
        return ""
    model = text(fields["model"]) or ""
    if config.models.upstream(model) is None:
        raise no_such_model(config, config.type, model)
    return model


def _actor_headers(config: ProviderConfig, caller: Caller) -> list[tuple[str, str]]:
    values = {"id": caller.user_id, "username": caller.username, "email": caller.email}
    return [(name, values.get(key, "")) for key, name in config.actor_headers.items()]


def _bedrock(config: ProviderConfig, route: Intercept) -> bool | None:
    """For a trace: whether AWS is behind it, None where it cannot be."""
    return config.bedrock is not None if route.api == MESSAGES else None
