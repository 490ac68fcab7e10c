"""Write alert rules, a dashboard and a table of the docs from the list of questions.

``python -m aigateway.http.metrics.monitoring docs``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from aigateway.http.metrics.questions import QUESTIONS, Alert, Panel
from aigateway.http.metrics.reference import written_between

__all__ = ["BEGIN", "END", "main", "written"]

BEGIN: Final = "<!-- questions: written by `python -m aigateway.http.metrics.monitoring docs` -->"
END: Final = "<!-- questions end -->"
_ALERTS_HEAD: Final = "# Written by `python -m aigateway.http.metrics.monitoring docs`.\n"
_WIDTH, _HEIGHT = 12, 8
"""Of a panel; Grafana's grid is 24 wide."""
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


def written(docs: Path) -> dict[Path, str]:
    """What the files of the folder ``docs`` should hold.  Raises ValueError when its page
    operate.md has no place for the table."""
    page = docs / "operate.md"
    return {
        page: written_between(BEGIN, END, page.read_text(), _table()),
        docs / "monitoring" / "alerts.yaml": _ALERTS_HEAD + _alerts(),
        # Charts reach no file that is outside of them.
        docs / "helm" / "aigateway" / "alerts.yaml": _ALERTS_HEAD + _alerts(),
        docs / "monitoring" / "dashboard.json": json.dumps(_dashboard(), indent=2) + "\n",
    }


def _table() -> str:
    rows = [f"| {one.title} | `{one.query}` |" for one in QUESTIONS]
    return "\n".join(["| question | query |", "|---|---|", *rows]) + "\n"


def _alerts() -> str:
    rules = [_rule(one, one.alert) for one in QUESTIONS if one.alert is not None]
    document = {"groups": [{"name": "aigateway", "rules": rules}]}
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def _rule(question: Panel, alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.query,
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": question.title, "description": alert.text},
    }


def _dashboard() -> dict[str, Any]:
    return {
        "title": "AI Gateway",
        "uid": "aigateway",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"}
            ]
        },
        "panels": [_panel(number, one) for number, one in enumerate(QUESTIONS)],
    }  # fmt: skip


def _panel(number: int, question: Panel) -> dict[str, Any]:
    row, column = divmod(number, 24 // _WIDTH)
    target = {
        "refId": "A",
        "expr": question.query,
        "legendFormat": question.legend or "gateway",
        "datasource": _SOURCE,
    }
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": question.title,
        "description": question.alert.text if question.alert is not None else "",
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": question.unit, "min": 0}, "overrides": []},
        "targets": [target],
    }


def main(docs: str) -> None:
    """Bring the files in the folder ``docs`` up to date."""
    for path, text in written(Path(docs)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
