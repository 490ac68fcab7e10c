"""What actors know about themselves, put into series every few seconds.

Actors know nothing of metrics: they answer questions, or note what can be seen without asking
(:mod:`aigateway.actors.actor.activity`), and this thread looks.  Each part is looked at by itself:
an actor that hangs keeps its last values, and nobody else's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, get_args

import prometheus_client

from aigateway.actors.actor.activity import activities
from aigateway.actors.actor.base import ask_quietly
from aigateway.actors.actor.tree import ActorTree, provider_role
from aigateway.actors.control.call_counters import BOUNDS, OUTCOMES, CallTimes
from aigateway.actors.control.local.housekeeper import GetHousekeeping, Housekeeping
from aigateway.actors.control.local.prices.cost import REASONS
from aigateway.actors.control.messages import CallStats, CapStats, GetCallStats, Status
from aigateway.actors.providers.breaker import GAUGE
from aigateway.actors.providers.keypool import KeyState
from aigateway.actors.providers.request import GetProviderState, ProviderState
from aigateway.actors.recorder.messages import GetSpoolStats
from aigateway.actors.recorder.spool import DiskState, SpoolStats
from aigateway.actors.values.money import NANO_IN_DOLLAR
from aigateway.http.metrics.observer import RequestMetrics
from aigateway.http.metrics.series import (
    DRAIN_OUTCOMES,
    FALLBACK_REASONS,
    KEY_OUTCOMES,
    MAX_REST_LABELS,
    REST_REASONS,
)
from aigateway.http.settings.printable import printable

__all__ = ["Places", "Sampler", "Served"]

KEY_STATES: tuple[KeyState, ...] = get_args(KeyState)
_NO_CALLS = CallTimes((0,) * (len(BOUNDS) + 1), 0.0)
EVERY = 5.0
"""Seconds between samples: a third of the usual scrape interval."""
WRITE_EVERY = 1.0
"""Seconds between writes of requests' times; and between samples as long as there are no
providers yet."""
PATIENCE = 2.0
"""Seconds to wait for an actor's answer."""
CONTROL_PLANE_STAGES = frozenset({"authorize", "record"})
"""Those in which a request waits for the control plane."""

_Labels = tuple[str, ...]


class Places(Protocol):
    """The places in which requests are served."""

    running: int

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""


class Served(Protocol):
    """A request that is being served."""

    stage: str


class Sampler:
    """A thread of a gateway worker that samples its actors."""

    def __init__(
        self,
        metrics: RequestMetrics,
        tree: ActorTree,
        status: Callable[[], Status],
        places: Places,
        calls: Collection[Served],
        tools_left_out: Callable[[], Mapping[tuple[str, str], int]] = dict,
        full_house: Callable[[], bool] = bool,
    ) -> None:
        """``status`` asks for the control plane's; ``calls`` are the requests being served;
        ``tools_left_out`` tells how often, by MCP server and reason; ``full_house`` whether the
        worker has as many connections of clients as it may."""
        self._series = metrics.series
        self._times = metrics.times
        self._tree = tree
        self._status = status
        self._places = places
        self._calls = calls
        self._tools_left_out = tools_left_out
        self._full_house = full_house
        self._totals = _Totals()
        self._gauges = _Gauges()
        self._urns: dict[str, str] = {}
        """Of the provider actors, by the providers' names."""
        self._rest_labels: dict[str, set[_Labels]] = {}
        """Labels of rests that have series, by provider: they cannot be taken back."""
        self._coderd_urn = ""
        self._keeper_urn = ""
        self._timed: dict[tuple[str, str], CallTimes] = {}
        """What was seen last of the actor with this urn."""
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="metrics sampler", daemon=True).start()

    def stop(self) -> None:
        """Take the last sample."""
        self._stopped.set()
        self._times.write()
        self.sample()

    def _run(self) -> None:
        due = 0.0
        while not self._stopped.wait(WRITE_EVERY if due else 0.0):
            self._times.write()
            if time.monotonic() >= due:
                self.sample()
                loaded = self._tree.providers_loaded
                due = time.monotonic() + (EVERY if loaded else 0.0)

    def sample(self) -> None:
        """Look at everything once; who does not answer keeps the last values."""
        self._actors()
        self._spool()
        self._provider_list()
        waiting = self._providers()
        waiting["place"] = self._places.waiting
        waiting["control_plane"] = sum(
            call.stage in CONTROL_PLANE_STAGES for call in list(self._calls)
        )
        self._series.requests_running.set(self._places.running)
        self._series.connections_full.set(self._full_house())
        for what, count in waiting.items():
            self._series.requests_waiting.labels(what).set(count)
        self._coderd()
        self._housekeeping()
        self._tools()
        # Last: who sees this sees all of the sample.
        self._control_plane()

    def _tools(self) -> None:
        series = self._series
        for (server, reason), count in self._tools_left_out().items():
            labels = series.values.bounded(series.tools_left_out, (server, reason))
            key = ("tools", server, reason)
            self._totals.reach(key, count, series.tools_left_out, labels)

    def _coderd(self) -> None:
        control = self._tree.find("control-plane")
        stats = ask_quietly(control, GetCallStats(), PATIENCE)
        if control is None or not isinstance(stats, CallStats):
            return
        if self._coderd_urn != control.actor_urn:
            # It began to count again.
            self._coderd_urn = control.actor_urn
            self._timed.clear()
            self._totals.forget("unpriced")
            self._totals.forget("costs")
            self._totals.forget("caps")
        self._series.coderd_waiting.set(stats.waiting)
        for rpc in {rpc for rpc, _ in stats.times}:
            for outcome in OUTCOMES:
                self._series.coderd_rpc.labels(rpc, outcome)
        for key, times in stats.times.items():
            before = self._timed.get(key, _NO_CALLS)
            counts = [new - old for new, old in zip(times.counts, before.counts, strict=True)]
            self._series.coderd_rpc.labels(*key).add(counts, times.seconds - before.seconds)
            self._timed[key] = times
        for reason in REASONS:
            # At 0 too: rates see the first one.
            unpriced = self._series.unpriced.labels(reason)
            unpriced.inc(self._totals.grown(("unpriced", reason), stats.unpriced.get(reason, 0)))
        for price, nano in stats.costs.items():
            labels = self._series.values.bounded(self._series.cost, (price,))
            more = self._totals.grown(("costs", price), nano)
            self._series.cost.labels(*labels).inc(more / NANO_IN_DOLLAR)
        self._caps(stats.caps)

    def _housekeeping(self) -> None:
        keeper = self._tree.find("housekeeper")
        kept = ask_quietly(keeper, GetHousekeeping(), PATIENCE)
        if keeper is None or not isinstance(kept, Housekeeping):
            return
        if self._keeper_urn != keeper.actor_urn:
            # It began to count again.
            self._keeper_urn = keeper.actor_urn
            self._totals.forget("deleted")
        self._series.housekeeping_failing.set(kept.failing)
        for kind, count in kept.deleted.items():
            more = self._totals.grown(("deleted", kind), count)
            self._series.deleted.labels(kind).inc(more)

    def _caps(self, caps: CapStats) -> None:
        series = self._series
        series.cap_waiting.set(caps.waiting)
        for kind, count in caps.refused.items():
            series.cap_refusals.labels(*kind).inc(self._totals.grown(("caps", *kind), count))
        spent: dict[_Labels, float] = {}
        for cap, part in caps.spent.items():
            labels = series.values.bounded(series.cap_spent, cap)
            spent[labels] = max(part, spent.get(labels, 0.0))
        self._gauges.fill(series.cap_spent, spent)

    def _actors(self) -> None:
        histories = self._tree.histories()
        inboxes: dict[_Labels, float] = {(role,): 0 for role in (*histories, "supervisor")}
        for activity in activities():
            if (activity.role,) in inboxes:
                inboxes[activity.role,] = activity.inbox
        self._gauges.fill(self._series.inbox, inboxes)
        for role in histories.keys() | self._tree.filled().keys():
            past = histories.get(role)
            restarts = 0 if past is None else past.restarts
            self._totals.reach(("restarts", role), restarts, self._series.restarts, (role,))

    def _control_plane(self) -> None:
        status = self._status()
        self._series.connected.set(1 if status.connected else 0)
        if status.providers_tried_at:
            self._series.reload.set(status.providers_tried_at)
        if status.providers_loaded_at:
            self._series.reload_success.set(status.providers_loaded_at)

    def _spool(self) -> None:
        stats = ask_quietly(self._tree.find("recorder"), GetSpoolStats(), PATIENCE)
        if isinstance(stats, SpoolStats):
            self._series.spool_records.set(stats.depth)
            age = 0.0 if stats.oldest is None else max(0.0, time.time() - stats.oldest)
            self._series.spool_age.set(age)
            self._series.dead_letters.set(stats.dead_letters)
            for state in DiskState:
                self._series.disk.labels(str(state)).set(stats.state is state)

    def _provider_list(self) -> None:
        found: dict[_Labels, float] = {
            (config.name, config.type, _status(config.enabled, config.error)): 1
            for config in self._tree.provider_configs()
        }
        self._gauges.fill(self._series.provider_info, found)

    # -- provider actors

    def _providers(self) -> dict[str, int]:
        """All of them; returns how many requests wait for what."""
        waiting = {"connection": 0, "retry": 0}
        actors = {
            config.name: self._tree.find(provider_role(config.name))
            for config in self._tree.provider_configs()
        }
        for name in self._urns.keys() - actors.keys():
            self._forget(name)
        for name, ref in actors.items():
            state = ask_quietly(ref, GetProviderState(), PATIENCE)
            if ref is None or not isinstance(state, ProviderState):
                continue
            waiting["connection"] += state.waiting
            waiting["retry"] += state.retrying
            self._states(name, state)
            if self._urns.get(name) != ref.actor_urn:
                # It began to count again.
                self._totals.forget(self._urns.get(name, ""))
                self._urns[name] = ref.actor_urn
            self._count(name, ref.actor_urn, state)
        return waiting

    def _states(self, name: str, state: ProviderState) -> None:
        tally = Counter(key.state for key in state.keys)
        keys: dict[_Labels, float] = {
            (name, key_state): tally[key_state] for key_state in KEY_STATES if state.keys
        }
        bounded = self._series.values.bounded
        circuits: dict[_Labels, float] = {}
        for circuit in state.circuits:
            labels = bounded(self._series.breaker_state, (name, circuit.route, circuit.model))
            circuits[labels] = max(circuits.get(labels, 0.0), GAUGE[circuit.state])
        self._gauges.fill(self._series.key_state, keys, name)
        self._gauges.fill(self._series.key_rest_until, self._rests(name, state), name)
        self._gauges.fill(self._series.breaker_state, circuits, name)

    def _rests(self, name: str, state: ProviderState) -> dict[_Labels, float]:
        """When each rest ends, by labels; as many of them as a provider may have."""
        known = self._rest_labels.setdefault(name, set())
        ends: dict[_Labels, float] = {}
        now = time.time()
        for key in state.keys:
            for rest in key.rests:
                subject = "everything" if rest.subject is None else printable(str(rest.subject))
                labels = (name, rest.hint, subject, rest.reason)
                if rest.subject is not None and labels not in known:
                    if len(known) < MAX_REST_LABELS:
                        known.add(labels)
                    else:
                        labels = (name, rest.hint, "other", rest.reason)
                ends[labels] = max(ends.get(labels, 0.0), round(now + rest.remaining, 1))
        return ends

    def _forget(self, name: str) -> None:
        """There is no such provider any more."""
        self._gauges.fill(self._series.key_state, {}, name)
        self._gauges.fill(self._series.key_rest_until, {}, name)
        self._gauges.fill(self._series.breaker_state, {}, name)
        self._totals.forget(self._urns.pop(name))

    def _count(self, name: str, urn: str, state: ProviderState) -> None:
        series, counters = self._series, state.counters
        cut = counters.drains - counters.drains_complete - state.draining
        drains = (counters.drains_complete, cut, counters.drains_refused)
        for outcome, count in zip(DRAIN_OUTCOMES, drains, strict=True):
            self._totals.reach((urn, "drains", outcome), count, series.drains, (outcome,))
        # What may happen is counted before it does.
        config = self._tree.provider_config(name)
        rests = dict.fromkeys(REST_REASONS if state.keys else (), 0) | counters.rests
        for reason, count in rests.items():
            labels: _Labels = (name, reason)
            self._totals.reach((urn, "key", reason), count, series.key_transitions, labels)
        if config is not None and (config.bedrock or config.vertex or config.key_command):
            got = (("renewed", counters.renewals), ("failed", counters.failed_renewals))
            for result, count in got:
                labels, counter = (name, result), series.credential_renewals
                self._totals.reach((urn, "renewal", result), count, counter, labels)
        others = config is not None and (config.fallback or config.group)
        fallbacks = dict.fromkeys(FALLBACK_REASONS if others else (), 0)
        for reason, count in (fallbacks | counters.fallback_reasons).items():
            labels = (name, reason)
            self._totals.reach((urn, "fallback", reason), count, series.fallbacks, labels)
        empty = dict.fromkeys(KEY_OUTCOMES if state.keys else (), 0) | counters.exhaustions
        for outcome, count in empty.items():
            labels = (name, outcome)
            self._totals.reach((urn, "empty", outcome), count, series.key_exhaustions, labels)
        self._count_circuits(name, urn, state)
        histogram = series.failover_attempts.labels(name)
        for keys, count in counters.keys_tried.items():
            for _ in range(self._totals.grown((urn, "walks", str(keys)), count)):
                histogram.observe(keys)

    def _count_circuits(self, name: str, urn: str, state: ProviderState) -> None:
        circuits = {(circuit.route, circuit.model) for circuit in state.circuits}
        for kind, counts, counter in (
            ("trips", state.counters.trips, self._series.breaker_trips),
            ("rejects", state.counters.rejects, self._series.breaker_rejects),
        ):
            known = circuits | counts.keys()
            for route, model in known:
                labels = self._series.values.bounded(counter, (name, route, model))
                key = (urn, kind, route, model)
                self._totals.reach(key, counts.get((route, model), 0), counter, labels)
            # Clients choose the models: nothing may pile up.
            self._totals.keep((urn, kind), known)


class _Totals:
    """Lets counters catch up with totals that others keep.

    Their keepers may begin again from 0; a key of its own for each makes that exact.
    """

    def __init__(self) -> None:
        self._seen: dict[_Labels, int] = {}

    def grown(self, key: _Labels, total: int) -> int:
        """By how much the total has grown since it was seen last."""
        before = self._seen.get(key, 0)
        self._seen[key] = total
        return total - before if total >= before else total

    def reach(
        self, key: _Labels, total: int, counter: prometheus_client.Counter, labels: _Labels
    ) -> None:
        """A counter that is new begins at 0."""
        new = key not in self._seen
        more = self.grown(key, total)
        if new or more:
            counter.labels(*labels).inc(more)

    def keep(self, first: tuple[str, str], rest: Collection[_Labels]) -> None:
        """Of the keys that begin with ``first`` there are only these any more."""
        gone = [key for key in self._seen if key[:2] == first and key[2:] not in rest]
        for key in gone:
            del self._seen[key]

    def forget(self, first: str) -> None:
        """Nobody will speak again of keys that begin so."""
        self._seen = {key: total for key, total in self._seen.items() if key[0] != first}


class _Gauges:
    """Sets labelled gauges, and those that nobody speaks of any more to 0.

    They cannot be removed: their files are shared by all worker processes.
    """

    def __init__(self) -> None:
        self._filled: dict[tuple[int, str], set[_Labels]] = {}

    def fill(
        self, gauge: prometheus_client.Gauge, values: dict[_Labels, float], part: str = ""
    ) -> None:
        """``values`` are all of this ``part`` of the gauge."""
        for labels in self._filled.pop((id(gauge), part), set()) - values.keys():
            gauge.labels(*labels).set(0)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        if values:
            self._filled[id(gauge), part] = set(values)


def _status(enabled: bool, error: str | None) -> str:
    if not enabled:
        return "disabled"
    return "enabled" if error is None else "error"
