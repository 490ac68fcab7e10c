"""What a worker is serving, and how its providers are: for those who ask every second.

Cheap, unlike a :mod:`.snapshot`: no stack is looked at.  As dictionaries for JSON.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from urllib.parse import urlsplit

import attrs

from aigateway.actors.actor.base import ask_quietly
from aigateway.actors.actor.tree import ActorTree, provider_role
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.request import GetProviderState, ProviderState
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.diagnosis.snapshot import oldest
from aigateway.http.request.inbound import Call

__all__ = ["providers_now", "requests_now"]

PATIENCE = 1.0
"""Seconds that a provider's actor may take to answer."""


def requests_now(calls: Collection[Call]) -> dict[str, object]:
    """How many requests there are, by stage, and those that run longest one by one."""
    running = list(calls)
    return {
        "requests": len(running),
        "stages": dict(Counter(call.stage for call in running).most_common()),
        "oldest": [attrs.asdict(line) for line in oldest(running, time.monotonic())],
    }


def providers_now(tree: ActorTree) -> list[dict[str, object]]:
    """Each configured provider with its connections, keys' rests, circuits and counters."""
    return [_provider(tree, config) for config in tree.provider_configs()]


def _provider(tree: ActorTree, config: ProviderConfig) -> dict[str, object]:
    state = ask_quietly(tree.find(provider_role(config.name)), GetProviderState(), PATIENCE)
    return {
        "name": config.name,
        "type": config.type,
        "address": _address(config.base_url),
        "enabled": config.enabled,
        "error": config.error or "",
        "way_out": config.way_out,
        "fallback": list(config.fallback),
        "state": None if state is None else _state(state),
    }


def _address(url: str) -> str:
    """Scheme, host and port: a path or a query may be somebody's own."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _state(state: ProviderState) -> dict[str, object]:
    return {
        "busy": state.busy,
        "idle": state.idle,
        "draining": state.draining,
        "waiting": state.waiting,
        "retrying": state.retrying,
        "keys": [
            {
                "hint": key.hint,
                "rests": [
                    {
                        "subject": "" if rest.subject is None else str(rest.subject),
                        "reason": rest.reason,
                        "remaining": rest.remaining,
                    }
                    for rest in key.rests
                ],
            }
            for key in state.keys
        ],
        "circuits": [attrs.asdict(circuit) for circuit in state.circuits],
        "counters": _counters(state.counters),
        "fallback_reasons": dict(state.counters.fallback_reasons),
    }


def _counters(counters: Counters) -> dict[str, int]:
    return {
        "attempts": counters.attempts,
        "retries": counters.retries,
        "failovers": counters.failovers,
        "fallbacks": counters.fallbacks,
        "queue_full": counters.queue_full,
        "connections_opened": counters.connections_opened,
        "connections_reused": counters.connections_reused,
    }
