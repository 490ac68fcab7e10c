from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream
from hypothesis import HealthCheck, settings
from imitation_provider import ScriptedProvider, imitate
from imitation_provider.fixtures import imitation_provider, scripted_provider
from sdk_clients import sdk_clients

__all__ = ["imitation_provider", "scripted_provider", "sdk_clients"]

# A busy machine is no failure. The rest is hypothesis' own, which differs in CI.
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    """One provider for all tests of a module; scripts played come before imitation."""
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def any_gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    """A gateway in front of :func:`provider`, under each worker class in turn."""
    yield from _gateway(tmp_path_factory.mktemp("gw"), provider, request.param)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    """A gateway in front of :func:`provider`, shared by the tests of a module."""
    yield from _gateway(tmp_path_factory.mktemp("gw"), provider, "gevent")


def _gateway(
    folder: Path, provider: ScriptedProvider, worker_class: str
) -> Iterator[GatewayProcess]:
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    with GatewayProcess(folder, upstreams, ["--worker-class", worker_class]) as gateway:
        yield gateway
