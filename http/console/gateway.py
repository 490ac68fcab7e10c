"""This machine's gateway, asked through its workers' sockets."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, frozen

from aigateway.http.diagnosis.workers import NoGateway, ask_all

__all__ = ["Answers", "Gateway", "ProviderView", "Running", "merged_providers", "merged_requests"]

_FRESH: Final = 0.8
"""Seconds for which an answer serves all who look: a little less than the beat of a page."""

_DIAL_PATIENCE: Final = 50.0
"""Seconds: a provider may be asked twice, and its list read, each for 15 s."""


@frozen
class Answers:
    """What the workers said to one question, by process id."""

    workers: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    trouble: str = ""
    """Why there is none."""

    @property
    def errors(self) -> list[tuple[int, str]]:
        return [(pid, str(said["error"])) for pid, said in self.workers if said.get("error")]


class Gateway:
    """Asks each question once for all who want to know at the same moment."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Answers]] = {}

    def ask(self, command: str) -> Answers:
        """What ``list``, ``requests`` or ``providers`` has for an answer."""
        with self._lock:
            at, kept = self._kept.get(command, (0.0, Answers()))
            if at and time.monotonic() - at < _FRESH:
                return kept
            answers = self._asked(command)
            self._kept[command] = (time.monotonic(), answers)
            return answers

    def command(self, question: dict[str, Any], worker: int) -> Mapping[str, Any]:
        """What the worker with this process id says to a command; ``error`` when it cannot."""
        try:
            ((_pid, said),) = ask_all(self.folder, question, worker)
        except NoGateway as ex:
            return {"error": str(ex)}
        with self._lock:
            # What was kept is not so any more.
            self._kept.clear()
        return said

    def dial(self, provider: str) -> Mapping[str, Any]:
        """What a worker hears from a provider that it asks for its models; ``error`` when none
        can."""
        question = {"command": "dial", "provider": provider}
        try:
            _pid, said = next(ask_all(self.folder, question, None, _DIAL_PATIENCE))
        except NoGateway as ex:
            return {"error": str(ex)}
        return said

    def _asked(self, command: str) -> Answers:
        try:
            return Answers(tuple(ask_all(self.folder, {"command": command}, None)))
        except NoGateway as ex:
            return Answers(trouble=str(ex))


@frozen
class Running:
    """The requests that all workers serve."""

    count: int
    stages: Mapping[str, int]
    oldest: Sequence[Mapping[str, Any]]


def merged_requests(answers: Answers) -> Running:
    """Those that run longest first."""
    stages: Counter[str] = Counter()
    lines: list[Mapping[str, Any]] = []
    for _pid, said in answers.workers:
        stages.update(said.get("stages", {}))
        lines += said.get("oldest", ())
    lines.sort(key=lambda line: -line["seconds"])
    return Running(stages.total(), stages, lines)


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
    keys: dict[str, list[Mapping[str, Any]]] = Factory(dict)
    """The rests of each key, by its masked form; of the same rest in several workers the
    longest."""
    circuits: list[Mapping[str, Any]] = Factory(list)
    """Those that are not closed."""

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
    for _pid, said in answers.workers:
        for told in said.get("providers", ()):
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
            _add(view, told["state"])
    return list(views.values())


def _add(view: ProviderView, state: Mapping[str, Any] | None) -> None:
    if state is None:
        view.silent += view.enabled and not view.error
        return
    for name in ("busy", "idle", "draining", "waiting", "retrying"):
        setattr(view, name, getattr(view, name) + state[name])
    view.counters.update(state["counters"])
    for key in state["keys"]:
        known = view.keys.get(key["hint"], [])
        view.keys[key["hint"]] = _longest([*known, *key["rests"]])
    view.circuits += [each for each in state["circuits"] if each["state"] != "closed"]


def _longest(rests: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for rest in rests:
        found[rest["subject"], rest["reason"]].append(rest)
    return [max(same, key=lambda rest: float(rest["remaining"])) for same in found.values()]
