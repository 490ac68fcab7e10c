"""A Prometheus that scrapes a gateway: the dashboard's queries answer, alerts fire and end."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from gateway_process import GatewayProcess, Upstream, free_port, wait_until
from imitation_provider import ScriptedProvider, answer, error, imitate
from system_programs import program

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
WINDOW = "10s"
"""In the place of the minutes that alerts look back, with a scrape each second."""
PATIENCE = 60.0
"""Seconds: an alert ends when the fault has left the window, on a slow machine."""


class Prometheus:
    """One process, with the alert rules of the documentation made quick."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        rules = (MONITORING / "alerts.yaml").read_text()
        rules = re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", rules)
        (folder / "alerts.yaml").write_text(re.sub(r"for: \d+m", "for: 1s", rules))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": "g", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with open(folder / "prometheus.txt", "wb") as output:
            self._process = subprocess.Popen(
                [
                    program("prometheus", "apt-get install prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=output,
                stderr=output,
            )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **query: str) -> Any:
        try:
            answer = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=10)
        except requests.ConnectionError:
            return None
        if answer.status_code == 503:  # still starting
            return None
        assert answer.status_code == 200, (query, answer.text)
        return answer.json()["data"]

    def query(self, query: str) -> list[Any]:
        found = self.ask("query", query=query)
        return [] if found is None else found["result"]

    def firing(self) -> set[str]:
        found = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def evaluations(self) -> float:
        """How often the rules were evaluated."""
        found = self.ask("rules")
        groups = [] if found is None else found["groups"]
        assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
        return sum(not group["lastEvaluation"].startswith("0001") for group in groups)


@pytest.fixture
def watched(tmp_path: Path, provider: ScriptedProvider) -> Iterator[GatewayProcess]:
    options = ["--prometheus-enable", "--prometheus-address", "127.0.0.1:0"]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    yield gateway.start()
    gateway.kill()


@pytest.fixture
def prometheus(tmp_path: Path, watched: GatewayProcess) -> Iterator[Prometheus]:
    (line,) = [
        line
        for line in watched.logs()
        if line["msg"] == "http server listening" and line["fields"].get("name") == "prometheus"
    ]
    running = Prometheus(tmp_path, line["fields"]["addr"])
    yield running
    running.end()


def _ask(gateway: GatewayProcess, model: str = "claude-x") -> int:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": model,
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
    wait_until(prometheus.evaluations, "the rules are evaluated", PATIENCE)
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


def test_alerts_tell_of_tokens_without_a_price_and_of_a_cap_that_is_nearly_spent(
    watched: GatewayProcess, prometheus: Prometheus, provider: ScriptedProvider, tmp_path: Path
) -> None:
    def apply(policy: dict[str, Any]) -> None:
        (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
        database = ("--local-db", str(watched.database))
        file = str(tmp_path / "policy.yaml")
        done = watched.command("policy", "apply", "--yes", file, *database)
        assert done.returncode == 0, done.stderr

    def fires(*alerts: str) -> bool:
        return bool(prometheus.evaluations()) and prometheus.firing() == set(alerts)

    # Answers that cost more than was reserved: $0.3 each.
    usage = {"input_tokens": 100_000, "output_tokens": 9}
    provider.otherwise = lambda _: answer({"id": "m", "content": [], "usage": usage})
    wait_until(lambda: prometheus.query("coder_ai_gateway_build_info"), "a scrape", PATIENCE)
    wait_until(fires, "nothing is wrong", PATIENCE)
    assert _ask(watched) == 200
    wait_until(lambda: fires("AIGatewayUnpriced"), "tokens have no price", PATIENCE)
    wait_until(fires, "they have one again", PATIENCE)

    apply({"everybody": {"caps": [{"usd": 0.2, "every": "month"}], "unpriced": "allow"}})

    def spent() -> bool:
        _ask(watched, "claude-sonnet-4-5")
        return fires("AIGatewayCapNearlySpent")

    wait_until(spent, "the cap is spent", PATIENCE)
    apply({"everybody": {"caps": [{"usd": 1000, "every": "month"}]}})

    def room() -> bool:
        _ask(watched, "claude-sonnet-4-5")
        return fires()

    wait_until(room, "there is room again", PATIENCE)
