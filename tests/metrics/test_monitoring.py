"""Alerts that fire on the fault they are for, and panels that ask for series there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from system_programs import program

from aigateway.http.metrics.monitoring import BEGIN, END, written
from aigateway.http.metrics.processes import BUILD, PROCESS_SERIES
from aigateway.http.metrics.questions import QUESTIONS, Alert
from aigateway.http.metrics.series import PREFIX, Series

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = {one.alert.name: one.alert for one in QUESTIONS if one.alert is not None}

Input = dict[str, str]
"""Values (in promtool's notation, one each minute) by series without the prefix."""

CONSTANT, GROWS, NOTHING = "1+0x40", "0+6x40", "0+0x40"
ENDED = 'interceptions_total{provider="a",status="%s"}'
REFUSED = 'requests_refused_total{reason="%s"}'
EXHAUSTED = 'key_pool_exhaustions_total{provider="a",outcome="%s"}'
UNPRICED = 'unpriced_token_records_total{reason="%s"}'
CAP = 'cap_spent_ratio{per="user",subject="alice",every="day"}'
RELOAD = "providers_last_reload%s_timestamp_seconds"
PROCESS = '{process="main",pid="7",instance="i"}'

CASES: dict[str, tuple[Input, Input, dict[str, str]]] = {
    "AIGatewayAbsent": ({}, {'build_info{version="1"}': CONSTANT}, {}),
    "AIGatewayRequestsFail": (
        {ENDED % "failed": "0+3x40", ENDED % "completed": "0+6x40"},
        {ENDED % "failed": "0+1x40", ENDED % "completed": "0+6x40"},
        {"provider": "a"},
    ),
    "AIGatewayRefuses": (
        {REFUSED % "capacity": GROWS},
        {REFUSED % "no_key": GROWS, REFUSED % "capacity": NOTHING},
        {"reason": "capacity"},
    ),
    "AIGatewayProviderMisconfigured": (
        {'provider_info{provider_name="a",status="error"}': CONSTANT},
        {
            'provider_info{provider_name="a",status="error"}': NOTHING,
            'provider_info{provider_name="a",status="enabled"}': CONSTANT,
        },
        {"provider_name": "a", "status": "error"},
    ),
    "AIGatewayCircuitOpen": (
        {'circuit_breaker_state{provider="a",model="m"}': CONSTANT},
        {'circuit_breaker_state{provider="a",model="m"}': "0.5+0x40"},
        {"provider": "a", "model": "m"},
    ),
    "AIGatewayKeysRefused": (
        {EXHAUSTED % "auth_failed": GROWS},
        {EXHAUSTED % "rate_limited": GROWS, EXHAUSTED % "auth_failed": NOTHING},
        {"provider": "a"},
    ),
    "AIGatewayRecordsStuck": (
        {"spool_oldest_seconds": "0+60x40"},
        {"spool_oldest_seconds": "250+0x40"},
        {},
    ),
    "AIGatewayDeadLetters": ({"dead_letters": CONSTANT}, {"dead_letters": NOTHING}, {}),
    "AIGatewayDisk": (
        {'state_disk{state="full"}': CONSTANT, 'state_disk{state="ok"}': CONSTANT},
        {'state_disk{state="full"}': NOTHING, 'state_disk{state="ok"}': "2+0x40"},
        {"state": "full"},
    ),
    "AIGatewayControlPlaneAway": (
        {"coderd_connected": NOTHING},
        {"coderd_connected": CONSTANT},
        {},
    ),
    "AIGatewayAtItsLimit": (
        {'requests_waiting{for="place"}': CONSTANT},
        {'requests_waiting{for="place"}': NOTHING, 'requests_waiting{for="retry"}': CONSTANT},
        {"for": "place"},
    ),
    "AIGatewayActorsDie": (
        {'actor_restarts_total{role="recorder"}': "0+1x40"},
        {'actor_restarts_total{role="recorder"}': "0 1+0x39"},
        {"role": "recorder"},
    ),
    "AIGatewayProvidersNotReloaded": (
        {RELOAD % "": "9+0x40", RELOAD % "_success": "5+0x40"},
        {RELOAD % "": "9+0x40", RELOAD % "_success": "9+0x40"},
        {},
    ),
    "AIGatewayUnpriced": (
        {UNPRICED % "model": GROWS, UNPRICED % "usage": GROWS},
        {UNPRICED % "model": NOTHING, UNPRICED % "usage": GROWS},
        {"reason": "model"},
    ),
    "AIGatewayCapNearlySpent": (
        {CAP: "0.5+0.02x40"},
        {CAP: "0.94+0x40"},
        {"per": "user", "subject": "alice", "every": "day"},
    ),
    "AIGatewayHousekeepingFails": (
        {"housekeeping_failing": CONSTANT},
        {"housekeeping_failing": "1+0x15 0+0x25"},
        {},
    ),
    "AIGatewayOpenFiles": (
        {
            f"process_open_fds{PROCESS}": "900+0x40",
            f"process_max_fds{PROCESS}": "1000+0x40",
            'build_info{instance="i"}': CONSTANT,
        },
        {
            # Another program's, whose names are the same.
            f"process_open_fds{PROCESS}": "900+0x40",
            f"process_max_fds{PROCESS}": "1000+0x40",
            'build_info{instance="other"}': CONSTANT,
        },
        {"process": "main", "pid": "7", "instance": "i"},
    ),
}


def _name(series: str) -> str:
    return series if series.startswith("process_") else f"{PREFIX}_{series}"


def _fires(alert: Alert, query_labels: dict[str, str]) -> dict[str, Any]:
    # A query that only compares keeps the name of its series, which alerts drop.
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda at: query_labels[at[1]], alert.text)
    title = next(one.title for one in QUESTIONS if one.alert is alert)
    return {
        "exp_labels": {"severity": alert.severity, **query_labels},
        "exp_annotations": {"summary": title, "description": text},
    }


def _test(alert: Alert, given: Input, expected: list[dict[str, Any]]) -> dict[str, Any]:
    series = [{"series": _name(name), "values": values} for name, values in given.items()]
    check = {"eval_time": "30m", "alertname": alert.name, "exp_alerts": expected}
    return {"interval": "1m", "input_series": series, "alert_rule_test": [check]}


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


def test_each_alert_fires_on_the_fault_it_is_for_and_not_without_it(tmp_path: Path) -> None:
    tests = []
    for name, (faulty, sound, labels) in CASES.items():
        alert = ALERTS[name]
        tests += [_test(alert, faulty, [_fires(alert, labels)]), _test(alert, sound, [])]
    rules = DOCS / "monitoring" / "alerts.yaml"
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}))
    promtool = program("promtool", "apt-get install prometheus")
    for command in (["check", "rules", str(rules)], ["test", "rules", str(file)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_are_current() -> None:
    for path, text in written(DOCS).items():
        assert path.read_text() == text, "run: python -m aigateway.http.metrics.monitoring docs"


def test_queries_ask_for_series_and_labels_that_there_are() -> None:
    described = {
        one.name: one for one in (*Series(CollectorRegistry()).descriptions, BUILD, *PROCESS_SERIES)
    }
    queries = [one.query for one in QUESTIONS] + [alert.query for alert in ALERTS.values()]
    for query in queries:
        named = re.findall(rf"\b(?:{PREFIX}|process)_\w+", query)
        assert named, query
        known = set().union(*(described[n.removesuffix("_bucket")].labels for n in named))
        for by in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(by.split(", ")) - {"le"} <= known, query
        assert set(re.findall(r'(\w+)(?:=~?|!=)"', query)) <= known, query


def test_every_panels_title_is_a_question_and_none_covers_another() -> None:
    dashboard = json.loads((DOCS / "monitoring" / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert all(panel["title"].endswith("?") for panel in panels)
    assert len({panel["title"] for panel in panels}) == len(panels) == len(QUESTIONS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "operate.md").write_text(f"{END}\n")
    with pytest.raises(ValueError, match=re.escape(BEGIN)):
        written(tmp_path)
