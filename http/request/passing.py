"""Requests that are passed on to a provider as they came, and are not recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from urllib.parse import unquote

import structlog

from aigateway.actors.codec.decoding import DecodingError, decode
from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.codec.reading import members, text
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.bedrock_paths import InvokePath, invoked
from aigateway.actors.interception.conversation import Affinity, affinity_of_passed, is_about_stored
from aigateway.actors.interception.gemini_paths import model_path
from aigateway.actors.interception.headers import (
    Presented,
    UnsafeHeader,
    byok_credential,
    for_client,
    identify,
)
from aigateway.actors.interception.interface import InvalidRequest
from aigateway.actors.interception.opening import decoded
from aigateway.actors.interception.routes import GEMINI, MESSAGES, Passthrough
from aigateway.actors.interception.stored_ids import ids_in_body, ids_in_path
from aigateway.actors.interception.vertex_paths import COUNTING, VertexPath
from aigateway.actors.providers.bedrock.counting import COUNT_TOKENS, count_answer
from aigateway.actors.providers.request import Opened, Refused, UpstreamRequest, model_for
from aigateway.actors.values.policy import CallerRules, content_level
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.admission import Target
from aigateway.http.request.answers import Answer, api_error, plain
from aigateway.http.request.caps import capped, is_free, passed_refusal
from aigateway.http.request.inbound import Call, Inbound
from aigateway.http.request.injection import without_codings
from aigateway.http.request.model_list import listed_models, no_such_model
from aigateway.http.request.policy import (
    check_models,
    check_unread,
    models_beside,
    without_forbidden,
)
from aigateway.http.request.relay import (
    Body,
    OpenAnswer,
    Patience,
    Relayed,
    Upstream,
    address_for,
    headers_for,
    passed,
    read_whole,
    refusal_answer,
)
from aigateway.http.request.stored_ids import CreatedId, StoredIds
from aigateway.http.settings import Settings

__all__ = ["Passing"]

_LARGEST_LIST = 16 * 1024 * 1024
"""Bytes of a list of models that has to be read."""
_VERTEX_COUNT = VertexPath(COUNTING).route
_MODELS = frozenset({"/models/", "/v1/models/"})
"""Passed routes to one model of the account."""
_STORES = frozenset({"/batches", "/files", "/v1/files", "/v1/messages/batches"})
"""Passed routes to all batches and files of an account; those to one of them have a slash more."""
_MAKING = frozenset({"/conversations", "/cachedContents"}) | _STORES
"""Passed routes by which something is stored."""
_NAMING = frozenset({"/responses/", "/batches"})
"""Those whose requests may name what was stored before."""

log = structlog.get_logger("ai-gateway")


class Passing:
    """Takes a request to the answer that is relayed, or raises the :class:`Answer` that ends it."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        stored: StoredIds | None,
        read_body: Callable[[Call], bytes],
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._stored = stored
        self._read_body = read_body

    def run(
        self, call: Call, presented: Presented, caller: Caller, target: Target, route: Passthrough
    ) -> Relayed:
        """Send it and wait for the head of the answer."""
        inbound, config = call.inbound, target.provider
        listed = listed_models(config, inbound.method, target.rest, caller.rules)
        if listed is not None:
            raise listed
        if config.invokes_bedrock:
            if (path := invoked(target.rest)) is not None:
                return self._count_natively(call, presented, config, caller.rules, target, path)
            if (target.rest, inbound.method) == (COUNT_TOKENS, "POST"):
                raise self._count_tokens(call, presented, config, caller.rules)
            said = f'the provider "{config.name}" is AWS Bedrock, which has no such route'
            raise api_error(config.type, 404, said, reason=Reason.NO_ROUTE)
        if config.vertex is not None and not (
            inbound.method == "POST" and route.route in (COUNT_TOKENS, _VERTEX_COUNT)
        ):
            said = f'the provider "{config.name}" is Vertex AI, which has no such route'
            raise api_error(config.type, 404, said, reason=Reason.NO_ROUTE)
        body = self._read_body(call)
        own = None
        if config.bedrock is None:
            own = byok_credential(config.type, presented.remaining_headers)
        rules = capped(caller, own)
        if rules is not None and not is_free(inbound.method, route.route):
            raise passed_refusal(rules, config, inbound.method, call.route)
        stored = self._stored if own is None else None
        if own is None and inbound.method == "DELETE" and route.route in _MODELS:
            # The account's own models are everybody's.
            text = f"route not supported: {inbound.method} {inbound.shown_path}"
            raise plain(404, text, reason=Reason.NO_ROUTE)
        if own is None and route.route.removesuffix("/") in _STORES:
            _check_batches(config, inbound, caller, route)
        if stored is not None:
            ids = ids_in_path(target.rest)
            if body and route.route in _NAMING:
                ids += ids_in_body(_decoded(config.type, inbound, body))
            stored.check(caller, config.type, ids)
        url = address_for(config, target.rest, inbound.query)
        call.trace.passthrough(call.route, url, inbound.method)
        if config.dump_dir and content_level(self._settings.content, caller.rules) != "none":
            from aigateway.http.request.dump import dump_of_passthrough

            call.dump = dump_of_passthrough(config.dump_dir, config.name, url)
        client_headers: Headers = presented.remaining_headers
        filtered = caller.rules if _lists_models(inbound, target.rest, caller) else None
        if filtered is not None:
            client_headers = without_codings(client_headers)
        headers = headers_for(
            call.trace.calling(client_headers),
            auth=own.headers if own is not None else (),
            actor=(),
            own_key=own is not None,
            passthrough=True,
            forwarded=self._settings.send_forwarded_headers,
            client_ip=inbound.peer_ip,
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
            model=_passed_model(config, inbound, target.rest, body, caller.rules),
            add_credential=own is None and config.type != "copilot",
            attempts=call.dump,
            passed=call.route,
            affinity=_affinity(call),
        )
        call.begin("provider")
        result = self._upstream.perform(config, request)
        call.answered(result.begun_at)
        if isinstance(result, Refused):
            log.warning("passthrough failed", provider=config.name, error=result.message)
            if result.body is not None or result.retry_after is not None:
                raise refusal_answer(config.type, result)
            raise plain(502, "upstream proxy error", reason=Reason.PROVIDER)
        if filtered is not None and result.exchange.status == 200:
            raise _filtered(result, config, filtered)
        watch = None
        if stored is not None and route.route in _MAKING and inbound.method == "POST":
            watch = CreatedId(stored, caller, result.exchange)
        return _relayed(result, call, config, watch)

    def _count_natively(
        self,
        call: Call,
        presented: Presented,
        config: ProviderConfig,
        rules: CallerRules | None,
        target: Target,
        path: InvokePath,
    ) -> Relayed:
        """A count of a client that speaks Bedrock's own API."""
        body = self._read_body(call)
        upstream = model_for(config, path.model, config.name, path=target.rest)
        if upstream is None:
            raise no_such_model(config, MESSAGES, path.model)
        if rules is not None:
            check_models(rules, config, (path.model, upstream))
        request = UpstreamRequest(
            method="POST",
            rest=target.rest,
            headers=headers_for(presented.remaining_headers, auth=(), actor=()),
            body=body,
            provider=config.name,
            model=path.model,
            passed=call.route,
        )
        call.begin("provider")
        result = self._upstream.perform(config, request)
        call.answered(result.begun_at)
        if isinstance(result, Refused):
            raise refusal_answer(MESSAGES, result)
        return _relayed(result, call, config, None)

    def _count_tokens(
        self,
        call: Call,
        presented: Presented,
        config: ProviderConfig,
        rules: CallerRules | None,
    ) -> Answer:
        """AWS's count in Anthropic's shape; raises an Answer when there is none."""
        body = self._read_body(call)
        fields = members(_decoded(MESSAGES, call.inbound, body))
        model = text(fields.get("model")) or ""
        upstream = model_for(config, model, config.name)
        if upstream is None:
            raise no_such_model(config, MESSAGES, model)
        if rules is not None:
            check_models(rules, config, (model, upstream))
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
        answer = OpenAnswer(result, Patience(0.0, config.idle_timeout))
        status, counted = count_answer(*read_whole(answer))
        return Answer(status, counted, "application/json", reason=Reason.PROVIDER)


def _check_batches(
    config: ProviderConfig, inbound: Inbound, caller: Caller, route: Passthrough
) -> None:
    """Raise the Answer for batches and files that are not for this caller.

    Nobody reads what a batch asks for, so no list of models holds for it.
    """
    if route.route in _STORES and inbound.method != "POST":
        text = f"route not supported: {inbound.method} {inbound.shown_path}; "
        text += "it would list what everybody has stored"
        raise api_error(config.type, 404, text, reason=Reason.NO_ROUTE)
    if caller.rules is not None:
        check_unread(caller.rules)


def _relayed(
    opened: Opened,
    call: Call,
    config: ProviderConfig,
    watch: Callable[[bytes, bool], None] | None,
) -> Relayed:
    patience = Patience(0.0, config.idle_timeout)
    if call.dump is None:
        answer = OpenAnswer(opened, patience)
    else:
        answer = call.dump.answer_of(opened, patience)

    def error_body(status: int, message: str) -> bytes:
        return api_error(config.type, status, message, reason=Reason.PROVIDER).body

    # A long answer does not need it.
    call.inbound.body = b""
    exchange = opened.exchange
    body = Body(answer, passed(answer, watch), error_body)
    return Relayed(exchange.status, exchange.reason, exchange.headers, body)


def _affinity(call: Call) -> Affinity:
    session = None
    if is_about_stored(call.route):
        session = identify(call.inbound.headers, lambda: b"").session_id
    return affinity_of_passed(session, call.user_id, call.route)


def _decoded(dialect: str, inbound: Inbound, body: bytes) -> bytes:
    """A body without its content coding; raises the Answer where it has none."""
    try:
        return decoded(dialect, body, inbound.header("Content-Encoding"))
    except InvalidRequest as ex:
        raise Answer(ex.status, ex.body, "application/json") from ex


def _passed_model(
    config: ProviderConfig, inbound: Inbound, rest: str, body: bytes, rules: CallerRules | None
) -> str:
    """The model that a passed request asks for, as far as it matters; raises an Answer.

    A provider with a list must not be asked for other models on other ways, and its own names
    mean nothing to it.
    """
    named = rules is not None and bool(rules.models)
    if config.models is None and not named:
        return ""
    if config.type == GEMINI and (path := model_path(rest)) is not None:
        model = path.model
    elif named and (asked := _model_in_path(inbound, rest)):
        model = asked
    elif body and "model" in (fields := members(_decoded(config.type, inbound, body))):
        model = (text(fields["model"]) or "").removeprefix("models/")
    else:
        return ""
    upstream = model_for(config, model, config.name)
    if config.models is not None and upstream is None:
        raise no_such_model(config, config.type, model)
    if rules is not None:
        check_models(rules, config, (model, upstream or model))
        if body:
            check_models(rules, config, models_beside(_decoded(config.type, inbound, body)))
    return model if config.models is not None else ""


def _lists_models(inbound: Inbound, rest: str, caller: Caller) -> bool:
    """Whether the answer is a list of models that the policy may shorten."""
    if caller.rules is None or not caller.rules.models or inbound.method != "GET":
        return False
    return rest.endswith("/models")


def _model_in_path(inbound: Inbound, rest: str) -> str:
    """The model that is asked about in the path; empty: none is."""
    _, found, name = rest.rpartition("/models/")
    return unquote(name) if found and inbound.method == "GET" else ""


def _filtered(opened: Opened, config: ProviderConfig, rules: CallerRules) -> Answer:
    """A provider's list of models, with those that the caller may use."""
    exchange = opened.exchange
    answer = OpenAnswer(opened, Patience(0.0, config.idle_timeout))
    status, body = read_whole(answer, _LARGEST_LIST)
    if status == 200 and len(body) < _LARGEST_LIST:
        with contextlib.suppress(DecodingError, UnsafeHeader):
            body = decode(body, first_of(exchange.headers, "content-encoding") or "")
            headers = [
                (name, value)
                for name, value in for_client(exchange.headers)
                if name.lower() not in ("content-encoding", "content-length", "content-type")
            ]
            listed = without_forbidden(rules, config, body)
            return Answer(200, listed, "application/json", tuple(headers))
    said = "the provider's list of models cannot be read"
    return api_error(config.type, 502, said, reason=Reason.PROVIDER)
