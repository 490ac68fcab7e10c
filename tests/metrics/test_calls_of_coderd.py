"""What the connection's actor has counted becomes a histogram."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aigateway.actors.control.call_counters import CallCounters
from aigateway.actors.control.local.local import LocalControlPlane
from aigateway.actors.control.messages import CallStats, GetCallStats
from aigateway.actors.control.rpc_results import Failure, RpcAnswer
from aigateway.http.metrics.observer import RequestMetrics
from aigateway.http.metrics.sampler import Sampler
from aigateway.http.metrics.series import Series

LABELS = ("rpc", "outcome", "le")
RPC = "/proto.Authorizer/IsAuthorized"


class Plane:
    """Stands for the control plane's actor."""

    def __init__(self, urn: str = "first") -> None:
        self.actor_urn = urn
        self.counters = CallCounters()
        self.waiting = 0

    def ask(self, _question: GetCallStats, block: bool, timeout: float) -> CallStats:
        return CallStats(waiting=self.waiting, times=self.counters.copy())


class Rig:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.plane: Any = Plane()
        tree: Any = SimpleNamespace(find=lambda _role: self.plane)
        metrics = RequestMetrics(Series(self.registry), initiators=True)
        self.sampler = Sampler(metrics, tree, cast(Any, None), cast(Any, None), ())

    def samples(self) -> dict[tuple[str, ...], float]:
        self.sampler._coderd()
        text = generate_latest(self.registry).decode()
        return {
            (
                sample.name.removeprefix("coder_ai_gateway_"),
                *(sample.labels[name] for name in LABELS if name in sample.labels),
            ): sample.value
            for family in text_string_to_metric_families(text)
            if "coderd_rpc" in family.name or "coderd_waiting" in family.name
            for sample in family.samples
        }


def test_calls_are_added_up_over_samples_and_restarts() -> None:
    rig = Rig()
    rig.plane.waiting = 3
    for seconds in (0.0007, 0.0007, 0.3):
        rig.plane.counters.add(RPC, RpcAnswer(b""), seconds)
    rig.plane.counters.add(RPC, Failure("away"), 99.0)
    found = rig.samples()
    assert found["coderd_waiting",] == 3
    assert found["coderd_rpc_seconds_count", "IsAuthorized", "answered"] == 3
    assert found["coderd_rpc_seconds_sum", "IsAuthorized", "answered"] == pytest.approx(0.3014)
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "answered", "0.0005"] == 0
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "answered", "0.001"] == 2
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "answered", "0.5"] == 3
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "failed", "60.0"] == 0
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "failed", "+Inf"] == 1
    assert rig.samples() == found
    rig.plane.counters.add(RPC, RpcAnswer(b""), 0.3)
    assert rig.samples()["coderd_rpc_seconds_count", "IsAuthorized", "answered"] == 4
    # Its successor counts from 0 again, and has more already.
    rig.plane = Plane("second")
    for _ in range(5):
        rig.plane.counters.add(RPC, RpcAnswer(b""), 0.3)
    found = rig.samples()
    assert found["coderd_waiting",] == 0
    assert found["coderd_rpc_seconds_count", "IsAuthorized", "answered"] == 9
    assert found["coderd_rpc_seconds_bucket", "IsAuthorized", "answered", "0.001"] == 2
    assert found["coderd_rpc_seconds_sum", "IsAuthorized", "answered"] == pytest.approx(2.1014)


def test_a_control_plane_of_its_own_makes_no_calls(tmp_path: Any) -> None:
    rig = Rig()
    rig.plane = LocalControlPlane.start("control-plane", None, tmp_path / "gateway.db")
    try:
        assert rig.samples() == {("coderd_waiting",): 0}
    finally:
        rig.plane.stop()


def test_records_without_a_price_are_counted_from_nothing_on_and_over_restarts() -> None:
    registry = CollectorRegistry()
    told: dict[str, int] = {}
    plane = SimpleNamespace(
        actor_urn="first", ask=lambda _question, block, timeout: CallStats(unpriced=dict(told))
    )
    tree: Any = SimpleNamespace(find=lambda _role: plane)
    metrics = RequestMetrics(Series(registry), initiators=True)
    sampler = Sampler(metrics, tree, cast(Any, None), cast(Any, None), ())

    def counted(reason: str) -> float | None:
        sampler._coderd()
        return registry.get_sample_value(
            "coder_ai_gateway_unpriced_token_records_total", {"reason": reason}
        )

    assert (counted("model"), counted("tier")) == (0, 0)
    told["model"] = 3
    assert (counted("model"), counted("model"), counted("tier")) == (3, 3, 0)
    plane.actor_urn = "second"
    told["model"] = 2
    assert counted("model") == 5


def test_costs_are_counted_in_dollars_and_over_restarts() -> None:
    registry = CollectorRegistry()
    told = {"anthropic/claude-x": 1_500_000_000}
    plane = SimpleNamespace(
        actor_urn="first", ask=lambda _question, block, timeout: CallStats(costs=dict(told))
    )
    tree: Any = SimpleNamespace(find=lambda _role: plane)
    metrics = RequestMetrics(Series(registry), initiators=True)
    sampler = Sampler(metrics, tree, cast(Any, None), cast(Any, None), ())

    def dollars() -> float | None:
        sampler._coderd()
        return registry.get_sample_value(
            "coder_ai_gateway_cost_dollars_total", {"price": "anthropic/claude-x"}
        )

    assert (dollars(), dollars()) == (1.5, 1.5)
    plane.actor_urn = "second"
    told["anthropic/claude-x"] = 500_000_000
    assert dollars() == 2.0
