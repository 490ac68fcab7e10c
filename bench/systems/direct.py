"""No gateway: the client talks to the imitation provider.  What the others are compared with."""

from __future__ import annotations

from collections.abc import Callable

from bench.payloads import Endpoint
from bench.systems.base import Running, Surroundings, System

__all__ = ["PATHS", "Direct", "credentials"]

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
"""Where the APIs are below a provider's address."""


def credentials(api: str, key: str) -> dict[str, str]:
    """How a client of this API sends its key."""
    if api == "chat":
        return {"Authorization": f"Bearer {key}"}
    return {"X-Api-Key": key, "Anthropic-Version": "2023-06-01"}


class Direct(System):
    name = "direct"
    title = "direct"
    does = "no gateway: the load driver talks to the imitation provider"

    def prepare(self, say: Callable[[str], None]) -> str:
        return "-"

    def launch(self, around: Surroundings) -> Running:
        main, slow = around.upstream_ports
        return Running(
            [],
            {
                api: Endpoint(main, path, credentials(api, "sk-bench"))
                for api, path in PATHS.items()
            },
            slow=Endpoint(slow, PATHS["chat"], credentials("chat", "sk-bench")),
        )
