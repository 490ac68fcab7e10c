"""A worker with as many connections as it may have: the next ones wait, and that is told."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from gateway_process._process import message_of
from imitation_provider import ScriptedProvider, answer

FULL = "a worker has as many connections as it may, the next ones wait until others end"
AGAIN = "connections are taken again"


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_worker_that_takes_no_more_connections_says_so(tmp_path: Path, worker_class: str) -> None:
    options = ["--worker-class", worker_class, "--worker-connections", "4"]
    with (
        ScriptedProvider(otherwise=lambda _: answer("{}")) as provider,
        GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway,
    ):
        host, port = gateway.url.partition("://")[2].split(":")

        def said(text: str) -> int:
            return sum(message_of(line) == text for line in gateway.logs())

        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            # Perhaps more than once: one that asked whether it is ready is a connection, too.
            wait_until(lambda: said(FULL), "it is logged")
        wait_until(lambda: said(AGAIN), "the end of it is logged")
        answered = requests.get(f"{gateway.url}/healthz", timeout=20)
        assert answered.status_code == 200
