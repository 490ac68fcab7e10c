"""A real Prometheus with the alert rules of the documentation, made quick, for tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests
import yaml
from gateway_process import GatewayProcess, free_port, wait_until
from system_programs import program

__all__ = ["MONITORING", "WATCHED", "Prometheus", "metrics_address"]

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
WATCHED = ("--prometheus-enable", "--prometheus-address", "127.0.0.1:0")
"""Options of a gateway that is scraped."""
_QUICKER = (
    # With a scrape each second.
    (r"\[\d+m\]", "[10s]"),
    (r"\[\d+h\]", "[30s]"),
    (r"for: \d+m", "for: 1s"),
    # The only limit that is a time.
    (r"(spool_oldest_seconds) > 300", r"\1 > 3"),
)
"""What is written in the place of minutes and hours."""


def metrics_address(gateway: GatewayProcess) -> str:
    """Where a gateway that was started with :data:`WATCHED` is scraped."""
    (line,) = [
        line
        for line in gateway.logs()
        if line["msg"] == "http server listening" and line["fields"].get("name") == "prometheus"
    ]
    return str(line["fields"]["addr"])


class Prometheus:
    """One process."""

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        """``targets`` are addresses by the names of their jobs."""
        self.url = f"http://127.0.0.1:{free_port()}"
        rules = (MONITORING / "alerts.yaml").read_text()
        for written, quick in _QUICKER:
            rules, found = re.subn(written, quick, rules)
            assert found, f"no rule has {written}"
        (folder / "alerts.yaml").write_text(rules)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]}
                for job, address in targets.items()
            ],
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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

    def alerts(self, *states: str) -> list[dict[str, str]]:
        """The labels of the alerts in these states: pending, firing."""
        found = self.ask("alerts")["alerts"]
        return [one["labels"] for one in found if one["state"] in states]

    def firing(self) -> set[str]:
        return {labels["alertname"] for labels in self.alerts("firing")}

    def evaluated_at(self) -> str:
        """When the rules were evaluated last; empty: not yet."""
        found = self.ask("rules")
        groups = [] if found is None else found["groups"]
        assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
        last = max((str(group["lastEvaluation"]) for group in groups), default="")
        return "" if last.startswith("0001") else last

    def wait_for_evaluation(self) -> None:
        """Wait until the rules are evaluated once more."""
        before = self.evaluated_at()
        wait_until(lambda: self.evaluated_at() > before, "the rules are evaluated")
