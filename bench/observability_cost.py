"""What being watched costs: ``python -m bench.observability_cost [ROUNDS [SECONDS]]``.

Gateways that differ in nothing but logs, metrics and traces, one after the other in many short
rounds, get blocking requests at the same time as the gateway with everything off: small ones,
for which the cost is largest beside the rest.  What counts is CPU time of each gateway's whole
process tree per request, until the last record is stored, and the ratio of the two.  So other
work on the machine meets both alike.  A scrape of the metrics each 15 s is counted in.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from attrs import frozen

from bench.ledger import Ledger
from bench.load import CallsSpec, Driver, Target
from bench.machine import cpu_seconds
from bench.options import Options
from bench.payloads import requests_for
from bench.processes import adopt_orphans, free_port
from bench.systems.aigateway import AiGateway
from bench.systems.base import Running, Surroundings
from bench.upstream import Upstream

__all__ = ["main"]

ROUNDS = 15
SECONDS = 2.0
"""Length of a round of one gateway."""
RATE = 250.0
"""Requests per second to each of the two: well below what one worker can do."""
WARM_UP = 1.0
TOKENS = 20
SCRAPES, SCRAPE_EVERY = 20, 15.0
"""How many are measured, and the seconds between two with which they are counted in."""
SETTLE_LIMIT = 60.0
"""Seconds for the records of a round to be stored."""


@frozen
class Variant:
    """One way to be watched."""

    name: str
    options: tuple[str, ...] = ()
    metrics: bool = False
    traces: bool = False


LOGS = ("--log-human", "human.log", "--log-json", "line.log", "--log-stackdriver", "cloud.log")
OFF = Variant("everything off")
VARIANTS = (
    OFF,
    Variant("JSON log", ("--log-json", "line.log")),
    Variant("all three logs", LOGS),
    Variant("metrics", metrics=True),
    Variant("all logs and metrics", LOGS, metrics=True),
    Variant("the same, --verbose", (*LOGS, "--verbose"), metrics=True),
    Variant("the same without --verbose, traces", LOGS, metrics=True, traces=True),
)


class Watched:
    """A gateway with one variant's options, and the load for it."""

    def __init__(self, variant: Variant, upstream: Upstream, folder: Path, collector: str) -> None:
        self.variant = variant
        self.folder = folder
        self._upstream = upstream
        folder.mkdir()
        options = ["--http-address", f"127.0.0.1:{free_port()}", "--log-json", ""]
        options += variant.options
        self._metrics = ""
        if variant.metrics:
            address = f"127.0.0.1:{free_port()}"
            self._metrics = f"http://{address}/metrics"
            options += ["--prometheus-enable", "--prometheus-address", address]
        if variant.traces:
            options += ["--trace", "--trace-endpoint", collector]
        self._options = tuple(options)
        self._running: Running | None = None
        self._target: Target | None = None
        self._runs = self._ended = 0
        self.bare: list[float] = []
        self.costs: list[float] = []
        """CPU seconds per request, one for each round: with everything off, and with this."""

    def start(self) -> None:
        around = Surroundings(self.folder, self._upstream.ports, workers=1)
        self._running = AiGateway("local", self._options).start(around)
        endpoint = self._running.endpoints["chat"]
        file = self.folder / "request.http"
        (request,) = requests_for([("chat", endpoint)], tokens=TOKENS, stream=False)
        file.write_bytes(request)
        self._target = Target(endpoint.port, (str(file),))
        with self._load(WARM_UP) as driver:
            self._settle(driver)

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()

    def round(self, off: Watched, seconds: float) -> None:
        """Beside the gateway with everything off."""
        both = (off, self)
        before = [cpu_seconds(one._pid) for one in both]
        with ExitStack() as stack:
            drivers = [stack.enter_context(one._load(seconds)) for one in both]
            answered = [one._settle(driver) for one, driver in zip(both, drivers, strict=True)]
        spent = [cpu_seconds(one._pid) - cpu for one, cpu in zip(both, before, strict=True)]
        self.bare.append(spent[0] / answered[0])
        self.costs.append(spent[1] / answered[1])

    @property
    def _pid(self) -> int:
        assert self._running is not None
        (child,) = self._running.children
        return child.pid

    def add_scrapes(self) -> None:
        """Add each request's share of the scrapes."""
        if not self._metrics:
            return
        before = cpu_seconds(self._pid)
        for _ in range(SCRAPES):
            requests.get(self._metrics, timeout=30).raise_for_status()
        share = (cpu_seconds(self._pid) - before) / SCRAPES / (SCRAPE_EVERY * RATE)
        self.costs = [cost + share for cost in self.costs]

    def _load(self, seconds: float) -> Driver:
        """Begin to send requests."""
        assert self._target is not None
        self._ended = self._ledger.count().ended
        self._runs += 1
        spec = CallsSpec(target=self._target, seconds=seconds, rate=RATE, seed=self._runs)
        return Driver(spec, self.folder, f"load-{self._runs}")

    def _settle(self, driver: Driver) -> int:
        """Wait until all is answered and stored; returns how much it was."""
        result = driver.wait()
        if result.errors or result.numbers["unanswered"]:
            raise SystemExit(f"{self.variant.name}: failed requests: {result.errors}")
        answered = int(result.numbers["ok"])
        deadline = time.monotonic() + SETTLE_LIMIT
        while self._ledger.count().ended < self._ended + answered:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.variant.name}: a record was lost")
            time.sleep(0.05)
        return answered

    @property
    def _ledger(self) -> Ledger:
        assert self._running is not None
        assert self._running.ledger is not None
        return self._running.ledger


class _Collector(BaseHTTPRequestHandler):
    """Takes traces and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def _collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _table(off: Watched, others: list[Watched]) -> str:
    bare = statistics.median(cost for one in others for cost in one.bare)
    lines = [
        "| | CPU per request | ratio, median | ratio, middle half of the rounds |",
        "|---|---:|---:|---:|",
        f"| {off.variant.name} | {bare * 1e6:.0f} µs | 1.00 |  |",
    ]
    for one in others:
        ratios = [cost / bare for cost, bare in zip(one.costs, one.bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        cost = statistics.median(one.costs) * 1e6
        lines.append(
            f"| {one.variant.name} | {cost:.0f} µs | {middle:.2f} | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a Markdown table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    adopt_orphans()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigateway-bench-")))
        upstream = stack.enter_context(Upstream(folder))
        upstream.behave(Options(answer_bytes=200).behaviour())
        collector = stack.enter_context(_collector())
        all_of = []
        for number, variant in enumerate(VARIANTS):
            watched = Watched(variant, upstream, folder / str(number), collector)
            stack.callback(watched.stop)
            watched.start()
            all_of.append(watched)
        off, *others = all_of
        for number in range(rounds):
            first = number % len(others)
            for watched in others[first:] + others[:first]:
                watched.round(off, seconds)
        for watched in others:
            watched.add_scrapes()
        sys.stdout.write(_table(off, others) + "\n")


if __name__ == "__main__":
    main()
