"""What clients put into names, as metrics show it."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from aigateway.actors.values.records import ToolUsage
from aigateway.http.metrics.label_values import LONGEST_VALUE, LabelValues
from aigateway.http.metrics.observer import RequestMetrics
from aigateway.http.metrics.series import Series


class Counted:
    """The metrics of a process that tells few values apart."""

    def __init__(self, most: int = 3) -> None:
        self.registry = CollectorRegistry()
        series = Series(self.registry)
        series.values = LabelValues(most)
        self.metrics = RequestMetrics(series, initiators=True)

    def request(self, model: str, user: str = "u", client: str = "c") -> None:
        self.metrics.began("p", model, "/r")
        self.metrics.ended(
            provider="p",
            model=model,
            route="/r",
            method="POST",
            initiator=user,
            client=client,
            failed=False,
            seconds=1.0,
        )

    def found(self, series: str, label: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name == f"coder_ai_gateway_{series}":
                    value = sample.labels[label]
                    sums[value] = sums.get(value, 0.0) + sample.value
        return sums


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("rtl\u202e", r"rtl\u202e"),
        ("half\ud800", r"half\ud800"),
        ("größe", "größe"),
        ("m" * 300, "m" * LONGEST_VALUE),
    ],
)
def test_a_label_holds_no_control_characters_and_has_an_end(model: str, shown: str) -> None:
    counted = Counted()
    counted.request(model)
    called = ToolUsage(interception_id="i", msg_id="m", tool=model, input="{}", created_at=0.0)
    counted.metrics.records([called], provider="p", model=model, initiator="", client="")
    assert counted.found("interceptions_total", "model") == {shown: 1}
    assert counted.found("non_injected_tool_selections_total", "name") == {shown: 1}
    assert b"\x1b" not in generate_latest(counted.registry)


def test_values_beyond_the_bound_are_counted_together_and_told_once() -> None:
    counted = Counted(most=3)
    with capture_logs() as logs:
        for number in range(10):
            counted.request(f"m{number}", f"u{number}", f"c{number}")
            counted.request("m0")
    expected = {"m0": 11.0, "m1": 1.0, "m2": 1.0, "other": 7.0}
    assert counted.found("interceptions_total", "model") == expected
    assert counted.found("interceptions_duration_seconds_count", "model") == expected
    assert len(counted.found("interceptions_total", "initiator_id")) == 4
    assert len(counted.found("interceptions_total", "client")) == 4
    assert counted.found("interceptions_inflight", "model") == dict.fromkeys(expected, 0.0)
    assert [line["most"] for line in logs] == [3]


def test_a_request_beyond_the_bound_leaves_nothing_behind() -> None:
    counted = Counted(most=3)
    for number in range(1000):
        counted.request(f"m{number}")
    known = counted.metrics._known[counted.metrics.series.inflight]
    assert len(known) == 4
