"""The death of any actor: nothing hangs, nothing recorded is lost, the next request works."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, WaitFor, event, imitate, stream

ROLES = ["control-plane", "recorder", "provider/anthropic", "provider/openai"]

START = event(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "usage": {"input_tokens": 7, "output_tokens": 1},
        },
    },
    name="message_start",
)
DELTA = event(
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    name="message_delta",
)
STOP = event({"type": "message_stop"}, name="message_stop")


def _body(stream: bool, prompt: str = "hi") -> dict[str, object]:
    return {
        "model": "claude-x",
        "max_tokens": 50,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }


def _ask(gateway: GatewayProcess, prompt: str = "hi") -> requests.Response:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json=_body(False, prompt),
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    )


def _restarts(gateway: GatewayProcess, role: str) -> int:
    listed = gateway.command("actors", "--json", "--runtime-dir", str(gateway.runtime_dir))
    assert listed.returncode == 0, listed.stderr
    return sum(
        actor["restarts"]
        for worker in json.loads(listed.stdout)
        for actor in worker["actors"]
        if actor["role"] == role and actor["state"] == "running"
    )


def _crash(gateway: GatewayProcess, role: str, *more: str) -> None:
    options = ["--runtime-dir", str(gateway.runtime_dir)]
    done = gateway.command("actors", *options, "restart", role, *more)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["--crash", ""])
@pytest.mark.parametrize("role", ROLES)
def test_a_dead_actor_is_replaced_while_a_stream_runs(
    any_gateway: GatewayProcess, provider: ScriptedProvider, role: str, how: str
) -> None:
    gateway = any_gateway
    gateway.allowed_errors += ["actor ended", "crashed on request", "Unhandled exception in"]
    before = _restarts(gateway, role)
    go_on = threading.Event()
    provider.play(stream([START, WaitFor(go_on), DELTA, STOP]))
    with requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json=_body(True),
        headers={"X-Api-Key": gateway.key()},
        stream=True,
        timeout=30,
    ) as running:
        pieces = running.iter_content(None)
        received = next(pieces)
        _crash(gateway, role, *([how] if how else []))
        wait_until(lambda: _restarts(gateway, role) == before + 1, f"{role} is replaced")
        assert _ask(gateway).status_code == 200
        go_on.set()
        received += b"".join(pieces)
    assert received.endswith(b'data: {"type":"message_stop"}\n\n'.replace(b": {", b": {"))
    found = gateway.records(running.headers["X-AI-Gateway-Interception-Id"])
    assert found["error_type"] is None
    assert sum(row["output_tokens"] for row in found["token_usages"]) == 9
    assert [row["prompt"] for row in found["user_prompts"]] == ["hi"]


@pytest.mark.parametrize("role", ROLES)
def test_requests_survive_actors_that_die_under_load(
    any_gateway: GatewayProcess, provider: ScriptedProvider, role: str
) -> None:
    gateway = any_gateway
    gateway.allowed_errors += ["actor ended", "crashed on request", "Unhandled exception in"]
    gateway.key()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(_ask, gateway, f"load {role} {n}") for n in range(40)]
        _crash(gateway, role, "--crash")
        answers += [pool.submit(_ask, gateway, f"load {role} {n}") for n in range(40, 80)]
        done = [answer.result() for answer in answers]
    # Only a request that the dying actor had in hand may fail, and it says so.
    assert {answer.status_code for answer in done} <= {200, 502, 503}
    good = [answer for answer in done if answer.status_code == 200]
    assert len(good) >= 78
    for answer in good:
        found = gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])
        assert len(found["token_usages"]) == 1
        assert len(found["user_prompts"]) == 1


def test_an_upstream_worker_that_is_restarted_is_not_missed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert _ask(gateway).status_code == 200
    assert gateway.command(
        "actors", "--runtime-dir", str(gateway.runtime_dir), "restart", "nobody"
    ).returncode == 1  # fmt: skip
    assert _ask(gateway).status_code == 200


def test_a_killed_worker_process_is_replaced_and_loses_no_acknowledged_record(
    tmp_path: Path,
) -> None:
    with ScriptedProvider(otherwise=imitate()) as provider:
        upstreams = [Upstream("anthropic", provider.url)]
        gateway = GatewayProcess(tmp_path, upstreams, workers=2).start()
        gateway.allowed_errors += ["was sent SIGKILL", "Worker (pid:"]
        gateway.key()
        finished: list[str] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                try:
                    answer = _ask(gateway)
                except requests.RequestException:
                    continue
                if answer.status_code == 200:
                    finished.append(answer.headers["X-AI-Gateway-Interception-Id"])

        with ThreadPoolExecutor(6) as pool:
            for _ in range(6):
                pool.submit(load)
            try:
                for _ in range(3):
                    _kill_one(gateway, finished)
            finally:
                stop.set()
        gateway.stop()
        for interception in finished:
            found = gateway.records(interception)
            assert len(found["token_usages"]) == 1, found
            assert len(found["user_prompts"]) == 1, found


def _kill_one(gateway: GatewayProcess, finished: list[str]) -> None:
    seen = len(finished)
    wait_until(lambda: len(finished) > seen + 30, "traffic flows")
    wait_until(lambda: len(gateway.worker_pids()) == 2, "both workers are there")
    victim = gateway.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.worker_pids(), "the victim is gone")
