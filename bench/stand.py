"""The test stand: one running system, the imitation behind it, and load to be put on it."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bench.ledger import wait_settled
from bench.load import CallsSpec, Driver, LoadResult, Target
from bench.load.driver import Spec
from bench.load.spec import KEY_PLACE
from bench.load.wrk import Wrk
from bench.options import Options
from bench.payloads import Endpoint, raw_request, requests_for
from bench.systems import Running, Surroundings, System
from bench.systems.packages import Program
from bench.upstream import Upstream
from bench.window import Window

__all__ = ["Stand"]

_IDLE = 0.3
"""Seconds that a system without records gets to finish what it does after its answers."""


class Stand:
    """What a scenario works with."""

    def __init__(
        self,
        system: System,
        running: Running,
        upstream: Upstream,
        folder: Path,
        options: Options,
        wrk: Program | None,
    ) -> None:
        self.system = system
        self.running = running
        self.upstream = upstream
        self.options = options
        self._folder = folder
        self._wrk = wrk
        self._files = 0
        self.drivers: list[str] = []
        """Load programs that were used, in order."""

    def file(self, name: str) -> Path:
        """A place for a file that lives as long as the stand."""
        return self._folder / name

    @contextlib.contextmanager
    def another(
        self, ports: Sequence[int], *, settled: bool = True, **around: Any
    ) -> Iterator[Running]:
        """One more of the same system, with one worker, in front of these upstream ports.

        Not the stand's own upstream: what reaches that must be in the records of the stand's
        own system.  ``settled``: it is up only when it has answered.
        """
        folder = self._folder / f"another-{self._next()}"
        folder.mkdir()
        start = self.system.start if settled else self.system.launch
        running = start(Surroundings(folder, tuple(ports), workers=1, **around))
        try:
            yield running
        finally:
            running.stop()

    # -- targets

    def target(
        self,
        apis: Sequence[str],
        *,
        tokens: int,
        stream: bool = False,
        keys: Sequence[str] = (),
        headers: Sequence[Mapping[str, str]] = (),
        running: Running | None = None,
    ) -> Target:
        """Requests to the main provider, in turn to these APIs, in turn with these keys, and in
        turn with these headers.

        They go to the stand's own system unless another is ``running``.
        """
        endpoints = [(api, (running or self.running).endpoints[api]) for api in apis]
        if headers:
            endpoints = [
                (api, attrs.evolve(endpoint, headers={**endpoint.headers, **each}))
                for each in headers
                for api, endpoint in endpoints
            ]
        if keys:
            own, place = self.running.keys[0], KEY_PLACE.decode()
            endpoints = [(api, _with_key(endpoint, own, place)) for api, endpoint in endpoints]
        return self._write(endpoints, tokens, stream, keys)

    def sending(self, request: bytes, running: Running | None = None) -> Target:
        """This one whole HTTP request."""
        file = self._folder / f"request-{self._next()}.http"
        file.write_bytes(request)
        port = (running or self.running).endpoints["messages"].port
        return Target(port, (str(file),))

    def slow_target(self, *, tokens: int) -> Target:
        """Blocking requests to the slow provider."""
        assert self.running.slow is not None
        return self._write([("chat", self.running.slow)], tokens, False, ())

    def head(self, api: str) -> tuple[Endpoint, str]:
        """Where requests of an API go, and a file with their head but for the length."""
        endpoint = self.running.endpoints[api]
        file = self._folder / f"head-{self._next()}.http"
        file.write_bytes(raw_request(endpoint, b"").removesuffix(b"Content-Length: 0\r\n\r\n"))
        return endpoint, str(file)

    def _write(
        self,
        endpoints: Sequence[tuple[str, Endpoint]],
        tokens: int,
        stream: bool,
        keys: Sequence[str],
    ) -> Target:
        names = []
        for request in requests_for(endpoints, tokens=tokens, stream=stream):
            file = self._folder / f"request-{self._next()}.http"
            file.write_bytes(request)
            names.append(str(file))
        key_file = ""
        if keys:
            path = self._folder / f"keys-{self._next()}.txt"
            path.write_text("\n".join(keys))
            key_file = str(path)
        return Target(endpoints[0][1].port, tuple(names), key_file)

    def _next(self) -> int:
        self._files += 1
        return self._files

    # -- load

    def saturate(self, target: Target, *, connections: int, seconds: float) -> LoadResult:
        """As many blocking requests as get through: wrk, or our own driver without it."""
        if self._wrk is None:
            spec = CallsSpec(target=target, seconds=seconds, concurrency=connections)
            return self.run(spec)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with Wrk(
            self._wrk.path,
            self._wrk.environ,
            target,
            connections=connections,
            seconds=max(seconds, 1.0),
            folder=self._folder,
            name=f"wrk-{self._next()}",
        ) as wrk:
            result = wrk.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.drivers.append("wrk")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return attrs.evolve(result, numbers={**result.numbers, "driver_cpu": cpu})

    def driver(self, spec: Spec) -> Driver:
        """Start one of our own drivers; it is the caller's to wait for and to stop."""
        driver = Driver(spec, self._folder, f"load-{self._next()}")
        self.drivers.append(driver.name)
        return driver

    def run(self, spec: Spec) -> LoadResult:
        """Run one of our own drivers to its end."""
        with self.driver(spec) as driver:
            return driver.wait()

    def run_in_window(self, spec: Spec) -> tuple[LoadResult, Window]:
        """Run a driver; the window opens and closes when the driver says so."""
        window = self.window()

        def on_phase(phase: str) -> None:
            if phase == "measuring":
                window.__enter__()
            else:
                window.close()

        with self.driver(spec) as driver:
            try:
                return driver.wait(on_phase), window
            finally:
                window.abandon()

    # -- measuring

    def window(self, period: float = 0.5) -> Window:
        return Window(self.running.children, self.running.pids, self.upstream, period)

    def settle(self) -> float:
        """Wait until all records are stored; returns the seconds that it took."""
        began = time.monotonic()
        if self.running.ledger is not None:
            wait_settled(self.running.ledger, self.upstream.total)
        else:
            time.sleep(_IDLE)
        return time.monotonic() - began


def _with_key(endpoint: Endpoint, key: str, place: str) -> Endpoint:
    headers = {name: value.replace(key, place) for name, value in endpoint.headers.items()}
    return attrs.evolve(endpoint, headers=headers)
