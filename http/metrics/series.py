"""Every series of the gateway, with a pessimistic estimate of its cardinality.

The estimates are about a large gateway, all its worker processes together: ten providers,
twenty models in use at each, five routes, ten clients, a thousand users, of which each uses
three models of two providers with two clients.  ``docs/operate.md`` shows them; the table
there is written by ``python -m aigateway.http.metrics.reference``.

This module must not be imported before PROMETHEUS_MULTIPROC_DIR is set: prometheus-client
decides at import where its values live.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from attrs import frozen
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from aigateway.actors.control.call_counters import BOUNDS
from aigateway.actors.control.local.prices.cost import REASONS as UNPRICED
from aigateway.actors.control.local.retention import KINDS
from aigateway.actors.interception.attribution import DROPPED
from aigateway.http.metrics.label_values import LabelValues
from aigateway.http.metrics.reasons import REASONS

__all__ = [
    "DRAIN_OUTCOMES",
    "DURATION_BUCKETS",
    "FALLBACK_REASONS",
    "HANDSHAKE_REFUSALS",
    "KEY_OUTCOMES",
    "MAX_REST_LABELS",
    "PREFIX",
    "REST_REASONS",
    "STAGE_BUCKETS",
    "WORKER_PROCESSES",
    "BatchHistogram",
    "Description",
    "Series",
]

PREFIX = "coder_ai_gateway"
DURATION_BUCKETS = (0.5, 2, 5, 15, 30, 60, 120)
"""Seconds; the reference's."""
STAGE_BUCKETS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5,
)  # fmt: skip
"""Seconds; the gateway's own work is a matter of tenths of milliseconds."""
ATTEMPT_BUCKETS = (1, 2, 3, 4, 5, 10, 25)

MAX_REST_LABELS = 50
"""Rests of one provider that have series of their own.  Clients choose the names of models."""

DRAIN_OUTCOMES = ("complete", "cut", "refused")
REST_REASONS = ("rate_limited", "unauthorized")
KEY_OUTCOMES = ("rate_limited", "auth_failed")
FALLBACK_REASONS = (
    "rate_limited", "unauthorized", "circuit_open", "error_status", "connect", "broke_off",
    "slow", "error_event", "bad_answer", "empty",
)  # fmt: skip
"""Label values that are known before anything happens: their series begin at 0, so that the
first time is a rise that ``rate()`` sees."""

HANDSHAKE_REFUSALS = (
    "coder", "handshake", "off", "path", "provider", "replica_cap", "tools", "user_cap",
)  # fmt: skip
"""Why a WebSocket's handshake is refused: the words of :mod:`~..request.sockets`."""

Factor = tuple[int, str]

PROVIDERS: Factor = (10, "providers")
MODELS: Factor = (20, "models")
ROUTES: Factor = (5, "routes")
WORKER_PROCESSES: Factor = (16, "worker processes")
USERS: Factor = (1000, "users")
USES: Factor = (12, "models and clients of a user")


class BatchHistogram(Histogram):
    """prometheus-client's histogram, which by itself takes one observation at a time."""

    def add(self, counts: Sequence[int], amount: float) -> None:
        """Add as many observations to each bucket, the endless one last, and their sum."""
        # NOTE: there is no public way to do this; `observe` does the same for one of them.
        self._sum.inc(amount)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


@frozen
class Description:
    """One series, for the documentation."""

    name: str
    """As it is scraped."""
    kind: str
    text: str
    labels: tuple[str, ...]
    factors: tuple[Factor, ...]
    """What multiplies to the number of time series, worst case."""

    @property
    def estimate(self) -> int:
        return prod(count for count, _ in self.factors)


class Series:
    """All series of one process.  Make one instance per process and registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self.values = LabelValues()
        """Through which labels go that others chose."""
        self.descriptions: list[Description] = []
        self._interception_series()
        self._provider_series()
        self._own_series()

    def _interception_series(self) -> None:
        self.interceptions = self._counter(
            "interceptions",
            "Intercepted requests by how they ended: completed or failed",
            ("provider", "model", "status", "route", "method", "initiator_id", "client"),
            USERS, USES, (2, "statuses"),
        )  # fmt: skip
        self.inflight = self._gauge(
            "interceptions_inflight",
            "Intercepted requests being served",
            ("provider", "model", "route"),
            PROVIDERS, MODELS, (3, "intercepted routes"),
        )  # fmt: skip
        self.duration = self._histogram(
            "interceptions_duration_seconds",
            "Time from an intercepted request to the end of its answer",
            ("provider", "model"),
            DURATION_BUCKETS,
            PROVIDERS, MODELS,
        )  # fmt: skip
        self.passthrough = self._counter(
            "passthrough",
            "Requests passed through",
            ("provider", "route", "method"),
            PROVIDERS, ROUTES, (3, "methods"),
        )  # fmt: skip
        self.prompts = self._counter(
            "prompts",
            "Prompts recorded",
            ("provider", "model", "initiator_id", "client"),
            USERS, USES,
        )  # fmt: skip
        self.tokens = self._counter(
            "tokens",
            "Tokens recorded by type: input, output, cache_read_input_tokens, "
            "cache_write_input_tokens, and whatever else a provider counts",
            ("provider", "model", "type", "initiator_id", "client"),
            USERS, USES, (8, "types"),
        )  # fmt: skip
        self.tool_selections = self._counter(
            "non_injected_tool_selections",
            "Calls of the client's own tools that models asked for",
            ("provider", "model", "name"),
            PROVIDERS, MODELS, (100, "tools"),
        )  # fmt: skip
        self.tool_invocations = self._counter(
            "injected_tool_invocations",
            "Calls of injected tools",
            ("provider", "model", "server", "name"),
            PROVIDERS, MODELS, (50, "tools"),
        )  # fmt: skip

    def _provider_series(self) -> None:
        labels = ("provider", "endpoint", "model")
        circuits = (PROVIDERS, (3, "endpoints"), MODELS)
        self.breaker_state = self._gauge(
            "circuit_breaker_state",
            "0 closed, 0.5 half open, 1 open; the worst of all workers",
            labels,
            *circuits,
            mode="livemax",
        )
        self.breaker_trips = self._counter(
            "circuit_breaker_trips", "Times a circuit opened", labels, *circuits
        )
        self.breaker_rejects = self._counter(
            "circuit_breaker_rejects",
            "Requests that an open circuit turned away",
            labels,
            *circuits,
        )
        self.key_transitions = self._counter(
            "key_pool_state_transitions",
            "Rests of keys that began: rate_limited (for a model or route), unauthorized",
            ("provider", "reason"),
            PROVIDERS, (len(REST_REASONS), "reasons"),
        )  # fmt: skip
        self.key_exhaustions = self._counter(
            "key_pool_exhaustions",
            f"Requests for which no key was left: {', '.join(KEY_OUTCOMES)}",
            ("provider", "outcome"),
            PROVIDERS, (len(KEY_OUTCOMES), "outcomes"),
        )  # fmt: skip
        self.credential_renewals = self._counter(
            "provider_credential_renewals",
            "Times that a credential which does not last (of a key command, of AWS) was to be had "
            "again: renewed, failed",
            ("provider", "result"),
            PROVIDERS, (2, "results"),
        )  # fmt: skip
        self.fallbacks = self._counter(
            "provider_fallbacks",
            "Requests that another provider was given, by the provider that could not answer and "
            f"why: {', '.join(FALLBACK_REASONS)}",
            ("provider", "reason"),
            PROVIDERS, (len(FALLBACK_REASONS), "reasons"),
        )  # fmt: skip
        self.key_state = self._gauge(
            "key_pool_state",
            "Keys by state: valid, or temporary while they rest for anything; the most of any "
            "worker",
            ("provider", "state"),
            PROVIDERS, (2, "states"),
            mode="livemax",
        )  # fmt: skip
        self.key_rest_until = self._gauge(
            "key_pool_rest_until_timestamp_seconds",
            "When a key's rest ends, 0 after that; key is masked, subject is the model or route, "
            "everything, or other for those beyond the bound",
            ("provider", "key", "subject", "reason"),
            PROVIDERS, (MAX_REST_LABELS + 5 * 2, "rests"),
            mode="livemax",
        )  # fmt: skip
        self.failover_attempts = self._histogram(
            "key_pool_failover_attempts",
            "Keys tried for one request",
            ("provider",),
            ATTEMPT_BUCKETS,
            PROVIDERS,
        )
        self.provider_info = self._gauge(
            "provider_info",
            "1 for each provider; status is enabled, disabled or error",
            ("provider_name", "provider_type", "status"),
            PROVIDERS, (3, "statuses"),
            mode="livemax",
        )  # fmt: skip
        self.reload = self._gauge(
            "providers_last_reload_timestamp_seconds",
            "When providers were last loaded, or were to be",
            mode="livemax",
        )
        self.reload_success = self._gauge(
            "providers_last_reload_success_timestamp_seconds",
            "When providers were last loaded",
            mode="livemax",
        )

    def _own_series(self) -> None:
        self.refused = self._counter(
            "requests_refused",
            "Requests that the gateway itself answered with an error, by the reasons below",
            ("reason",),
            (len(REASONS), "reasons"),
        )
        self.websocket_sessions = self._gauge("websocket_sessions", "WebSockets that are open")
        self.websocket_handshakes_refused = self._counter(
            "websocket_handshakes_refused",
            "WebSocket handshakes that were answered 426, use HTTP: "
            f"{', '.join(HANDSHAKE_REFUSALS)}",
            ("reason",),
            (len(HANDSHAKE_REFUSALS), "reasons"),
        )
        self.websocket_messages = self._counter(
            "websocket_messages",
            "Messages that came over WebSockets, from client and provider",
            ("from",),
            (2, "sides"),
        )
        self.attribution_dropped = self._counter(
            "attribution_dropped",
            "Values by which clients say for which work they ask (session, agent, project, "
            "repository and so on) that were dropped: malformed, too long, or not for this caller",
            ("kind",),
            (len(DROPPED), "kinds"),
        )  # fmt: skip
        self.tools_left_out = self._counter(
            "mcp_tools_left_out",
            "Times that a tool of an MCP server was left out: definition (it cannot be used), "
            "api (it fits no request of that API), refused (a provider takes no request with it)",
            ("server", "reason"),
            (20, "servers"), (3, "reasons"),
        )  # fmt: skip
        self.stage = self._histogram(
            "stage_seconds",
            "Time in each stage of a request: edge, authorize, read (the body), place (waiting for "
            "one, where their number is limited), record, provider (until a worker begins to "
            "send), first_byte (waiting for the upstream), relay",
            ("provider", "stage"),
            STAGE_BUCKETS,
            PROVIDERS, (8, "stages"),
        )  # fmt: skip
        self.overhead = self._histogram(
            "overhead_seconds",
            "Time of a request not spent waiting for the upstream",
            ("provider",),
            STAGE_BUCKETS,
            PROVIDERS,
        )
        self.spool_records = self._gauge("spool_records", "Records that wait for the control plane")
        self.spool_age = self._gauge(
            "spool_oldest_seconds", "Age of the oldest record that waits", mode="livemax"
        )
        self.disk = self._gauge(
            "state_disk",
            "1 for how the disk with the state folder is: ok, slow, full, read-only, failing;"
            " the number of workers that find it so",
            ("state",),
            (5, "states"),
        )
        self.dead_letters = self._gauge("dead_letters", "Records that were set aside")
        self.drains = self._counter(
            "drains",
            f"Answers read on after the client had gone: {', '.join(DRAIN_OUTCOMES)}",
            ("outcome",),
            (len(DRAIN_OUTCOMES), "outcomes"),
        )
        roles = ((10 + 5, "actors"),)
        self.restarts = self._counter(
            "actor_restarts", "Actors that were restarted", ("role",), *roles
        )
        self.inbox = self._gauge(
            "actor_inbox", "Messages that wait for an actor", ("role",), *roles, mode="livemax"
        )
        self.inbox_wait = self._histogram(
            "actor_wait_seconds",
            "How long a message waits in an actor's inbox, tried five times a second",
            ("role",),
            STAGE_BUCKETS,
            *roles,
        )
        self.connected = self._gauge(
            "coderd_connected",
            "1 while every worker can ask the control plane",
            mode="livemin",
        )
        self.coderd_waiting = self._gauge(
            "coderd_waiting",
            "Requests that wait because the Coder deployment or PostgreSQL is away",
        )
        self.coderd_rpc = self._histogram(
            "coderd_rpc_seconds",
            "Time from a question for the Coder deployment to its outcome: answered, refused "
            "(with an error), failed (no answer)",
            ("rpc", "outcome"),
            BOUNDS,
            (11, "RPCs"), (3, "outcomes"),
        )  # fmt: skip
        self.unpriced = self._counter(
            "unpriced_token_records",
            "Token records that were stored without a cost (--local), by the reason",
            ("reason",),
            (len(UNPRICED), "reasons"),
        )
        self.cost = self._counter(
            "cost_dollars",
            "What stored token records cost (--local), by the price that holds for them",
            ("price",),
            MODELS,
        )
        self.cap_refusals = self._counter(
            "cap_refusals",
            "Calls that caps have stopped (--local), by whose cap it was and why: full, waited (in "
            "vain), unpriced (then by nobody's)",
            ("per", "reason"),
            (5, "kinds"), (3, "reasons"),
        )  # fmt: skip
        self.cap_waiting = self._gauge(
            "cap_waiting_calls", "Calls that wait until their caps let them begin (--local)"
        )
        self.cap_spent = self._gauge(
            "cap_spent_ratio",
            "The part of a cap that is spent, 1 is all, of the fullest ones (--local)",
            ("per", "subject", "every"),
            (100, "caps"),
            mode="livemax",
        )
        self.housekeeping_failing = self._gauge(
            "housekeeping_failing",
            "1 while the local database is not kept in order (--local): nothing old is deleted, "
            "and no prompt becomes searchable",
            mode="livemax",
        )
        self.deleted = self._counter(
            "old_requests_deleted",
            "Requests of which what is older than is kept was deleted (--local): content, records",
            ("kind",),
            (len(KINDS), "kinds"),
        )
        self.requests_running = self._gauge("requests_running", "Requests being served")
        self.connections_full = self._gauge(
            "connections_full",
            "Workers that take no connection: they have as many as --worker-connections allows",
        )
        self.requests_waiting = self._gauge(
            "requests_waiting",
            "Requests that wait: for a place, for the control_plane, for a connection to the "
            "provider, for the next attempt (retry)",
            ("for",),
            (4, "things to wait for"),
        )

    # -- making one

    def _counter(self, name: str, text: str, labels: Sequence[str], *factors: Factor) -> Counter:
        self._describe(f"{name}_total", "counter", text, labels, factors)
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def _gauge(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *factors: Factor,
        mode: str = "livesum",
    ) -> Gauge:
        self._describe(name, "gauge", text, labels, factors)
        return Gauge(
            f"{PREFIX}_{name}",
            text,
            labels,
            registry=self._registry,
            multiprocess_mode=mode,  # type: ignore[arg-type]
        )

    def _histogram(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        *factors: Factor,
    ) -> BatchHistogram:
        # Each is also a bucket without end, a sum and a count.
        lines = (len(buckets) + 3, "lines")
        self._describe(name, "histogram", text, labels, (*factors, lines))
        return BatchHistogram(
            f"{PREFIX}_{name}", text, labels, buckets=tuple(buckets), registry=self._registry
        )

    def _describe(
        self, name: str, kind: str, text: str, labels: Sequence[str], factors: Sequence[Factor]
    ) -> None:
        self.descriptions.append(
            Description(f"{PREFIX}_{name}", kind, text, tuple(labels), tuple(factors))
        )
