"""A gateway in front of a provider that has WebSockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, Upstream, all_stopped
from socket_provider import SocketProvider
from socket_rig import Mine, Start

CLASSES = ["gevent", "gthread"]


@pytest.fixture(scope="module", params=CLASSES)
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, SocketProvider]]:
    options = ["--worker-class", request.param, "--max-body-size", "2MiB"]
    folder = tmp_path_factory.mktemp("gateway")
    with SocketProvider() as provider:
        upstreams = [Upstream("openai", provider.url)]
        with GatewayProcess(folder, upstreams, options) as gateway:
            yield gateway, provider


@pytest.fixture
def mine(shared: tuple[GatewayProcess, SocketProvider]) -> Mine:
    gateway, sockets = shared
    sockets.reset()
    return Mine(gateway, sockets)


@pytest.fixture
def sockets() -> Iterator[SocketProvider]:
    with SocketProvider() as provider:
        yield provider


@pytest.fixture(params=CLASSES)
def worker_class(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path, sockets: SocketProvider, worker_class: str) -> Iterator[Start]:
    """Starts a gateway with these options; the test stops it, or it is looked at and stopped."""
    with all_stopped() as running:

        def start(
            *options: str, extra: dict[str, str] | None = None, **more: Any
        ) -> GatewayProcess:
            upstreams = [Upstream("openai", sockets.url, extra=extra or {})]
            options = ("--worker-class", worker_class, *options)
            gateway = GatewayProcess(tmp_path / f"gw{len(running)}", upstreams, options, **more)
            running.append(gateway)
            return gateway.start()

        yield start
