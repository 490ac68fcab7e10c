"""Where a request's path leads: to a provider that can serve, as what kind of request."""

from __future__ import annotations

import structlog
from attrs import frozen

from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.routes import Intercept, Passthrough, resolve
from aigateway.actors.tree import ActorTree
from aigateway.http.answers import Answer, plain
from aigateway.http.call import Call

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
    return Target(config, slash + rest), route


def _disabled(config: ProviderConfig) -> Answer:
    return plain(503, f'provider_disabled: AI provider "{config.name}" is disabled')
