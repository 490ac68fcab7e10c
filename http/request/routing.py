"""Where a request's path leads: to a provider that can serve, as what kind of request."""

from __future__ import annotations

import re

import structlog
from attrs import frozen

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.interception.routes import Intercept, Passthrough, resolve
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.request.answers import Answer, plain
from aigateway.http.request.call import Call

__all__ = ["PREFIXES", "Target", "find_route"]

PREFIXES = ("/api/v2/aibridge/", "/api/v2/ai-gateway/")
"""Where coderd mounts the same routes; a client may use either or none."""

log = structlog.get_logger("ai-gateway")


@frozen
class Target:
    """The provider that is asked for, and the path below its name."""

    provider: ProviderConfig
    rest: str


def find_route(call: Call, tree: ActorTree) -> tuple[Target, Intercept | Passthrough]:
    """Say what is asked for, and note it in ``call``.  Raises an Answer when that is nothing."""
    inbound = call.inbound
    path = inbound.path
    for prefix in PREFIXES:
        if path.startswith(prefix):
            path = path[len(prefix) - 1 :]
            break
    name, slash, rest = path[1:].partition("/")
    config = tree.provider_config(name)
    if config is None and not tree.providers_loaded:
        raise plain(
            503, "AI Gateway is starting up, retry shortly", headers=(("Retry-After", "1"),)
        )
    if config is None:
        raise _no_route(inbound.method, inbound.shown_path, path, tree)
    if not config.enabled:
        raise _disabled(config)
    if config.error is not None:
        # Also where its type is unknown, and so are its routes.
        log.error("request for a misconfigured provider", provider=config.name)
        raise plain(503, f'AI provider "{config.name}" is misconfigured: {config.error}')
    route = resolve(config.type, inbound.method, slash + rest)
    if route is None:
        raise _no_route(inbound.method, inbound.shown_path, path, tree)
    call.provider, call.route = config, route.route
    return Target(config, slash + rest), route


def _no_route(method: str, asked: str, path: str, tree: ActorTree) -> Answer:
    """The reference's words, and what was probably meant."""
    text = f"route not supported: {method} {asked}"
    configs = [config for config in tree.provider_configs() if config.enabled]
    if not configs:
        return plain(404, f"{text}; no AI provider is configured")
    likely = _likely_path(method, path, configs)
    if not likely:
        return plain(404, text)
    log.warning("a client uses a wrong base address", method=method, likely_path=likely)
    return plain(404, f"{text}; did you mean {likely}?")


def _likely_path(method: str, path: str, configs: list[ProviderConfig]) -> str:
    """The path with the provider's name in front, and with /v1 once; empty: not that either."""
    single = re.sub(r"/v1(?:/v1)+/", "/v1/", path)
    for config in configs:
        own = f"/{config.name}"
        rest = single.removeprefix(own) if single.startswith(f"{own}/") else single
        for tried in (rest, f"/v1{rest}"):
            if f"{own}{tried}" != path and isinstance(
                resolve(config.type, method, tried), Intercept
            ):
                return f"{own}{tried}"
    return ""


def _disabled(config: ProviderConfig) -> Answer:
    return plain(503, f'provider_disabled: AI provider "{config.name}" is disabled')
