"""What happens to requests, counted.

One :class:`RequestMetrics` per gateway worker; the pipeline and the relay call it.  With
metrics switched off a gateway has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from aigateway.actors.recorder.records import PromptUsage, TokenUsage, ToolUsage, UsageRecord
from aigateway.http.metrics.series import Series

__all__ = ["RequestMetrics"]


class RequestMetrics:
    """Counts requests and their records."""

    def __init__(self, series: Series, *, initiators: bool) -> None:
        """``initiators``: whether series carry the user's id, or an empty label."""
        self.series = series
        self._initiators = initiators

    def began(self, provider: str, model: str, route: str) -> None:
        """An interception has been recorded; :meth:`ended` follows."""
        self.series.inflight.labels(provider, model, route).inc()

    def ended(
        self,
        *,
        provider: str,
        model: str,
        route: str,
        method: str,
        initiator: str,
        client: str,
        failed: bool,
        seconds: float,
    ) -> None:
        """An interception has ended."""
        series = self.series
        who = initiator if self._initiators else ""
        status = "failed" if failed else "completed"
        series.interceptions.labels(provider, model, status, route, method, who, client).inc()
        series.inflight.labels(provider, model, route).dec()
        series.duration.labels(provider, model).observe(seconds)

    def passed_through(self, provider: str, route: str, method: str) -> None:
        self.series.passthrough.labels(provider, route, method).inc()

    def records(
        self,
        found: Sequence[UsageRecord],
        *,
        provider: str,
        model: str,
        initiator: str,
        client: str,
    ) -> None:
        """Records have become known, whatever becomes of them."""
        series = self.series
        who = initiator if self._initiators else ""
        for record in found:
            if isinstance(record, TokenUsage):
                for kind, count in _tokens(record):
                    series.tokens.labels(provider, model, kind, who, client).inc(count)
            elif isinstance(record, PromptUsage):
                if record.prompt:
                    series.prompts.labels(provider, model, who, client).inc()
            elif isinstance(record, ToolUsage):
                if record.injected:
                    server = record.server_url or ""
                    series.tool_invocations.labels(provider, model, server, record.tool).inc()
                else:
                    series.tool_selections.labels(provider, model, record.tool).inc()

    def stages(self, provider: str, seconds: dict[str, float], overhead: float) -> None:
        """Where a request's time went."""
        stage = self.series.stage
        for name, value in seconds.items():
            stage.labels(provider, name).observe(value)
        self.series.overhead.labels(provider).observe(overhead)


def _tokens(record: TokenUsage) -> list[tuple[str, int]]:
    kinds = [
        ("input", record.input_tokens),
        ("output", record.output_tokens),
        ("cache_read_input_tokens", record.cache_read_input_tokens),
        ("cache_write_input_tokens", record.cache_write_input_tokens),
        *record.extra_token_types.items(),
    ]
    return [(kind, count) for kind, count in kinds if count > 0]
