"""A Prometheus that scrapes a gateway: the dashboard's queries answer, alerts fire and end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, error, imitate
from prometheus_process import MONITORING, WATCHED, Prometheus, metrics_address

PATIENCE = 60.0
"""Seconds: an alert ends when the fault has left the window, on a slow machine."""


@pytest.fixture
def watched(tmp_path: Path, provider: ScriptedProvider) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], WATCHED)
    yield gateway.start()
    gateway.kill()


@pytest.fixture
def prometheus(tmp_path: Path, watched: GatewayProcess) -> Iterator[Prometheus]:
    with Prometheus(tmp_path, {"g": metrics_address(watched)}) as running:
        yield running


def _ask(gateway: GatewayProcess) -> int:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "claude-sonnet-4-5",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
        },
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
    ).status_code


def _panels() -> dict[str, list[str]]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    found = {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in panels
        if "targets" in panel
    }
    assert len(found) > 10
    return found


def test_the_dashboard_answers_and_an_alert_fires_on_its_fault_and_ends_with_it(
    watched: GatewayProcess, prometheus: Prometheus, provider: ScriptedProvider
) -> None:
    assert _ask(watched) == 200
    wait_until(lambda: prometheus.query("coder_ai_gateway_interceptions_total > 0"), "a scrape")

    # Something happens all the time: a rate needs two scrapes with a difference between them.
    def answered(query: str) -> bool:
        assert _ask(watched) == 200
        return bool(prometheus.query(query))

    panels = _panels()
    for title in (
        "Is it there, and in which version?",
        "Which tokens are spent?",
        "How much memory does it take?",
    ):
        for query in panels[title]:
            wait_until(lambda query=query: answered(query), title, PATIENCE)
    for queries in panels.values():
        for query in queries:
            prometheus.query(query)  # fails where it is refused
    wait_until(prometheus.evaluated_at, "the rules are evaluated", PATIENCE)
    assert prometheus.firing() == set()

    # The provider is in trouble, and over it.
    provider.otherwise = error(500)

    def fails() -> bool:
        _ask(watched)
        return "AIGatewayRequestsFail" in prometheus.firing()

    wait_until(fails, "the alert fires", PATIENCE)
    assert prometheus.firing() == {"AIGatewayRequestsFail"}
    provider.otherwise = imitate()

    def over() -> bool:
        _ask(watched)
        return prometheus.firing() == set()

    wait_until(over, "the alert ends", PATIENCE)

    # And now nobody answers.
    watched.kill()
    wait_until(
        lambda: prometheus.firing() == {"AIGatewayAbsent"}, "its absence is noticed", PATIENCE
    )
