"""What all workers of all gateways know together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import Factory, define, frozen

from aigateway.http.console.asking import Answers

__all__ = ["ProviderView", "Running", "merged_providers", "merged_requests"]


@frozen
class Running:
    """The requests that all workers serve."""

    count: int
    stages: Mapping[str, int]
    oldest: Sequence[Mapping[str, Any]]
    """Each with the ``host`` that serves it."""
    hosts: int


def merged_requests(answers: Answers) -> Running:
    """Those that run longest first."""
    stages: Counter[str] = Counter()
    lines: list[Mapping[str, Any]] = []
    for each in answers.speaking:
        stages.update(each.said.get("stages", {}))
        lines += [{**line, "host": each.host} for line in each.said.get("oldest", ())]
    lines.sort(key=lambda line: -line["seconds"])
    return Running(stages.total(), stages, lines, len({each.host for each in answers.speaking}))


@define
class ProviderView:
    """One provider as all workers know it together."""

    name: str
    type: str
    address: str
    enabled: bool
    error: str
    way_out: str
    fallback: Sequence[str]
    busy: int = 0
    idle: int = 0
    draining: int = 0
    waiting: int = 0
    retrying: int = 0
    silent: int = 0
    """Workers in which its actor did not answer."""
    counters: Counter[str] = Factory(Counter)
    fallback_reasons: Counter[str] = Factory(Counter)
    """How often requests were handed to a fallback, by why."""
    keys: dict[str, list[Mapping[str, Any]]] = Factory(dict)
    """The rests of each key, by its masked form; of the same rest in several workers the
    longest."""
    circuits: list[Mapping[str, Any]] = Factory(list)
    """Those that are not closed."""
    gateways: set[str] = Factory(set)
    """Those that have it."""

    @property
    def state(self) -> str:
        """One word for how it is: off, broken, silent, open, resting or good."""
        if not self.enabled:
            return "off"
        if self.error:
            return "broken"
        if self.silent:
            return "silent"
        if self.circuits:
            return "open"
        return "resting" if any(self.keys.values()) else "good"

    @property
    def resting(self) -> int:
        return sum(bool(rests) for rests in self.keys.values())


def merged_providers(answers: Answers) -> list[ProviderView]:
    """Each provider once, in the order of the configuration."""
    views: dict[str, ProviderView] = {}
    for each in answers.speaking:
        for told in each.said.get("providers", ()):
            view = views.get(told["name"])
            if view is None:
                view = views[told["name"]] = ProviderView(
                    **{
                        name: told[name]
                        for name in (
                            "name", "type", "address", "enabled", "error", "way_out", "fallback",
                        )
                    }
                )  # fmt: skip
            elif not view.error:
                # It may be set up differently in another gateway.
                view.error, view.way_out = told["error"], told["way_out"]
            view.gateways.add(each.gateway)
            _add(view, told["state"])
    return list(views.values())


def _add(view: ProviderView, state: Mapping[str, Any] | None) -> None:
    if state is None:
        view.silent += view.enabled and not view.error
        return
    for name in ("busy", "idle", "draining", "waiting", "retrying"):
        setattr(view, name, getattr(view, name) + state[name])
    view.counters.update(state["counters"])
    view.fallback_reasons.update(state["fallback_reasons"])
    for key in state["keys"]:
        known = view.keys.get(key["hint"], [])
        view.keys[key["hint"]] = _longest([*known, *key["rests"]])
    view.circuits += [each for each in state["circuits"] if each["state"] != "closed"]


def _longest(rests: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for rest in rests:
        found[rest["subject"], rest["reason"]].append(rest)
    return [max(same, key=lambda rest: float(rest["remaining"])) for same in found.values()]
