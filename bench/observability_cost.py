"""What being watched costs: ``python -m bench.observability_cost [ROUNDS [SECONDS]]``.

Gateways that differ in nothing but logs, metrics and traces run side by side, and get the same
number of blocking requests in turns: small ones, for which the cost is largest beside the rest.
What counts is CPU time of each gateway's whole process tree per request, until the last record
is stored, and its ratio to that of the gateway with everything off within the same round.  So
other work on the machine meets all of them alike.  A scrape of the metrics each 15 s is
counted in.
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
SECONDS = 3.0
"""Length of a round of one gateway."""
RATE = 250.0
"""Requests per second: well below what one worker can do."""
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
        self._runs = 0
        self.costs: list[float] = []
        """CPU seconds per request, one for each round."""

    def start(self) -> None:
        around = Surroundings(self.folder, self._upstream.ports, workers=1)
        self._running = AiGateway("local", self._options).start(around)
        endpoint = self._running.endpoints["chat"]
        file = self.folder / "request.http"
        (request,) = requests_for([("chat", endpoint)], tokens=TOKENS, stream=False)
        file.write_bytes(request)
        self._target = Target(endpoint.port, (str(file),))
        self._load(WARM_UP)

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()

    def measure(self, seconds: float) -> None:
        """One round."""
        assert self._running is not None
        (child,) = self._running.children
        before = cpu_seconds(child.pid)
        answered = self._load(seconds)
        self.costs.append((cpu_seconds(child.pid) - before) / answered)

    def add_scrapes(self) -> None:
        """Add each request's share of the scrapes."""
        assert self._running is not None
        if not self._metrics:
            return
        (child,) = self._running.children
        before = cpu_seconds(child.pid)
        for _ in range(SCRAPES):
            requests.get(self._metrics, timeout=30).raise_for_status()
        share = (cpu_seconds(child.pid) - before) / SCRAPES / (SCRAPE_EVERY * RATE)
        self.costs = [cost + share for cost in self.costs]

    def _load(self, seconds: float) -> int:
        assert self._running is not None
        assert self._running.ledger is not None
        assert self._target is not None
        ledger = self._running.ledger
        before = ledger.count().ended
        self._runs += 1
        spec = CallsSpec(target=self._target, seconds=seconds, rate=RATE, seed=self._runs)
        with Driver(spec, self.folder, f"load-{self._runs}") as driver:
            result = driver.wait()
        if result.errors or result.numbers["unanswered"]:
            raise SystemExit(f"{self.variant.name}: failed requests: {result.errors}")
        answered = int(result.numbers["ok"])
        deadline = time.monotonic() + SETTLE_LIMIT
        while ledger.count().ended < before + answered:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.variant.name}: a record was lost")
            time.sleep(0.05)
        return answered


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


def _table(all_of: list[Watched]) -> str:
    lines = [
        "| | CPU per request | ratio, median | ratio, middle half of the rounds |",
        "|---|---:|---:|---:|",
    ]
    off = all_of[0].costs
    for one in all_of:
        ratios = [cost / bare for cost, bare in zip(one.costs, off, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        cost = statistics.median(one.costs) * 1e6
        spread = "" if one.variant is OFF else f"{low:.2f} to {high:.2f}"
        lines.append(f"| {one.variant.name} | {cost:.0f} µs | {middle:.2f} | {spread} |")
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
        for number in range(rounds):
            first = number % len(all_of)
            for watched in all_of[first:] + all_of[:first]:
                watched.measure(seconds)
        for watched in all_of:
            watched.add_scrapes()
        sys.stdout.write(_table(all_of) + "\n")


if __name__ == "__main__":
    main()
