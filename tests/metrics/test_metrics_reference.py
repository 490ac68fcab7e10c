"""The table of metrics in the docs is written from the series, and is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aigateway.http.metrics.processes import BUILD, PROCESS_SERIES
from aigateway.http.metrics.reasons import REASONS, Reason
from aigateway.http.metrics.reference import END, reasons, table, with_table
from aigateway.http.metrics.series import Series

PAGE = Path(__file__).parents[2] / "docs" / "operate.md"


def test_the_table_in_docs_is_current() -> None:
    page = PAGE.read_text()
    assert with_table(page) == page, (
        "run: python -m aigateway.http.metrics.reference docs/operate.md"
    )


def test_every_series_that_is_served_is_described() -> None:
    registry = CollectorRegistry()
    described = {one.name for one in Series(registry).descriptions}
    served = {
        line.split()[2]
        for line in generate_latest(registry).decode().splitlines()
        if "HELP" in line
    }
    assert served == described
    assert len(table().splitlines()) == len(described) + len([BUILD, *PROCESS_SERIES]) + 3


def test_every_reason_for_a_refusal_is_described() -> None:
    assert set(REASONS) == set(Reason)
    assert len(reasons().splitlines()) == len(Reason) + 2


def test_every_label_adds_to_the_estimate_of_its_series() -> None:
    for one in Series(CollectorRegistry()).descriptions:
        assert (one.estimate > 1) == bool(one.labels), one.name
        assert one.estimate < 100_000, f"{one.name} is too much for Prometheus"


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics end"):
        with_table(f"# Metrics\n{END}\n")
