"""Every series of the gateway, with a pessimistic estimate of its cardinality.

The estimates assume 10 providers, 20 models per provider in use, 5 routes per provider,
3 methods, 10 clients and 1,000 users (``initiator_id``), of which each uses 3 models of 2
providers with 2 clients.  They are per gateway, not per worker process.

This module must not be imported before PROMETHEUS_MULTIPROC_DIR is set: prometheus-client
decides at import where its values live.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["DURATION_BUCKETS", "STAGE_BUCKETS", "Series"]

PREFIX = "coder_ai_gateway"
DURATION_BUCKETS = (0.5, 2, 5, 15, 30, 60, 120)
"""Seconds; the reference's."""
STAGE_BUCKETS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5,
)  # fmt: skip
"""Seconds; the gateway's own work is a matter of tenths of milliseconds."""
ATTEMPT_BUCKETS = (1, 2, 3, 4, 5, 10, 25)


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(f"{PREFIX}_{name}", text, labels)


def _gauge(name: str, text: str, labels: Sequence[str] = (), mode: str = "livesum") -> Gauge:
    return Gauge(f"{PREFIX}_{name}", text, labels, multiprocess_mode=mode)  # type: ignore[arg-type]


def _histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
    return Histogram(f"{PREFIX}_{name}", text, labels, buckets=tuple(buckets))


class Series:
    """All series of one process.  Make one instance per process."""

    def __init__(self) -> None:
        # -- interceptions
        # 10 × 20 × 2 × 5 × 3 × users: 1,000 users × 12 combinations × 2 statuses = 24,000
        self.interceptions = _counter(
            "interceptions",
            "Intercepted requests by how they ended",
            ("provider", "model", "status", "route", "method", "initiator_id", "client"),
        )
        # 10 × 20 × 3 = 600
        self.inflight = _gauge(
            "interceptions_inflight",
            "Intercepted requests being served",
            ("provider", "model", "route"),
        )
        # 10 × 20 × 10 = 2,000
        self.duration = _histogram(
            "interceptions_duration_seconds",
            "Time from an intercepted request to the end of its answer",
            ("provider", "model"),
            DURATION_BUCKETS,
        )
        # 10 × 5 × 3 = 150
        self.passthrough = _counter(
            "passthrough", "Requests passed through", ("provider", "route", "method")
        )
        # 1,000 × 12 = 12,000
        self.prompts = _counter(
            "prompts", "Prompts recorded", ("provider", "model", "initiator_id", "client")
        )
        # 1,000 × 12 × 8 types = 96,000
        self.tokens = _counter(
            "tokens",
            "Tokens recorded, by type",
            ("provider", "model", "type", "initiator_id", "client"),
        )
        # 10 × 20 × 100 tools = 20,000
        self.tool_selections = _counter(
            "non_injected_tool_selections",
            "Calls of the client's own tools that models asked for",
            ("provider", "model", "name"),
        )
        # 10 × 20 × 50 tools = 10,000
        self.tool_invocations = _counter(
            "injected_tool_invocations",
            "Calls of injected tools",
            ("provider", "model", "server", "name"),
        )
        self._provider_series()
        self._own_series()

    def _provider_series(self) -> None:
        # 10 × 5 × 20 = 1,000 each
        labels = ("provider", "endpoint", "model")
        self.breaker_state = _gauge(
            "circuit_breaker_state", "0 closed, 0.5 half open, 1 open", labels, "livemax"
        )
        self.breaker_trips = _counter("circuit_breaker_trips", "Times a circuit opened", labels)
        self.breaker_rejects = _counter(
            "circuit_breaker_rejects", "Requests that an open circuit turned away", labels
        )
        # 10 × 3 = 30 each
        self.key_transitions = _counter(
            "key_pool_state_transitions", "Keys that were marked", ("provider", "reason")
        )
        self.key_exhaustions = _counter(
            "key_pool_exhaustions", "Requests that found no usable key", ("provider", "outcome")
        )
        self.key_state = _gauge("key_pool_state", "Keys by state", ("provider", "state"), "livemax")
        # 10 × 10 = 100
        self.failover_attempts = _histogram(
            "key_pool_failover_attempts",
            "Keys tried for one request",
            ("provider",),
            ATTEMPT_BUCKETS,
        )
        # 10 × 3 = 30
        self.provider_info = _gauge(
            "provider_info",
            "1 for each provider",
            ("provider_name", "provider_type", "status"),
            "livemax",
        )
        self.reload = _gauge(
            "providers_last_reload_timestamp_seconds",
            "When providers were last loaded, or were to be",
            mode="livemostrecent",
        )
        self.reload_success = _gauge(
            "providers_last_reload_success_timestamp_seconds",
            "When providers were last loaded",
            mode="livemostrecent",
        )

    def _own_series(self) -> None:
        # 10 × 7 stages × 15 = 1,050
        self.stage = _histogram(
            "stage_seconds",
            "Time in each stage of a request",
            ("provider", "stage"),
            STAGE_BUCKETS,
        )
        # 10 × 15 = 150
        self.overhead = _histogram(
            "overhead_seconds",
            "Time of a request not spent waiting for the upstream",
            ("provider",),
            STAGE_BUCKETS,
        )
        # 1 each, or by outcome 3, by role 20
        self.spool_records = _gauge("spool_records", "Records that wait for the control plane")
        self.spool_age = _gauge(
            "spool_oldest_seconds", "Age of the oldest record that waits", mode="livemax"
        )
        self.dead_letters = _gauge("dead_letters", "Records that were set aside")
        self.drains = _counter("drains", "Answers read on after the client had gone", ("outcome",))
        self.restarts = _counter("actor_restarts", "Actors that were restarted", ("role",))
        self.inbox = _gauge("actor_inbox", "Messages that wait for an actor", ("role",), "livemax")
        self.connected = _gauge(
            "coderd_connected", "1 while the control plane can be asked", mode="livemin"
        )
        self.requests_running = _gauge("requests_running", "Requests being served")
        self.requests_waiting = _gauge("requests_waiting", "Requests that wait for a place")
