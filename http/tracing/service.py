"""The tracer of a worker process: made after the fork, flushed when the process ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import structlog
from opentelemetry._logs import Logger
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Tracer

from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.prices.cost import Used
from aigateway.actors.values.records import RECORD_LINE, TokenUsage
from aigateway.http.logs import tap_logs
from aigateway.http.settings import Settings
from aigateway.http.settings.provider_build import configured_providers
from aigateway.http.settings.trace_protocol import trace_protocol
from aigateway.http.settings.version import own_version
from aigateway.http.tracing.request import CostOf, RequestTrace

__all__ = ["FLUSH_TIMEOUT", "PROBES", "TRACER", "Tracing"]

SERVICE = "coder-ai-gateway"
"""The reference's service name; OTEL_SERVICE_NAME sets another."""
TRACER = "ai-gateway"
FLUSH_TIMEOUT = 5.0
"""Seconds that a process that ends waits for the collector."""
PROBES = frozenset({"/healthz", "/readyz"})
"""Paths that are never traced."""
TRACES_PATH = "/v1/traces"
LOGS_PATH = "/v1/logs"
HONEYCOMB = "https://api.honeycomb.io"
_EVENTS_AT_ONCE = 16
"""Events in one message, each of 64 KB of texts or so: collectors take 4 MB by gRPC."""
_EVENTS_WAITING = 256
"""Events that wait for the collector, at most; more are dropped."""

E = TypeVar("E")

_served: ContextVar[RequestTrace | None] = ContextVar("aigateway_trace", default=None)
"""The request that this greenlet or thread serves; only log lines are found by it."""

log = structlog.get_logger("ai-gateway.tracing")


class Tracing:
    """Makes one :class:`RequestTrace` for each request that is not a probe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pid = 0
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        self._cost_of: CostOf | None = None
        self._event_provider: LoggerProvider | None = None
        self._events: Logger | None = None

    def start(self) -> None:
        """Start the exporter's thread, in the process that serves; calling again does nothing."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            attributes: dict[str, str | int] = {
                "service.name": os.environ.get("OTEL_SERVICE_NAME") or SERVICE,
                "service.version": own_version(),
                "process.pid": os.getpid(),
            }
            # An exit handler would wait for the collector without a limit.
            provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
            for exporter in _exporters(self._settings):
                provider.add_span_processor(BatchSpanProcessor(exporter))
            self._provider = provider
            if self._settings.trace_gen_ai:
                self._event_provider = _event_provider(self._settings, provider.resource)
                self._events = self._event_provider.get_logger(TRACER, own_version())
            self._cost_of = _cost_of(self._settings)
            self._tracer = provider.get_tracer(TRACER, own_version())
            self._pid = os.getpid()
            if self._settings.trace_logs:
                tap_logs(_log_to_trace)

    def begin(self, environ: dict[str, object]) -> RequestTrace | None:
        """A trace for the request of this WSGI environment, None for a probe."""
        trace = None
        if environ.get("PATH_INFO") not in PROBES:
            self.start()
            assert self._tracer is not None
            trace = RequestTrace.of_request(self._tracer, environ, self._cost_of, self._events)
        if self._settings.trace_logs:
            _served.set(trace)
        return trace

    def stop(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Send what has gathered; waits ``timeout`` seconds at most."""
        provider, self._provider = self._provider, None
        events, self._event_provider = self._event_provider, None
        if provider is None or self._pid != os.getpid():
            return
        # The exporters' own waits add up to more than the limit.
        closings = [
            threading.Thread(target=each.shutdown, name="trace flush", daemon=True)
            for each in (provider, events)
            if each is not None
        ]
        for closing in closings:
            closing.start()
        until = time.monotonic() + timeout
        for closing in closings:
            closing.join(max(0.0, until - time.monotonic()))
        if any(closing.is_alive() for closing in closings):
            log.warning("traces were not all sent in time", seconds=timeout)


def _cost_of(settings: Settings) -> CostOf | None:
    """By the prices of our own control plane; a Coder deployment does not tell its."""
    if not settings.local:
        return None
    pricing = load_pricing(settings.own_prices, configured_providers(settings))

    def cost_of(record: TokenUsage, model: str, kind: str, name: str) -> int | None:
        return pricing.cost(
            Used.of(record), model, provider=kind, provider_name=name, moment=record.created_at
        ).nano_usd

    return cost_of


def _log_to_trace(level: str, message: str, fields: dict[str, str]) -> None:
    trace = _served.get()
    # What was said is in no trace, though it may be in the log.
    if trace is not None and message != RECORD_LINE:
        trace.log(level, message, fields)


def _exporters(settings: Settings) -> list[SpanExporter]:
    def by_grpc(endpoint: str) -> SpanExporter:
        return _grpc_exporter(endpoint, settings.worker_class)

    return _where_wanted(settings, TRACES_PATH, OTLPSpanExporter, by_grpc)


def _where_wanted(
    settings: Settings, path: str, by_http: Callable[..., E], by_grpc: Callable[[str], E]
) -> list[E]:
    """Exporters of one signal, which HTTP has at ``path``, to all who get it."""
    exporters: list[E] = []
    if settings.trace:
        endpoint = settings.trace_endpoint.rstrip("/")
        if trace_protocol(os.environ) == "grpc":
            exporters.append(by_grpc(endpoint))
        elif endpoint:
            exporters.append(by_http(endpoint=endpoint + path))
        else:
            # Address, headers, certificates: the standard OTEL_EXPORTER_OTLP_* variables.
            exporters.append(by_http())
    if settings.trace_honeycomb_api_key:
        team = {"x-honeycomb-team": settings.trace_honeycomb_api_key}
        exporters.append(by_http(endpoint=HONEYCOMB + path, headers=team))
    return exporters


def _event_provider(settings: Settings, resource: Resource) -> LoggerProvider:
    """Events go where traces go: they are a signal of their own, that of logs."""
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _event_exporters(settings):
        provider.add_log_record_processor(
            BatchLogRecordProcessor(
                exporter, max_queue_size=_EVENTS_WAITING, max_export_batch_size=_EVENTS_AT_ONCE
            )
        )
    return provider


def _event_exporters(settings: Settings) -> list[LogRecordExporter]:
    def by_grpc(endpoint: str) -> LogRecordExporter:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
            OTLPLogExporter as GrpcLogExporter,
        )

        return GrpcLogExporter(endpoint=endpoint or None)

    return _where_wanted(settings, LOGS_PATH, OTLPLogExporter, by_grpc)


def _grpc_exporter(endpoint: str, worker_class: str) -> SpanExporter:
    # Large and compiled: only where it is wanted.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
        OTLPSpanExporter as GrpcSpanExporter,
    )

    if worker_class == "gevent":
        from grpc.experimental import gevent as grpc_gevent

        # Else a call would stop every greenlet of the worker until it is answered.
        grpc_gevent.init_gevent()
    # None: the standard variables.  An address by http:// means no TLS, as in those.
    return GrpcSpanExporter(endpoint=endpoint or None)
