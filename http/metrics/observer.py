"""What happens to requests, counted.

One :class:`RequestMetrics` per gateway worker; the pipeline and the relay call it.  With
metrics switched off a gateway has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from aigateway.actors.interception.attribution import DROPPED
from aigateway.actors.values.records import PromptUsage, TokenUsage, ToolUsage, UsageRecord
from aigateway.http.metrics.reasons import Reason
from aigateway.http.metrics.series import HANDSHAKE_REFUSALS, Series
from aigateway.http.metrics.stage_times import StageTimes

__all__ = ["RequestMetrics"]

T = TypeVar("T", Counter, Gauge, Histogram)


class RequestMetrics:
    """Counts requests and their records."""

    def __init__(self, series: Series, *, initiators: bool) -> None:
        """``initiators``: whether series carry the user's id, or an empty label."""
        self.series = series
        self.times = StageTimes(series)
        """Where requests' time went."""
        self._initiators = initiators
        self._refusals = {str(reason): series.refused.labels(str(reason)) for reason in Reason}
        refused = series.websocket_handshakes_refused
        self._handshakes = {each: refused.labels(each) for each in HANDSHAKE_REFUSALS}
        self._messages = {
            each: series.websocket_messages.labels(each) for each in ("client", "provider")
        }
        self._dropped = {kind: series.attribution_dropped.labels(kind) for kind in DROPPED}
        # PERF: for the library it takes as long to find them as to count in them.
        self._known: dict[Any, dict[tuple[str, ...], Any]] = {}

    def _of(self, series: T, *labels: str) -> T:
        """One time series; as many are kept here as the library itself keeps."""
        child = self._found(series, labels)
        if child is None:
            known = self._known[series]
            labels = self.series.values.bounded(series, labels)
            child = known.get(labels)
            if child is None:
                child = known[labels] = series.labels(*labels)
        return child

    def _found(self, series: T, labels: tuple[str, ...]) -> T | None:
        """The same, if it is there."""
        known = self._known.get(series)
        if known is None:
            known = self._known[series] = {}
        return known.get(labels)

    def began(self, provider: str, model: str, route: str) -> None:
        """An interception has been recorded; :meth:`ended` follows."""
        self._of(self.series.inflight, provider, model, route).inc()

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
        labels = (provider, model, status, route, method, who, client)
        counter = self._found(series.interceptions, labels)
        if counter is None:
            # Both are born together, so that a later first failure is a rise from 0.
            other = "completed" if failed else "failed"
            self._of(series.interceptions, provider, model, other, route, method, who, client)
            counter = self._of(series.interceptions, *labels)
        counter.inc()
        self._of(series.inflight, provider, model, route).dec()
        self._of(series.duration, provider, model).observe(seconds)

    def refused(self, reason: str) -> None:
        """The gateway itself has answered with an error."""
        self._refusals[reason].inc()

    def handshake_refused(self, reason: str) -> None:
        """A WebSocket's handshake was answered 426."""
        self._handshakes[reason].inc()

    def messages_of(self, side: str) -> Callable[[int], None]:
        """What counts messages of WebSockets from ``client`` or ``provider``."""
        return self._messages[side].inc

    def attribution_dropped(self, kinds: Sequence[str]) -> None:
        """Some of what a client said of its work was no good."""
        for kind in kinds:
            self._dropped[kind].inc()

    def passed_through(self, provider: str, route: str, method: str) -> None:
        self._of(self.series.passthrough, provider, route, method).inc()

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
                    self._of(series.tokens, provider, model, kind, who, client).inc(count)
            elif isinstance(record, PromptUsage):
                if record.prompt:
                    self._of(series.prompts, provider, model, who, client).inc()
            elif isinstance(record, ToolUsage):
                if record.injected:
                    server = record.server_url or ""
                    self._of(series.tool_invocations, provider, model, server, record.tool).inc()
                else:
                    self._of(series.tool_selections, provider, model, record.tool).inc()


def _tokens(record: TokenUsage) -> list[tuple[str, int]]:
    kinds = [
        ("input", record.input_tokens),
        ("output", record.output_tokens),
        ("cache_read_input_tokens", record.cache_read_input_tokens),
        ("cache_write_input_tokens", record.cache_write_input_tokens),
        *record.extra_token_types.items(),
    ]
    return [(kind, count) for kind, count in kinds if count > 0]
