"""A worker that may open no more files waits, says so once, and recovers."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, Upstream, wait_until
from gateway_process._process import message_of
from imitation_provider import Close, ScriptedProvider, answer, imitate
from raw_client import RawClient

from aigateway.http.server import open_files

WORKERS = pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
ASK = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
SHORTAGE = "out of files, connections wait until others end"


def limit_files(pid: int, more: int) -> None:
    """Let a process open so many files beside those that it has."""
    numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    free = [number for number in range(max(numbers) + more + 1) if number not in numbers]
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = free[more] if more < len(free) else max(numbers) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))


def shortages(gateway: GatewayProcess) -> list[Any]:
    return [line for line in gateway.logs() if message_of(line) == SHORTAGE]


@WORKERS
def test_connections_wait_until_there_are_files_again(tmp_path: Path, worker_class: str) -> None:
    options = ["--worker-class", worker_class]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway,
    ):
        gateway.allowed_errors.append(SHORTAGE)
        host, port = gateway.url.partition("://")[2].split(":")
        with RawClient(gateway) as before:
            before.post("/anthropic/v1/messages", ASK)
            assert before.answer().status == 200
            with ExitStack() as stack:
                limit_files(gateway.worker_pids()[0], 3)
                for _ in range(20):
                    stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
                wait_until(lambda: shortages(gateway), "the shortage is logged")
                # Who is connected is served.
                before.post("/anthropic/v1/messages", ASK)
                assert before.answer().status == 200
                late = stack.enter_context(RawClient(gateway))
                late.post("/anthropic/v1/messages", ASK)

        def served() -> bool:
            # For a moment one file may be missing for the connection to the provider.
            with RawClient(gateway) as after:
                after.post("/anthropic/v1/messages", ASK)
                return after.answer().status == 200

        wait_until(served, "it recovers")
        assert len(shortages(gateway)) == 1
        assert "Traceback" not in gateway.stderr()


@WORKERS
def test_a_provider_is_not_blamed_for_files_that_the_gateway_lacks(
    tmp_path: Path, worker_class: str
) -> None:
    options = ["--worker-class", worker_class, "--ai-gateway-circuit-breaker-enabled"]
    options += ["--ai-gateway-circuit-breaker-failure-threshold", "1"]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway,
        RawClient(gateway) as client,
    ):
        body = {"id": "m", "type": "message", "content": [], "usage": {}}
        provider.play([*answer(body), Close()])
        client.post("/anthropic/v1/messages", ASK)
        assert client.answer().status == 200
        provider.wait_until_idle()
        pid = gateway.worker_pids()[0]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # What is open stays open, and no number below is free.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        # With the breaker at one failure the second would be told that the circuit is open.
        for _ in range(3):
            client.post("/anthropic/v1/messages", ASK)
            got = client.answer()
            assert got.status == 503
        assert got.headers["retry-after"] == "1"
        assert b"too many connections" in got.body
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        client.post("/anthropic/v1/messages", ASK)
        assert client.answer().status == 200


def test_the_soft_limit_is_raised_and_a_hard_one_that_is_too_low_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda _, new: limits.append(new))
    warnings: list[dict[str, Any]] = []
    monkeypatch.setattr(open_files.log, "warning", lambda text, **more: warnings.append(more))
    open_files.raise_limit(2000)
    assert limits[-1] == (4096, 4096)
    assert warnings == []
    open_files.raise_limit(10_000)
    assert warnings == [{"limit": 4096, "needed": 20_000, "worker_connections": 10_000}]
