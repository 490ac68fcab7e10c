from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, Upstream, wait_until
from held import HeldProvider
from stops import Start, ready_workers


@pytest.fixture
def provider() -> Iterator[HeldProvider]:
    with HeldProvider() as provider:
        yield provider


@pytest.fixture
def start(tmp_path: Path, provider: HeldProvider) -> Iterator[Start]:
    """Starts gateways in front of :func:`provider`, each with a folder of its own by default."""
    started: list[GatewayProcess] = []

    def start(*options: str, folder: Path | None = None, **more: Any) -> GatewayProcess:
        upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
        ready = more.pop("ready", True)
        kind = more.pop("kind", GatewayProcess)
        gateway: GatewayProcess = kind(
            folder or tmp_path / f"gw{len(started)}", upstreams, options, **more
        )
        started.append(gateway)
        gateway.start(ready=ready)
        if ready:
            workers = more.get("workers", 1)
            wait_until(lambda: ready_workers(gateway) == workers, "all workers are there")
        return gateway

    yield start
    for gateway in started:
        gateway.kill()
