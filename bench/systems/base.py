"""What every measured system has in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import requests
from attrs import frozen

from bench.ledger import Ledger
from bench.payloads import Endpoint, body_of
from bench.processes import Child

__all__ = ["Running", "StartFailed", "Surroundings", "System"]

START_LIMIT = 120.0
"""Seconds until the first answer, after which a system counts as failed to start."""


class StartFailed(Exception):
    """A system did not come up; the text has its last words."""


@frozen
class Surroundings:
    """What a system is started into."""

    folder: Path
    """For its files; removed after the measurement."""
    upstream_ports: tuple[int, ...]
    """The imitation: main, slow."""
    workers: int
    """Worker processes, for those that have such."""
    users: int = 1
    """User keys that must exist."""
    metrics: bool = False
    """With the system's own metrics switched on, where it has such."""
    environ: Mapping[str, str] = {}
    """More variables for its processes."""
    options: tuple[str, ...] = ()
    """More options, for a system that takes such."""


class Running:
    """A system that answers."""

    def __init__(
        self,
        children: list[Child],
        endpoints: dict[str, Endpoint],
        *,
        slow: Endpoint | None = None,
        keys: list[str] | None = None,
        ledger: Ledger | None = None,
        extra: list[Child] | None = None,
        metrics_url: str = "",
    ) -> None:
        """``children`` is what is measured, ``extra`` what only has to run."""
        self.children = children
        self.endpoints = endpoints
        """By API: chat, messages."""
        self.slow = slow
        """Chat Completions of the slow provider."""
        self.keys = keys or []
        self.ledger = ledger
        self.extra = extra or []
        self.metrics_url = metrics_url
        """Where its Prometheus metrics are, if they are switched on."""
        self.start_seconds = 0.0
        """From the start of the process to the first answer."""

    @property
    def commands(self) -> list[str]:
        return [" ".join(child.command) for child in self.children]

    def pids(self) -> list[int]:
        return [pid for child in self.children for pid in child.members()]

    def stop(self) -> None:
        for child in [*self.children, *self.extra]:
            child.stop()

    def last_words(self) -> str:
        return "\n".join(child.last_words() for child in self.children)


class System(ABC):
    """One gateway or proxy.  ``prepare`` it, then ``start`` it as often as needed."""

    name: str
    title: str
    does: str
    """What it does with a request, so that a reader can judge the comparison."""
    users_supported = False
    """Whether it has keys of users, so that a flood of keys means anything."""
    parts_supported = False
    """Whether its parts can be measured by themselves."""
    python = ""
    """The Python that has those."""
    stages_supported = False
    """Whether its metrics tell where the time of a request goes."""

    @abstractmethod
    def prepare(self, say: Callable[[str], None]) -> str:
        """Install it into the cache unless it is there; returns its version.  Raises Absent."""

    @abstractmethod
    def launch(self, around: Surroundings) -> Running:
        """Start its processes.  Raises Absent."""

    def start(self, around: Surroundings) -> Running:
        """Start it and wait for its first answer.  Raises StartFailed and Absent."""
        began = time.monotonic()
        running = self.launch(around)
        try:
            for api in running.endpoints:
                _first_answer(running, api, began + START_LIMIT)
                running.start_seconds = running.start_seconds or time.monotonic() - began
        except BaseException:
            running.stop()
            raise
        return running


def _first_answer(running: Running, api: str, deadline: float) -> None:
    endpoint = running.endpoints[api]
    body = body_of(api, tokens=50, stream=False, model=endpoint.model)
    url = f"http://127.0.0.1:{endpoint.port}{endpoint.path}"
    headers = {**endpoint.headers, "Content-Type": "application/json"}
    problem = ""
    with requests.Session() as session:
        session.trust_env = False
        while time.monotonic() < deadline:
            try:
                answer = session.post(url, data=body, headers=headers, timeout=30)
                if answer.status_code == 200:
                    return
                problem = f"status {answer.status_code}: {answer.text[:300]}"
            except requests.RequestException as ex:
                problem = str(ex)
            for child in running.children:
                if not child.alive():
                    raise StartFailed(f"it ended: {child.last_words(3)}\n{child.last_words()}")
            time.sleep(0.01)
    raise StartFailed(f"no answer from {url}: {problem}\n{running.last_words()}")
