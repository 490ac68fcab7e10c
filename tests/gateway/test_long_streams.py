"""What a stream costs for as long as it is open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, WaitFor, event, stream
from raw_client import RawClient

STREAMS = 10
LARGE = 4 * 1024 * 1024


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def any_gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    """One whose large blocks go back to the system as soon as they are free."""
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    options = ["--worker-class", request.param]
    environ = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, options, environ=environ) as gateway:
        yield gateway


def said(size: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "x" * size},
        {"role": "user", "content": "go on"},
    ]


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/anthropic/v1/messages", {"model": "claude-x", "max_tokens": 9, "stream": True}),
    "chat": ("/openai/v1/chat/completions", {"model": "gpt-x", "stream": True}),
    "passed on": ("/anthropic/v1/messages/batches", {"requests": []}),
}


def own_memory(gateway: GatewayProcess) -> int:
    """Bytes that would be free without its worker."""
    (pid,) = gateway.worker_pids()
    return int(psutil.Process(pid).memory_full_info().uss)


@pytest.mark.parametrize("way", WAYS)
def test_a_long_stream_does_not_keep_the_body_of_its_request(
    any_gateway: GatewayProcess, provider: ScriptedProvider, way: str
) -> None:
    path, request = WAYS[way]
    gate = threading.Event()
    with ExitStack() as clients:
        clients.callback(gate.set)

        def begin(size: int) -> None:
            first, last = (event({"type": "ping", "n": n}, "ping") for n in (1, 2))
            provider.play(stream([first, WaitFor(gate), last]))
            client = clients.enter_context(RawClient(any_gateway))
            client.post(path, {**request, "messages": said(size)})
            client.read_until(b"data: ")

        # The first one also makes what all of them share.
        for size in (LARGE, 1):
            begin(size)
        before = own_memory(any_gateway)
        for _ in range(STREAMS):
            begin(LARGE)
        assert own_memory(any_gateway) - before < STREAMS * LARGE / 2
