"""What a request passes through at the edge, up to the first byte of its answer.

The order is that of the design: is the client within its rate, may users bring keys, is the
body small enough, is there a token; who is it; where does the path lead; is the body there,
and is there room; and only when the interception is recorded is the upstream called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog
from attrs import evolve

from aigateway.actors.codec.decoding import decode
from aigateway.actors.codec.headers import Headers, has_any
from aigateway.actors.control.messages import (
    Accepted,
    BeginAnswer,
    Caller,
    CapBusy,
    CapFull,
    Denied,
    NoPrice,
    Unavailable,
)
from aigateway.actors.interception.attribution import ATTRIBUTING, attribution_of
from aigateway.actors.interception.conversation import Opening, Prompt, affinity_of
from aigateway.actors.interception.fingerprint import fingerprint
from aigateway.actors.interception.headers import (
    BYOK,
    AgentFirewall,
    BadAgentFirewall,
    Credential,
    Presented,
    agent_firewall,
    byok_credential,
    centralized,
    identify,
)
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.interface import Interception, InvalidRequest
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    COMPACTION,
    GEMINI,
    MESSAGES,
    MODERATION,
    RESPONSES,
    Api,
    Intercept,
    Passthrough,
)
from aigateway.actors.interception.stored_ids import ids_in_body
from aigateway.actors.providers.bedrock.making import standing_credential
from aigateway.actors.providers.making import KEY_OF_COMMAND, NO_CREDENTIAL
from aigateway.actors.providers.recording import (
    Ledger,
    Recording,
    RecordPolicy,
    new_interception_id,
)
from aigateway.actors.providers.request import Refused, UpstreamRequest, model_for, recorded_model
from aigateway.actors.values import records
from aigateway.actors.values.attribution import NO_ATTRIBUTION
from aigateway.actors.values.policy import CONTENT_LEVELS, CallerRules, content_level
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.admission import (
    Admission,
    Target,
    authorize,
    find_route,
    present,
    too_large,
)
from aigateway.http.request.answers import Answer, api_error, json_message, plain
from aigateway.http.request.caps import capped, hold_for, refusal_of, warning_of
from aigateway.http.request.inbound import (
    Bodies,
    BodyTooLarge,
    BodyTooSlow,
    Call,
    Inbound,
    MalformedBody,
    TooManyBodies,
)
from aigateway.http.request.injected_relay import follow
from aigateway.http.request.injection import Injector, Rounds, without_codings
from aigateway.http.request.model_list import no_such_model
from aigateway.http.request.passing import Passing
from aigateway.http.request.policy import (
    Windows,
    check_models,
    check_provider,
    models_beside,
)
from aigateway.http.request.rate_limit import make_rate_limit
from aigateway.http.request.relay import (
    Body,
    OpenAnswer,
    Patience,
    Relayed,
    Upstream,
    actor_headers,
    address_for,
    headers_for,
    recorded,
    refusal_answer,
)
from aigateway.http.request.runtime import NoAnswer, Runtime, retry_after
from aigateway.http.request.sockets import Sockets
from aigateway.http.request.stored_ids import StoredIds
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    from aigateway.actors.interception.sent_content import ToldContent

    # Metrics are imported only where they are switched on.
    from aigateway.http.metrics.observer import RequestMetrics
    from aigateway.http.request.own_records import OwnRecords

__all__ = ["INTERCEPTION_HEADER", "Pipeline"]

_OWN = "/api/me/v1/"
"""Below it whoever has a key asks for their own records."""

log = structlog.get_logger("ai-gateway")

CAPACITY = "AI Gateway is currently at capacity. Please try again later."
INTERCEPTION_HEADER = "X-AI-Gateway-Interception-Id"


_NAMES_IDS = (RESPONSES, COMPACTION, GEMINI)
"""APIs whose requests may name what was stored before."""


class Pipeline:
    """Takes a request to the answer that is relayed, or raises the :class:`Answer` that ends it."""

    def __init__(
        self, runtime: Runtime, settings: Settings, metrics: RequestMetrics | None = None
    ) -> None:
        self._runtime = runtime
        self.settings = settings
        self._metrics = metrics
        self.rate_limit = make_rate_limit(settings)
        self.bodies = Bodies(
            settings.max_bodies_size, settings.body_timeout, settings.body_least_rate
        )
        self.admission = Admission(
            settings.max_concurrency, settings.queue_depth, settings.queue_wait
        )
        self.upstream = Upstream(runtime)
        self._stored = StoredIds(runtime) if settings.local else None
        self._own_records = settings.local
        self._records: OwnRecords | None = None
        self._passing = Passing(settings, self.upstream, self._stored, self._read_body)
        self._policies = {
            level: RecordPolicy(
                content=level != "none",
                answers=level == "full",
                lines=settings.structured_logging_source != "coderd",
            )
            for level in CONTENT_LEVELS
        }
        self._told: ToldContent | None = None
        if settings.content == "full":
            # PERF: nobody else needs it.
            from aigateway.actors.interception.sent_content import ToldContent

            self._told = ToldContent()
        self._windows = Windows(settings)
        self.injector: Injector | None = None
        if runtime.plan.start_mcp is not None:
            self.injector = Injector(
                runtime,
                max_rounds=settings.mcp_max_iterations,
                tool_timeout=settings.mcp_tool_timeout,
                max_result_size=settings.mcp_max_result_size,
            )
        self.sockets = Sockets(runtime, self, metrics)

    # -- in order

    def run(self, call: Call) -> Relayed:
        """Returns what the client gets of the upstream's answer."""
        if self.rate_limit is not None:
            self.rate_limit.check(call.inbound)
        presented = present(call, self.settings)
        call.begin("authorize")
        caller = authorize(call, presented, self._runtime, self.settings.max_wait)
        if self._own_records and call.inbound.path.startswith(_OWN):
            raise self._own(call, caller)
        call.begin("read")
        target, route = find_route(call, self._runtime.tree, self.settings.max_wait)
        passed = isinstance(route, Passthrough)
        upgrade = not passed and call.inbound.wants_websocket
        # Of a WebSocket each request counts, and not that it was opened.
        self.let_in(caller, target.provider, counted=not upgrade)
        if isinstance(route, Passthrough):
            return self._passing.run(call, presented, caller, target, route)
        if upgrade:
            return self.sockets.open(call, presented, caller, target, route)
        return self._intercept(call, presented, caller, target, route)

    def _own(self, call: Call, caller: Caller) -> Answer:
        # Not at the top: most gateways are never asked.
        from aigateway.http.request.own_records import OwnRecords

        if self._records is None:
            self._records = OwnRecords(self.settings.local_db)
        return self._records.answer(call, caller, call.inbound.path.removeprefix(_OWN), time.time())

    def let_in(self, caller: Caller, config: ProviderConfig, *, counted: bool = True) -> None:
        """Raise the Answer to who may not use this provider, or has no more in this minute."""
        if caller.rules is not None:
            check_provider(caller.rules, config)
            if counted:
                self._windows.enter(caller.rules)

    # -- intercepted

    def _intercept(
        self, call: Call, presented: Presented, caller: Caller, target: Target, route: Intercept
    ) -> Relayed:
        inbound, config = call.inbound, target.provider
        try:
            firewall = agent_firewall(inbound.headers)
        except BadAgentFirewall as ex:
            raise plain(400, str(ex), reason=Reason.BAD_REQUEST) from ex
        call.trace.intercept(
            provider=config.name, kind=config.type, user=caller.user_id,
            api=route.api, route=call.route,
        )  # fmt: skip
        opened = self._open(call, route)
        interception: Interception = opened
        self.choose_model(call, config, route.api, interception.model)
        if route.bedrock:
            from aigateway.actors.providers.bedrock.native import NativeInterception

            interception = NativeInterception(opened, route.api)
        elif self.injector is not None:
            interception = self.injector.offer(interception, call, route.api, presented.token)
        credential = self.credential(config, presented, route.api)
        recording = self.record(call, route.api, interception, opened, credential, firewall)
        if (refusal := _refusal(interception)) is not None:
            recording.close()
            raise refusal
        try:
            request = self._request(
                call, presented, target, route, interception, opened.opening, credential
            )
            result = self.upstream.perform(config, request)
            if self.injector is not None and isinstance(interception, InjectedInterception):
                result = self.injector.without_refused(
                    interception,
                    result,
                    lambda body: self.upstream.perform(config, evolve(request, body=body)),
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
        call.trace.answered()
        recording.abandoned(result.abandoned)
        if isinstance(result, Refused):
            recording.credential_hint = result.credential_hint
            recording.cut(result.message, result.error_type)
            recording.close()
            raise refusal_answer(route.api, result)
        answering = self.upstream.provider_of(result) or config
        if answering.keepalive_ping is not None:
            interception.keepalives = answering.keepalive_ping > 0
        patience = Patience.with_provider(answering, route.api, self.settings.keepalive_ping)
        headers = recording.begin_answer(result, asked=(config.name, call.model))
        # Neither is needed any more, and a stream may take long.
        call.inbound.body = b""
        result.exchange.forget_headers()
        answer = OpenAnswer(result, patience, recording)
        if (refusal := _refusal(interception, answered=True)) is not None:
            answer.drop("the upstream's answer cannot be relayed")
            raise refusal
        if self.injector is not None and isinstance(interception, InjectedInterception):
            rounds = Rounds(
                injector=self.injector,
                upstream=self.upstream,
                call=call,
                loop=interception,
                recording=recording,
                token=presented.token,
                request=evolve(request, body=b""),
                config=config,
                headers=headers,
                rules=capped(caller, credential),
                max_wait=self.settings.max_wait,
            )
            return follow(rounds, answer)
        request.affinity.forget_body()
        return Relayed(
            result.exchange.status,
            result.exchange.reason,
            headers,
            Body(answer, recorded(answer), interception.error_body),
            event_stream=recording.interception.event_stream,
        )

    def choose_model(self, call: Call, config: ProviderConfig, api: Api, asked: str) -> str:
        """The name that ``config``'s provider has for the model that is asked for.

        Raises the Answer for one that it does not have, or that this caller may not use.
        """
        asked_provider, caller = call.provider, call.caller
        assert asked_provider is not None
        assert caller is not None
        model = model_for(config, asked, asked_provider.name, path=call.route)
        if model is None:
            call.interception_id = ""
            raise no_such_model(config, api, asked)
        call.model = recorded_model(asked_provider, asked, call.route)
        if caller.rules is not None:
            self._check_models(call, caller.rules, config, (asked, model, call.model))
        return model

    def record(
        self,
        call: Call,
        api: Api,
        interception: Interception,
        opened: Relay,
        credential: Credential,
        firewall: AgentFirewall | None,
        read_parts: Callable[[bytes, Prompt], bytes] = fingerprint,
    ) -> Recording:
        """Have the start of an interception recorded; from then on its end has to be.

        ``opened`` is what it was before anything was put around it; ``read_parts`` makes the
        checksums of its prompt, with their key.
        Raises the Answer of a request that may not be, or whose start cannot be recorded.
        """
        config, caller = call.provider, call.caller
        assert config is not None
        assert caller is not None
        recording = self._recording(call, api, interception, opened.opening, credential)
        bedrock = config.bedrock is not None if api == MESSAGES else None
        call.trace.created(recording, model=call.model, bedrock=bedrock)
        call.begin("record")
        policy = self._record_policy(caller)
        key, in_session = _begin(
            self._runtime, call, interception, credential, firewall, api,
            policy=policy, max_wait=self.settings.max_wait,
            metrics=self._metrics,
        )  # fmt: skip
        written, opened.written = opened.written, None
        if policy.answers:
            opened.keep_answers()
        if key and written is not None and policy.content:
            if in_session:
                recording.prompt_parts = read_parts(key, written)
            if policy.answers and self._told is not None:
                _record_sent(self._told, recording, key, caller.user_id, written)
        self._runtime.inflight.record(recording)
        if self._metrics is not None:
            self._metrics.began(config.name, call.model, call.route)
        call.begin("provider")
        call.trace.recorded(call.session_id)
        return recording

    def _request(
        self,
        call: Call,
        presented: Presented,
        target: Target,
        route: Intercept,
        interception: Interception,
        opening: Opening,
        credential: Credential,
    ) -> UpstreamRequest:
        """What the provider is asked; raises an Answer for what cannot be sent."""
        inbound, config, caller = call.inbound, target.provider, call.caller
        assert caller is not None
        own_key = credential.kind == BYOK
        client_headers: Headers = presented.remaining_headers
        if isinstance(interception, InjectedInterception):
            client_headers = without_codings(client_headers)
        headers = headers_for(
            client_headers, auth=(), actor=actor_headers(config, caller), own_key=own_key
        )
        address_for(config, target.rest, inbound.query)
        return UpstreamRequest(
            method=inbound.method,
            rest=target.rest,
            query=inbound.query,
            headers=call.trace.calling(headers),
            body=interception.upstream_body(),
            credential=credential if own_key else None,
            provider=config.name,
            route=call.route,
            model=interception.model,
            affinity=affinity_of(call.session_id, caller.user_id, opening, alone=config.alone),
            api=route.api,
            streaming=interception.streaming,
            attempts=call.dump,
            rules=caller.rules,
        )

    def _check_models(
        self, call: Call, rules: CallerRules, config: ProviderConfig, models: Iterable[str]
    ) -> None:
        try:
            check_models(rules, config, models)
            if rules.models:
                check_models(rules, config, models_beside(_readable_body(call.inbound)))
        except Answer:
            # There is no record of it.
            call.interception_id = ""
            raise

    def _record_policy(self, caller: Caller) -> RecordPolicy:
        # PERF: mostly nobody lowers it.
        if caller.rules is None or caller.rules.content is None:
            return self._policies[self.settings.content]
        return self._policies[content_level(self.settings.content, caller.rules)]

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
                ask_usage=route.api == CHAT_COMPLETIONS and self._asks_usage(call.provider),
                model=route.model,
                streaming=route.streaming,
            )
        except InvalidRequest as ex:
            call.interception_id = ""
            raise Answer(ex.status, ex.body, "application/json") from ex

    def _asks_usage(self, config: ProviderConfig | None) -> bool:
        """Whether everybody who may answer takes ``stream_options``."""
        if config is None or not config.stream_options:
            return False
        if config.alone:
            return True
        names = (*config.fallback, *(name for name, _ in config.group))
        others = map(self._runtime.tree.provider_config, names)
        return all(other is None or other.stream_options for other in others)

    def credential(self, config: ProviderConfig, presented: Presented, api: Api) -> Credential:
        """With what the provider is asked.  Raises the Answer where there is nothing."""
        if config.bedrock is not None:
            return standing_credential(config)
        own = None
        if presented.byok or config.type == "copilot":
            own = byok_credential(config.type, presented.remaining_headers)
        if own is not None:
            return own
        if config.vertex is not None and not presented.byok:
            from aigateway.actors.providers.vertex.making import GOOGLE_CREDENTIAL

            return GOOGLE_CREDENTIAL
        if config.key_command is not None and not presented.byok:
            return KEY_OF_COMMAND
        if config.keys and not presented.byok:
            return centralized(config.type, config.keys[0])
        if config.no_key and not presented.byok:
            return NO_CREDENTIAL
        # The reference fails such a request when it builds its interceptor.
        log.warning("no credential for the provider", provider=config.name)
        if config.type == "copilot":
            text = "missing Copilot authorization: Authorization header not found or invalid"
        else:
            text = f'no credential for the provider "{config.name}"'
        raise api_error(api, 400, text, reason=Reason.NO_CREDENTIAL)

    def _recording(
        self,
        call: Call,
        api: Api,
        interception: Interception,
        opening: Opening,
        credential: Credential,
    ) -> Recording:
        """Raises the Answer for a request that names what another user has stored."""
        caller = call.caller
        assert caller is not None
        observe = self._observer(call, caller)
        if caller.rules is not None:
            observe = self._windows.watching(caller.rules, observe)
        if self._stored is not None and api in _NAMES_IDS and credential.kind != BYOK:
            if opening.names_stored:
                try:
                    ids = ids_in_body(_readable_body(call.inbound))
                    self._stored.check(caller, api, ids)
                except Answer:
                    call.interception_id = ""
                    raise
            if opening.stored:
                observe = self._stored.watching(caller, observe)
        ledger = Ledger(self._runtime.tree, interception.id)
        config, policy = call.provider, self._record_policy(caller)
        if config is None or not config.dump_dir or not policy.content or call.upgraded:
            return Recording(interception, ledger, observe, policy)
        from aigateway.http.request.dump import DumpedRecording, dump_of_interception

        call.dump = dump_of_interception(config.dump_dir, config.name, call.model, interception.id)
        return DumpedRecording(call.dump, interception, ledger, observe, policy)

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

    def _read_body(self, call: Call) -> bytes:
        """The whole body; then the request has a place, too.  Raises an Answer."""
        inbound = call.inbound
        try:
            body = inbound.read_body(self.settings.max_body_size, self.bodies)
        except BodyTooLarge as ex:
            raise too_large(self.settings.max_body_size) from ex
        except BodyTooSlow as ex:
            log.warning("request body given up", reason=str(ex), user_id=call.user_id)
            text = f"request body too slow: {ex}"
            raise plain(408, text, reason=Reason.BODY_TOO_SLOW, close=True) from ex
        except TooManyBodies as ex:
            log.warning("too many request bodies are being read", held=self.bodies.held)
            text = "too many request bodies are being read, please try again later"
            raise plain(503, text, reason=Reason.CAPACITY, retry_after=1, close=True) from ex
        except MalformedBody as ex:
            text = f"malformed request body: {ex}"
            raise plain(400, text, reason=Reason.BAD_REQUEST, close=True) from ex
        self.admit(call)
        return body

    def admit(self, call: Call) -> None:
        """Wait for a place; raises an Answer when there is none.

        Only now: a place is for a request that is whole, not for one that drips.
        """
        if self.admission.limited:
            call.begin("place")
        if not self.admission.enter():
            raise json_message(503, CAPACITY, reason=Reason.CAPACITY)
        call.admitted = True
        if self.admission.limited:
            call.begin("read")


def _refusal(interception: Interception, *, answered: bool = False) -> Answer | None:
    """What the interception wants the client to get instead of an upstream's answer."""
    if interception.refusal is None:
        return None
    reason = Reason.PROVIDER if answered else Reason.BAD_REQUEST
    return Answer(*interception.refusal, "application/json", reason=reason)


def _begin(
    runtime: Runtime,
    call: Call,
    interception: Interception,
    credential: Credential,
    firewall: AgentFirewall | None,
    api: Api,
    *,
    policy: RecordPolicy,
    max_wait: float,
    metrics: RequestMetrics | None,
) -> tuple[bytes, bool]:
    """Have the start recorded, and what it may cost reserved; raises an Answer when that fails,
    after ``max_wait`` seconds for each.

    Returns what the parts of its prompt are to be keyed with, nothing where nobody takes them, and
    whether it is of a session."""
    inbound, caller, config = call.inbound, call.caller, call.provider
    assert caller is not None
    assert config is not None
    info = identify(inbound.headers, lambda: _readable_body(inbound))
    call.client, call.session_id = info.client, info.session_id
    attribution = NO_ATTRIBUTION
    # PERF: a plain client says nothing.
    if info.session_id or caller.project or has_any(inbound.headers, ATTRIBUTING):
        attribution, dropped = attribution_of(
            inbound.headers, info, project=caller.project, may_choose=caller.rules is None
        )
        if dropped and metrics is not None:
            metrics.attribution_dropped(dropped)
    record = records.InterceptionBegun(
        id=interception.id,
        initiator_id=caller.user_id,
        username=caller.username,
        api_key_id=caller.api_key_id,
        provider="openai" if config.speaks_openai else config.type,
        provider_name=config.name,
        model=call.model,
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
        group_names=", ".join(caller.groups) or None,
        attribution=attribution,
    )
    hold, patience = None, max_wait + 5.0
    # Most gateways have no policy, and moderations cost nothing.
    rules = None if caller.rules is None or api == MODERATION else capped(caller, credential)
    if rules is not None:
        hold = hold_for(
            caller, rules, config, runtime.tree,
            api=api, model=interception.model, recorded=call.model,
            readable=_sent_body(interception, inbound), streaming=interception.streaming,
            path=call.route,
        )  # fmt: skip
        patience += max_wait
    answer: BeginAnswer
    try:
        answer = runtime.begin(record, hold, patience)
    except NoAnswer as ex:
        answer = Unavailable(str(ex))
    if isinstance(answer, Accepted):
        call.recorded = True
        if rules is not None and answer.share is not None:
            call.cap_warning = warning_of(answer.share, rules)
        policy.log(record)
        return answer.prompt_key, attribution.session_id is not None
    if rules is not None and isinstance(answer, CapFull | CapBusy | NoPrice):
        call.interception_id = ""
        raise refusal_of(api, answer, rules)
    assert isinstance(answer, Denied | Unavailable)
    log.warning("failed to record interception", interception_id=record.id, error=answer.message)
    if isinstance(answer, Unavailable):
        raise plain(
            503,
            "failed to record interception",
            reason=Reason.NOT_RECORDED,
            retry_after=retry_after(answer.retry_after),
        )
    raise plain(500, "failed to record interception", reason=Reason.NOT_RECORDED)


def _record_sent(
    told: ToldContent, recording: Recording, key: bytes, user_id: str, written: Prompt
) -> None:
    """Record what of the prompt was not recorded before."""
    sent = told.sent(key, user_id, recording.interception.id, written, time.time())
    recording.sent(
        sent.records,
        lambda: told.remember(sent.names, time.time()),
        at_once=sent.size > _HELD,
    )


_HELD = 64 * 1024
"""Characters that are held until an answer has ended."""


def _sent_body(interception: Interception, inbound: Inbound) -> bytes:
    """What the provider reads, without its content coding."""
    if isinstance(interception, InjectedInterception):
        return interception.body
    return _readable_body(inbound)


def _readable_body(inbound: Inbound) -> bytes:
    """The body without its content encoding; it was read and decoded once before."""
    coding = inbound.header("Content-Encoding")
    return decode(inbound.body, coding) if coding else inbound.body
