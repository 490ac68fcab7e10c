"""What being watched costs: logs, metrics and traces, beside the same gateway without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import attrs
import requests
from attrs import frozen

from bench.options import Options
from bench.processes import free_port
from bench.scenarios.base import Column, Outcome, Variant
from bench.scenarios.beside import ANSWER_BYTES, costs, cpu_of
from bench.scenarios.parts import OfOurs
from bench.stand import Stand
from bench.systems import Running
from bench.upstream import Upstream

__all__ = ["Watched"]

_SCRAPES: Final = 5
_SCRAPE_EVERY: Final = 15.0
"""Scrapes that are measured, and the seconds between two with which they are counted in."""
_LOGS = ("--log-human", "human.log", "--log-json", "line.log", "--log-stackdriver", "cloud.log")
_JSON = ("--log-human", "", "--log-json", "line.log")
_OFF = ("--log-human", "", "--log-json", "")
"""Of an option that is given twice the last one counts."""


@frozen
class _Way:
    """One way to be watched."""

    name: str
    options: tuple[str, ...]
    metrics: bool = False
    traces: bool = False


_WAYS = (
    _Way("JSON log", _JSON),
    _Way("all three logs", _LOGS),
    _Way("metrics", _OFF, metrics=True),
    _Way("all logs and metrics", _LOGS, metrics=True),
    _Way("the same, --verbose", (*_LOGS, "--verbose"), metrics=True),
    _Way("the same without --verbose, traces", _LOGS, metrics=True, traces=True),
)


class Watched(OfOurs):
    name = "watched"
    title = "Being watched"
    about = (
        "Two gateways with one worker each that differ in nothing but what is on get"
        " {watched_rate:g} small blocking requests per second each, at the same time; off is the"
        " one with everything off. CPU of the whole process tree per request, until the last"
        " record is stored, and a scrape of the metrics each 15 s counted in."
    )
    columns = (
        Column("cpu_us_off", "CPU µs/request, off"),
        Column("cpu_us", "CPU µs/request", better="low"),
        Column("times_off", "× off", 2),
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(way.name, number) for number, way in enumerate(_WAYS)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        way = _WAYS[int(variant.value)]
        options = stand.options
        with ExitStack() as exits:
            upstream = exits.enter_context(Upstream(stand.file("")))
            upstream.behave(attrs.evolve(options.behaviour(), answer_bytes=ANSWER_BYTES))
            traces: tuple[str, ...] = ()
            if way.traces:
                collector = exits.enter_context(_collector())
                traces = ("--trace", "--trace-endpoint", collector)
            both = [
                exits.enter_context(
                    stand.another(upstream.ports, options=(*_address(), *more), metrics=metrics)
                )
                for more, metrics in (((*way.options, *traces), way.metrics), (_OFF, False))
            ]
            costs(stand, both, options.warm_up)
            cost, off = costs(stand, both, options.seconds)
            if way.metrics:
                cost += _scrape(both[0]) / options.watched_rate
        return Outcome(
            numbers={"cpu_us": cost * 1e6, "cpu_us_off": off * 1e6, "times_off": cost / off}
        )


def _address() -> tuple[str, str]:
    """Without a log nobody says where it listens."""
    return "--http-address", f"127.0.0.1:{free_port()}"


def _scrape(running: Running) -> float:
    """CPU seconds that being scraped takes of each second."""
    before = cpu_of(running)
    for _ in range(_SCRAPES):
        requests.get(f"{running.metrics_url}metrics", timeout=30).raise_for_status()
    return (cpu_of(running) - before) / _SCRAPES / _SCRAPE_EVERY


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
