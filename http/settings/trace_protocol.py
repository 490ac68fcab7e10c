"""How traces are sent, by OpenTelemetry's standard variables."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["trace_protocol"]


def trace_protocol(environ: Mapping[str, str]) -> str:
    """How traces are sent, by the standard variables: ``http/protobuf`` unless they say else."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    given = (environ.get(name, "").strip().lower() for name in names)
    return next(filter(None, given), "http/protobuf")
