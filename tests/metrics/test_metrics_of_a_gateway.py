"""Metrics of a real gateway with several worker processes, against what the driver counted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, error, imitate
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider) -> Iterator[GatewayProcess]:
    options = ["--prometheus-enable", "--prometheus-address", "127.0.0.1:0"]
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    (tmp_path / "temporary").mkdir()
    environ = {"TMPDIR": str(tmp_path / "temporary")}
    gateway = GatewayProcess(tmp_path, upstreams, options, workers=2, environ=environ)
    gateway.allowed_errors += ["was sent SIGKILL"]
    with gateway:
        yield gateway


def _address(gateway: GatewayProcess) -> str:
    line = next(line for line in gateway.logs() if message_of(line) == "http server listening")
    assert line["fields"]["name"] == "prometheus"
    return str(line["fields"]["addr"])


def _scrape(gateway: GatewayProcess) -> Samples:
    text = requests.get(f"http://{_address(gateway)}/metrics", timeout=10).text
    return {
        (sample.name.removeprefix("coder_ai_gateway_"), frozenset(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _sum(samples: Samples, name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(
        v for (n, found), v in samples.items() if n == name and wanted <= dict(found).items()
    )


def _ask(gateway: GatewayProcess) -> int:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
        headers={"X-Api-Key": gateway.key(), "User-Agent": "claude-cli/1"},
        timeout=30,
    ).status_code


def test_counters_add_up_over_all_workers_and_never_jump_back(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    for _ in range(30):
        assert _ask(gateway) == 200
    provider.play(error(529))
    assert _ask(gateway) == 529
    requests.get(
        f"{gateway.url}/openai/v1/models", headers={"X-Api-Key": gateway.key()}, timeout=10
    )

    def timed() -> Samples | None:
        samples = _scrape(gateway)
        # Each worker writes them once a second.
        enough = _sum(samples, "overhead_seconds_count", provider="anthropic") == 31
        return samples if enough else None

    samples = wait_until(timed, "all requests' times are there")
    labels = {"provider": "anthropic", "route": "/v1/messages", "client": "Claude Code"}
    assert _sum(samples, "interceptions_total", status="completed", **labels) == 30
    assert _sum(samples, "interceptions_total", status="failed", **labels) == 1
    assert _sum(samples, "prompts_total", provider="anthropic") == 30
    assert _sum(samples, "passthrough_total", provider="openai", route="/models") == 1
    assert _sum(samples, "interceptions_duration_seconds_count", provider="anthropic") == 31
    assert _sum(samples, "stage_seconds_count", stage="authorize", provider="anthropic") == 31
    for stage in ("edge", "read", "record", "provider", "first_byte", "relay"):
        assert _sum(samples, "stage_seconds_count", stage=stage, provider="anthropic") == 31
    tokens = sum(row["input_tokens"] for row in gateway.rows("SELECT * FROM token_usages"))
    assert _sum(samples, "tokens_total", type="input") == tokens
    for victim in gateway.worker_pids():
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda v=victim: v not in gateway.worker_pids(), "the worker is gone")
    wait_until(lambda: len(gateway.worker_pids()) == 2, "new workers serve")
    assert _sum(_scrape(gateway), "interceptions_total", **labels) == 31
    assert _ask(gateway) == 200
    assert _sum(_scrape(gateway), "interceptions_total", **labels) == 32


def test_the_state_of_the_gateway_is_shown(gateway: GatewayProcess) -> None:
    def settled() -> Samples | None:
        samples = _scrape(gateway)
        there = _sum(samples, "provider_info", provider_name="openai", status="enabled")
        return samples if there == _sum(samples, "coderd_connected") == 1 else None

    found = wait_until(settled, "both workers have sampled since they were ready")
    assert _sum(found, "spool_records") == 0
    assert _sum(found, "requests_waiting", **{"for": "connection"}) == 0
    loaded = _sum(found, "providers_last_reload_success_timestamp_seconds")
    assert 0 <= time.time() - loaded < 60
    assert _sum(found, "providers_last_reload_timestamp_seconds") == loaded

    def all_probed() -> bool:
        samples = _scrape(gateway)
        roles = ("supervisor", "control-plane", "recorder", "provider/anthropic")
        return all(_sum(samples, "actor_wait_seconds_count", role=role) for role in roles)

    wait_until(all_probed, "every actor's inbox was probed")


def test_a_listener_that_dies_is_replaced_and_nothing_is_forgotten(
    gateway: GatewayProcess,
) -> None:
    gateway.allowed_errors += ["the Prometheus endpoint has ended"]
    assert _ask(gateway) == 200
    (listener,) = [
        child
        for child in psutil.Process(gateway.process.pid).children()
        if "aigateway.http.metrics.listener" in child.cmdline()
    ]
    listener.kill()

    def answers() -> Samples | None:
        with contextlib.suppress(requests.ConnectionError):
            return _scrape(gateway)
        return None

    assert _sum(wait_until(answers, "there is a new one"), "interceptions_total") == 1


def test_a_file_that_is_just_being_made_disturbs_no_scrape(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    (folder,) = (tmp_path / "temporary").glob("aigateway-metrics-*")
    (folder / "counter_1.db").touch()
    assert _ask(gateway) == 200
    assert _sum(_scrape(gateway), "interceptions_total") == 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_no_files_are_left_behind(
    tmp_path: Path, provider: ScriptedProvider, sig: signal.Signals
) -> None:
    options = ["--prometheus-enable", "--prometheus-address", "127.0.0.1:0"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    gateway = GatewayProcess(
        tmp_path / "gw",
        [Upstream("anthropic", provider.url)],
        options,
        environ={"TMPDIR": str(temporary)},
    )
    with gateway:
        assert list(temporary.glob("aigateway-metrics-*"))
        if sig == signal.SIGKILL:
            gateway.process.send_signal(sig)
            wait_until(lambda: not list(temporary.iterdir()), "the listener has cleaned up")
            gateway.kill()
    assert not list(temporary.iterdir())


def test_an_address_in_use_stops_the_start(tmp_path: Path, provider: ScriptedProvider) -> None:
    address = provider.url.removeprefix("http://")
    gateway = GatewayProcess(
        tmp_path,
        [Upstream("anthropic", provider.url)],
        ["--prometheus-enable", "--prometheus-address", address],
    )
    with pytest.raises(AssertionError, match="choose another --prometheus-address"):
        gateway.start()
