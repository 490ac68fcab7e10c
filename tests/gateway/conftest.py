"""A gateway that belongs to a Coder deployment, in front of a provider of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from any_coderd import AnyCoderd, GoCoderd, PythonCoderd, Start
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream
from go_peer import GoPeer
from imitation_provider import ScriptedProvider, imitate


@pytest.fixture(params=["python", "go"])
def coderd(request: pytest.FixtureRequest) -> Iterator[AnyCoderd]:
    with ExitStack() as stack:
        if request.param == "python":
            yield PythonCoderd(stack.enter_context(FakeCoderd()))
        else:
            yield GoCoderd(stack.enter_context(GoPeer()))


@pytest.fixture
def own_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture
def start(tmp_path: Path, coderd: AnyCoderd, own_provider: ScriptedProvider) -> Iterator[Start]:
    """Starts a gateway that belongs to :func:`coderd`, with providers of its own."""
    running: list[GatewayProcess] = []

    def start(*, own_providers: bool = True, ready: bool = True, **more: Any) -> GatewayProcess:
        upstreams = [Upstream("anthropic", own_provider.url), Upstream("openai", own_provider.url)]
        gateway = GatewayProcess(
            tmp_path,
            upstreams if own_providers else [],
            ["--url", coderd.url],
            local=False,
            environ={"CODER_AI_GATEWAY_KEY": coderd.gateway_key},
            **more,
        )
        running.append(gateway)
        return gateway.start(ready=ready)

    yield start
    for gateway in running:
        gateway.kill()
