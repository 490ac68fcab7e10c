"""The imitation as the benchmark sees it: a child process that obeys."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Self

import attrs

from bench.processes import CHECKOUT, Child
from bench.upstream.behaviour import LISTENERS, Behaviour, Counters

__all__ = ["Upstream"]


class Upstream:
    """A running imitation.  ``urls`` are its two addresses, without ``/v1``."""

    def __init__(self, folder: Path, processes: int = 1, port: int = 0) -> None:
        """``port``: of the main address; 0: a free one."""
        options = json.dumps({"processes": processes, "ports": [port, 0]})
        self.child = Child(
            [sys.executable, "-m", "bench.upstream", options],
            folder / "upstream.log",
            cwd=CHECKOUT,
            piped=True,
        )
        try:
            ports = self._answer()["ports"]
        except BaseException:
            self.child.stop()
            raise
        self.ports: tuple[int, ...] = tuple(ports)
        self.urls = tuple(f"http://127.0.0.1:{port}" for port in ports)

    def behave(self, behaviour: Behaviour, listener: str = "main") -> None:
        """Answer requests to this listener like this from now on."""
        self._ask({"behave": [LISTENERS.index(listener), attrs.asdict(behaviour)]})

    def counters(self, listener: str = "main") -> Counters:
        found = self._ask({"counters": True})["counters"]
        return Counters(**found[LISTENERS.index(listener)])

    def settled(self, limit: float = 10.0) -> Counters:
        """The main listener's counters once nothing is open, ``limit`` seconds at most.

        An answer counts a moment after its last byte has left.
        """
        deadline = time.monotonic() + limit
        while (counters := self.counters()).open and time.monotonic() < deadline:
            pass
        return counters

    def total(self) -> Counters:
        """Both listeners together."""
        first, second = (Counters(**c) for c in self._ask({"counters": True})["counters"])
        return first + second

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        pipe = self.child.process.stdin
        assert pipe is not None
        pipe.write(json.dumps(order).encode() + b"\n")
        pipe.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        pipe = self.child.process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise RuntimeError(f"the imitation upstream ended:\n{self.child.last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.child.stop()
