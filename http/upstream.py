"""Calling a provider from the edge: the request as this provider is to get it.

What differs between providers of one API is done here, for each provider that is tried: its
address, its headers, and everything about Bedrock.  A provider's actor falls back on
another by itself where the request stays the same; where Bedrock is on either side the
request has to be made anew, and falling back is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from attrs import evolve, field, frozen

from aigateway.actors.providers.bedrock.credentials import NoCredentials
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.credentials import BYOK, Credential, centralized
from aigateway.actors.providers.interception.headers import UnsafeHeader, for_upstream
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.routes import upstream_url
from aigateway.actors.providers.messages import Opened, Perform, Refused
from aigateway.actors.tree import provider_role
from aigateway.http.answers import Answer, api_error, plain
from aigateway.http.inflight import Stopping
from aigateway.http.runtime import NoAnswer, Runtime

if TYPE_CHECKING:
    from aigateway.http.dump import Dump

__all__ = ["Outgoing", "Upstream", "headers_for", "refusal_answer", "url_for"]

log = structlog.get_logger("ai-gateway")


@frozen(kw_only=True)
class Outgoing:
    """A request as one provider is to get it."""

    method: str
    url: str
    headers: Headers
    body: bytes = field(repr=False)
    credential: Credential | None = None
    """The user's own or a signature; None: one of the provider's keys, unless
    ``add_credential`` is false."""
    add_credential: bool = True
    rest: str = ""
    """The path below the provider's name; with ``query`` the provider's actor makes the URL of
    whoever is to answer."""
    query: str = ""
    route: str = ""
    model: str = ""
    api: str = ""


Put = Callable[[ProviderConfig], Outgoing]
"""Puts a request for a provider.  May raise NoCredentials."""


class Upstream:
    """Sends requests to provider actors."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def perform(self, config: ProviderConfig, put: Put, dump: Dump | None) -> Opened | Refused:
        """Send a request to ``config``'s provider, or to one that it falls back on."""
        others = self._fallbacks(config)
        if not others:
            return self._try(config, put, dump)[0]

        def alone(provider: ProviderConfig) -> Outgoing:
            return evolve(put(provider), rest="")

        result, credential = self._try(config, alone, dump)
        tried = config
        for other in others:
            if not _may_fall_back(result, credential):
                break
            log.warning("request put anew for the fallback", provider=tried.name, next=other.name)
            result, credential = self._try(other, alone, dump)
            tried = other
        return result

    def send_once(self, config: ProviderConfig, put: Put, dump: Dump | None) -> Opened | Refused:
        """Like :meth:`perform`, without any fallback."""
        return self._try(config, put, dump)[0]

    def provider_of(self, opened: Opened) -> ProviderConfig | None:
        """The configuration of the provider that answered."""
        return self._runtime.tree.provider_config(opened.provider_name)

    def _try(
        self, config: ProviderConfig, put: Put, dump: Dump | None
    ) -> tuple[Opened | Refused, Credential | None]:
        try:
            outgoing = put(config)
        except NoCredentials as ex:
            log.error("cannot sign requests", provider=config.name, error=str(ex))
            return Refused(500, f"create anthropic client: {ex}", "unauthorized"), None
        if dump is not None:
            headers = [*outgoing.headers, *_shown_credential(config, outgoing)]
            dump.request(outgoing.method, outgoing.url, headers, outgoing.body)
        result = self._send(config, outgoing)
        if dump is not None:
            if isinstance(result, Opened):
                dump.answer(result.exchange)
            else:
                dump.error(result.message)
        return result, outgoing.credential

    def _send(self, config: ProviderConfig, outgoing: Outgoing) -> Opened | Refused:
        wait = config.connect_timeout + config.first_byte_timeout + 5.0

        def message(reply: Any) -> Perform:
            # What was signed for one address cannot go to another.
            fixed = config.bedrock is not None or not outgoing.rest
            return Perform(
                method=outgoing.method,
                url=outgoing.url if fixed else "",
                rest="" if fixed else outgoing.rest,
                query="" if fixed else outgoing.query,
                api=outgoing.api,
                headers=outgoing.headers,
                body=outgoing.body,
                reply=reply,
                route=outgoing.route,
                model=outgoing.model,
                credential=outgoing.credential,
                add_credential=outgoing.add_credential,
            )

        try:
            result = self._runtime.ask(provider_role(config.name), message, wait)
        except NoAnswer as ex:
            return Refused(502, f"the provider's actor failed: {ex}", sent=ex.sent)
        except Stopping as ex:
            return Refused(503, str(ex), retry_after=1, sent=True)
        assert isinstance(result, Opened | Refused)
        if isinstance(result, Opened):
            self._runtime.inflight.hold(result.exchange)
        return result

    def _fallbacks(self, config: ProviderConfig) -> list[ProviderConfig]:
        """Who stands in for ``config``, if the request has to be made anew for any of them."""
        if not config.fallback:
            return []
        chain = [config]
        while name := chain[-1].fallback:
            other = self._runtime.tree.provider_config(name)
            if other is None or not other.enabled or other.error or other in chain:
                break
            chain.append(other)
        return chain[1:] if any(each.bedrock is not None for each in chain) else []


def _shown_credential(config: ProviderConfig, outgoing: Outgoing) -> Headers:
    """The credential's headers for a dump.  Of the provider's keys it is the first that is
    tried; which one served is in the record."""
    if outgoing.credential is not None:
        return outgoing.credential.headers
    if outgoing.add_credential and config.keys:
        return centralized(config.type, config.keys[0]).headers
    return ()


def _may_fall_back(result: Opened | Refused, credential: Credential | None) -> bool:
    """Whether another provider may be asked: not with the user's own key, which is for one.

    Nor after a timeout of the answer: nobody waits for a second one.
    """
    if isinstance(result, Opened) or (credential is not None and credential.kind == BYOK):
        return False
    return result.status >= 429 and not (result.status == 504 and result.sent)


def headers_for(headers: Headers, **rules: Any) -> list[tuple[str, str]]:
    """The client's headers as they go upstream; raises an Answer for unsafe ones."""
    try:
        return for_upstream(headers, **rules)
    except UnsafeHeader as ex:
        raise plain(400, f"the request cannot be forwarded: {ex}") from ex


def url_for(config: ProviderConfig, rest: str, query: str) -> str:
    """The provider's address for a path below its name; raises an Answer for a bad one."""
    try:
        return upstream_url(config.type, config.base_url, rest, query)
    except ValueError as ex:
        raise plain(400, "the request cannot be forwarded: bad path or query") from ex


def refusal_answer(dialect: str, refused: Refused) -> Answer:
    """What the client gets when no provider answered."""
    if refused.body is None:
        return api_error(dialect, refused.status, refused.message, retry_after=refused.retry_after)
    answer = Answer(refused.status, refused.body, "application/json")
    if refused.retry_after is None:
        return answer
    return evolve(answer, headers=(("Retry-After", str(refused.retry_after)),))
