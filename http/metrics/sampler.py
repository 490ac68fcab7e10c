"""What actors know about themselves, put into series every few seconds.

Actors know nothing of metrics: they answer ``ListActors`` for ``aigateway actors``, and this
thread asks the same question.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from typing import Any, get_args

import pykka

from aigateway.actors.coderd.call_counters import BOUNDS, CallTimes
from aigateway.actors.coderd.messages import CallStats, GetCallStats
from aigateway.actors.providers.breaker import GAUGE
from aigateway.actors.providers.keypool import KeyState
from aigateway.actors.providers.messages import GetProviderState, ProviderState
from aigateway.actors.recorder.recorder import GetSpoolStats
from aigateway.actors.recorder.spool import SpoolStats
from aigateway.actors.supervisor import ActorInfo, ListActors
from aigateway.actors.tree import provider_role
from aigateway.http.admission import Admission
from aigateway.http.metrics.series import Series
from aigateway.http.runtime import Runtime

__all__ = ["Sampler"]

KEY_STATES: tuple[KeyState, ...] = get_args(KeyState)
_NO_CALLS = CallTimes((0,) * (len(BOUNDS) + 1), 0.0)
EVERY = 5.0
"""Seconds between samples: a third of the usual scrape interval."""


class Sampler:
    """A thread of a gateway worker that samples its actors."""

    def __init__(self, series: Series, runtime: Runtime, admission: Admission) -> None:
        self._series = series
        self._runtime = runtime
        self._admission = admission
        self._restarts: dict[str, int] = {}
        self._timed: dict[tuple[str, str], CallTimes] = {}
        self._counted: dict[tuple[str, ...], float] = {}
        self._providers: frozenset[tuple[str, str, str]] = frozenset()
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="metrics sampler", daemon=True).start()

    def stop(self) -> None:
        """Take the last sample."""
        self._stopped.set()
        self.sample()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.sample()
            self._stopped.wait(EVERY)

    def sample(self) -> None:
        """Ask everybody once; who does not answer keeps the last values."""
        with contextlib.suppress(pykka.ActorDeadError, pykka.Timeout):
            self._requests()
            self._calls()
            self._actors()
            self._spool()
            self._provider_list()
            for config in self._runtime.tree.provider_configs():
                self._provider(config.name)

    def _requests(self) -> None:
        self._series.requests_running.set(self._admission.running)
        self._series.requests_waiting.set(self._admission.waiting)
        self._series.connected.set(1 if self._runtime.status().connected else 0)

    def _calls(self) -> None:
        stats = self._ask("control-plane", GetCallStats())
        if not isinstance(stats, CallStats):
            return
        self._series.coderd_waiting.set(stats.waiting)
        for key, times in stats.times.items():
            before = self._timed.get(key, _NO_CALLS)
            counts = [new - old for new, old in zip(times.counts, before.counts, strict=True)]
            seconds = times.seconds - before.seconds
            if min(counts) < 0:
                # A restarted actor counts from 0 again.
                counts, seconds = list(times.counts), times.seconds
            self._series.coderd_rpc.labels(*key).add(counts, seconds)
            self._timed[key] = times

    def _actors(self) -> None:
        supervisor = self._runtime.supervisor
        if supervisor is None:
            return
        infos: Any = supervisor.ask(ListActors(), timeout=2)
        for info in infos:
            assert isinstance(info, ActorInfo)
            if "/worker-" in info.role:
                continue
            self._series.inbox.labels(info.role).set(info.inbox)
            before = self._restarts.get(info.role, 0)
            if info.restarts > before:
                self._series.restarts.labels(info.role).inc(info.restarts - before)
            self._restarts[info.role] = info.restarts

    def _spool(self) -> None:
        stats = self._ask("recorder", GetSpoolStats())
        if isinstance(stats, SpoolStats):
            self._series.spool_records.set(stats.depth)
            age = 0.0 if stats.oldest is None else max(0.0, time.time() - stats.oldest)
            self._series.spool_age.set(age)
            self._series.dead_letters.set(stats.dead_letters)

    def _provider_list(self) -> None:
        found = frozenset(
            (config.name, config.type, _status(config.enabled, config.error))
            for config in self._runtime.tree.provider_configs()
        )
        if found == self._providers:
            return
        for gone in self._providers - found:
            with contextlib.suppress(KeyError):
                self._series.provider_info.labels(*gone).set(0)
        for name in found:
            self._series.provider_info.labels(*name).set(1)
        self._providers = found
        now = time.time()
        self._series.reload.set(now)
        self._series.reload_success.set(now)

    def _provider(self, name: str) -> None:
        state = self._ask(provider_role(name), GetProviderState())
        if not isinstance(state, ProviderState):
            return
        series, counters = self._series, state.counters
        for outcome, drains in (
            ("complete", counters.drains_complete),
            ("cut", counters.drains - counters.drains_complete - state.draining),
            ("refused", counters.drains_refused),
        ):
            self._add(("drains", name, outcome), drains, series.drains.labels(outcome))
        for reason, count in counters.key_transitions.items():
            self._add(("key", name, reason), count, series.key_transitions.labels(name, reason))
        for outcome, count in counters.exhaustions.items():
            self._add(("empty", name, outcome), count, series.key_exhaustions.labels(name, outcome))
        for keys, count in counters.keys_tried.items():
            self._observe(("walks", name, str(keys)), count, keys, name)
        tally = Counter(key.state for key in state.keys)
        for key_state in KEY_STATES if state.keys else ():
            series.key_state.labels(name, key_state).set(tally[key_state])
        self._circuits(name, state)

    def _circuits(self, name: str, state: ProviderState) -> None:
        series, counters = self._series, state.counters
        for circuit in state.circuits:
            labels = (name, circuit.route, circuit.model)
            series.breaker_state.labels(*labels).set(GAUGE[circuit.state])
        for (route, model), count in counters.trips.items():
            counter = series.breaker_trips.labels(name, route, model)
            self._add(("trips", name, route, model), count, counter)
        for (route, model), count in counters.rejects.items():
            counter = series.breaker_rejects.labels(name, route, model)
            self._add(("rejects", name, route, model), count, counter)

    def _observe(self, key: tuple[str, ...], total: int, keys: int, name: str) -> None:
        before = self._counted.get(key, 0)
        histogram = self._series.failover_attempts.labels(name)
        for _ in range(int(total - before) if total >= before else total):
            histogram.observe(keys)
        self._counted[key] = total

    def _add(self, key: tuple[str, ...], total: float, counter: Any) -> None:
        """Bring a counter up to ``total``; a restarted actor counts from 0 again."""
        before = self._counted.get(key, 0.0)
        if total > before:
            counter.inc(total - before)
        elif total < before:
            counter.inc(total)
        self._counted[key] = total

    def _ask(self, role: str, question: Any) -> Any:
        ref = self._runtime.tree.find(role)
        return None if ref is None else ref.ask(question, timeout=2)


def _status(enabled: bool, error: str | None) -> str:
    if not enabled:
        return "disabled"
    return "enabled" if error is None else "error"
