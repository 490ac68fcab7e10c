"""Label values that others chose: made printable, and no more of them than a worker can hold.

Clients choose the names of models and tools, and each new value is a time series that stays for
as long as the process lives.
"""

from __future__ import annotations

import threading

import structlog

from aigateway.http.settings.printable import printable

__all__ = ["LONGEST_VALUE", "MAX_VALUES", "OTHER", "LabelValues"]

MAX_VALUES = 5000
"""Different values of one label of one series in a worker process."""
LONGEST_VALUE = 256
"""Characters of a value; what is behind them is left out."""
OTHER = "other"
"""Stands for all values beyond the bound."""

log = structlog.get_logger("ai-gateway")


class LabelValues:
    """Which values have series of their own, for all series of a process."""

    def __init__(self, most: int = MAX_VALUES) -> None:
        self._most = most
        self._known: dict[tuple[object, int], set[str]] = {}
        self._told = False
        self._lock = threading.Lock()

    def bounded(self, series: object, labels: tuple[str, ...]) -> tuple[str, ...]:
        """``labels`` as they may be shown.  The same labels always lead to the same ones."""
        with self._lock:
            return tuple(self._value(series, at, label) for at, label in enumerate(labels))

    def _value(self, series: object, at: int, label: str) -> str:
        label = printable(label[:LONGEST_VALUE])
        known = self._known.setdefault((series, at), set())
        if label in known:
            return label
        if len(known) >= self._most:
            self._tell()
            return OTHER
        known.add(label)
        return label

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "a metric's label has too many values, further ones are counted as other",
                most=self._most,
            )
