"""Requests that come while a worker process has not learned of its providers yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from any_coderd import ask
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, wait_until
from imitation_provider import ScriptedProvider, imitate

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

KEY = "alice-secret"


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with ScriptedProvider(otherwise=imitate()) as provider, FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", KEY)
        known = pb.AIProvider(name="anthropic", type="anthropic", enabled=True, keys=["sk-1"])
        known.base_url = provider.url
        coderd.set_providers(known)
        yield coderd


@contextmanager
def beginning(coderd: FakeCoderd, folder: Path, *options: str) -> Iterator[GatewayProcess]:
    """A gateway that listens and waits for its providers."""
    environ = {"CODER_AI_GATEWAY_KEY": "gateway-key"}
    options = ("--url", coderd.url, *options)
    gateway = GatewayProcess(folder, options=options, local=False, environ=environ)
    try:
        gateway.start(ready=False)
        coderd.wait_for_call("GetAIProviders", 1)
        yield gateway
    finally:
        gateway.stop()


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_request_waits_a_moment_for_the_providers(
    coderd: FakeCoderd, tmp_path: Path, worker_class: str
) -> None:
    gate = threading.Event()
    coderd.faults.delay("GetAIProviders", gate, times=1)
    options = ("--worker-class", worker_class)
    with beginning(coderd, tmp_path, *options) as gateway, ThreadPoolExecutor() as clients:
        early = clients.submit(ask, gateway, KEY)
        wait_until(lambda: coderd.deployment.count_calls("IsAuthorized") == 1, "it was let in")
        gate.set()
        assert early.result().status_code == 200


def test_a_request_is_sent_away_when_the_providers_do_not_come(
    coderd: FakeCoderd, tmp_path: Path
) -> None:
    gate = threading.Event()
    coderd.faults.delay("GetAIProviders", gate, times=1)
    with beginning(coderd, tmp_path, "--max-wait", "100ms") as gateway:
        answer = ask(gateway, KEY)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "starting up" in answer.text
        gate.set()
        wait_until(gateway.is_ready, "the providers have come")
        assert ask(gateway, KEY).status_code == 200
