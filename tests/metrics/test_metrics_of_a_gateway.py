"""Metrics of a real gateway with several worker processes, against what the driver counted."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, error, imitate
from prometheus_client.parser import text_string_to_metric_families
from system_programs import program

from aigateway.http.metrics.reasons import Reason

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


def _refusals(gateway: GatewayProcess) -> Samples:
    samples = _scrape(gateway).items()
    return {key: value for key, value in samples if key[0] == "requests_refused_total"}


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


def test_every_refusal_is_counted_by_its_reason_and_logged_with_its_rule(
    gateway: GatewayProcess,
) -> None:
    names = {dict(labels)["reason"] for name, labels in _refusals(gateway)}
    assert names == {str(reason) for reason in Reason}
    messages = f"{gateway.url}/anthropic/v1/messages"
    good = {"X-Api-Key": gateway.key()}
    body = {"model": "m", "max_tokens": 9, "messages": []}
    for url, headers, data in (
        (messages, {}, body),
        (messages, {"X-Api-Key": "nobody-knows"}, body),
        (f"{gateway.url}/nobody/v1/messages", good, body),
        (messages, good, None),
        (f"{gateway.url}/openai/v1/responses", {**good, "Upgrade": "websocket"}, body),
    ):
        refused = requests.post(url, json=data, headers=headers, timeout=10)
        assert refused.status_code >= 400
    expected = ["no_key", "unauthorized", "no_route", "bad_request", "websocket"]
    found = [dict(labels)["reason"] for (_, labels), value in _refusals(gateway).items() if value]
    assert sorted(found) == sorted(expected)
    lines = [one["fields"] for one in gateway.logs() if message_of(one) == "request"]
    assert [line["reason"] for line in lines] == expected
    assert all(line["rule"] for line in lines)
    assert lines[1]["rule"] == "unknown key"


def test_what_may_fail_begins_at_0(gateway: GatewayProcess) -> None:
    def born() -> Samples | None:
        samples = _scrape(gateway)
        ready = ("drains_total", frozenset({("outcome", "cut")})) in samples
        return samples if ready else None

    samples = wait_until(born, "a worker has looked at its actors")
    provider = ("provider", "anthropic")
    for name, label in (
        ("key_pool_exhaustions_total", ("outcome", "auth_failed")),
        ("key_pool_state_transitions_total", ("reason", "unauthorized")),
    ):
        assert samples[name, frozenset({provider, label})] == 0
    assert samples["actor_restarts_total", frozenset({("role", "recorder")})] == 0
    for per, reason in (("user", "full"), ("project", "waited"), ("", "unpriced")):
        labels = frozenset({("per", per), ("reason", reason)})
        assert samples["cap_refusals_total", labels] == 0
    assert samples["unpriced_token_records_total", frozenset({("reason", "model")})] == 0
    assert samples["old_requests_deleted_total", frozenset({("kind", "records")})] == 0
    assert samples["housekeeping_failing", frozenset()] == 0
    assert _ask(gateway) == 200
    failed = [
        value
        for (name, labels), value in _scrape(gateway).items()
        if name == "interceptions_total" and dict(labels)["status"] == "failed"
    ]
    assert failed == [0]


def test_the_processes_and_the_build_are_shown(gateway: GatewayProcess) -> None:
    main, samples, found = gateway.process.pid, {}, set[tuple[str, int]]()

    def whole() -> bool:
        """The second worker may still be starting."""
        nonlocal samples, found
        samples = _scrape(gateway)
        found = {
            (labels["process"], int(labels["pid"]))
            for labels in (
                dict(some) for name, some in samples if name == "process_resident_memory_bytes"
            )
        }
        return len(found) >= 4

    wait_until(whole, "both workers are there")
    assert {("main", main), *(("worker", pid) for pid in gateway.worker_pids())} <= found
    assert sorted(kind for kind, _ in found) == ["main", "metrics", "worker", "worker"]
    seen, label = psutil.Process(main), frozenset({("process", "main"), ("pid", str(main))})
    assert samples["process_threads", label] == seen.num_threads()
    assert abs(samples["process_start_time_seconds", label] - seen.create_time()) < 2
    assert 0 < samples["process_open_fds", label] < samples["process_max_fds", label]
    assert 0.5 < samples["process_resident_memory_bytes", label] / seen.memory_info().rss < 2
    (build,) = [dict(labels) for name, labels in samples if name == "build_info"]
    assert build == {"version": metadata.version("aigateway"), "python": platform.python_version()}


def test_promtool_has_nothing_to_say_about_the_metrics(gateway: GatewayProcess) -> None:
    assert _ask(gateway) == 200
    text = requests.get(f"http://{_address(gateway)}/metrics", timeout=10).content
    done = subprocess.run(
        [program("promtool", "apt-get install prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


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
