"""How each cost grows: with the body, messages, tools, events, streams, providers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import attrs
from attrs import frozen

from bench.growing import grown_body
from bench.ledger import wait_settled
from bench.load import CallsSpec, StreamsSpec
from bench.machine import private_bytes
from bench.options import Options
from bench.payloads import raw_request
from bench.scenarios.base import Column, Outcome, Variant
from bench.scenarios.parts import OfOurs
from bench.stand import Stand
from bench.systems import Running
from bench.upstream import Behaviour, Upstream
from bench.window import Window

__all__ = ["DIMENSIONS", "Dimension", "Growth", "Measure"]

_WARM_UP = 0.3
_PROBES = 100.0
"""GET /healthz a second while the longest stall is looked for."""
_EVENTS_PER_S = 2000.0
"""Of all open streams together, so that only their number differs."""
_FASTEST_MS = 2.0
"""Between two events of one stream."""
_OPENED_PER_S = 500.0
_CALM = 0.5


@frozen
class Measure:
    """One number of each point."""

    key: str
    title: str
    digits: int = 0
    watched: bool = False
    """Whether it is compared between revisions."""


_CPU = Measure("cpu_us", "CPU µs/request", watched=True)
_STALL = Measure("stall_ms", "longest stall, ms", 1)
_PRIVATE = Measure("private_mb", "private MB, peak")


@frozen
class Dimension:
    """What becomes more."""

    name: str
    title: str
    unit: str
    points: Sequence[int]
    measures: Sequence[Measure]
    run: Callable[[Stand, int], dict[str, float]]

    def key(self, measure: Measure, point: int) -> str:
        return f"{self.name}.{measure.key}@{point}"


class Growth(OfOurs):
    name = "growth"
    title = "How costs grow"
    about = (
        "A gateway with one worker, requests of the Messages API one after the other, of which one"
        " thing becomes more. CPU is that of the whole process tree per request (of open streams"
        " per event), until the last record is stored. The longest stall is what the slowest of"
        " 100 GET /healthz per second to the same worker took meanwhile, in a pass of its own."
        " Streams of the events' tables come in one piece, as fast as they are read; open streams"
        " have 2,000 events per second between them."
    )
    versus = "how many"

    @property
    def columns(self) -> tuple[Column, ...]:  # type: ignore[override]
        return tuple(
            Column(
                each.key(measure, point),
                f"{point:,} {each.unit}: {measure.title}",
                measure.digits,
                watched=measure.watched,
            )
            for each in DIMENSIONS
            for point in each.points
            for measure in each.measures
        )

    def variants(self, options: Options) -> list[Variant]:
        return [
            Variant(each.name, number)
            for number, each in enumerate(DIMENSIONS)
            if not options.growth or each.name in options.growth
        ]

    def workers(self, options: Options) -> int:
        return 1

    def files(self, options: Options) -> int:
        return 2 * max(max(each.points) for each in DIMENSIONS if each.run is _streams)

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        found = DIMENSIONS[int(variant.value)]
        numbers = {}
        for point in found.points:
            measured = found.run(stand, point)
            for measure in found.measures:
                numbers[found.key(measure, point)] = measured[measure.key]
        return Outcome(numbers=numbers)


# -- requests one after the other


def _requests(
    stand: Stand,
    body: bytes,
    running: Running | None = None,
    upstream: Upstream | None = None,
) -> dict[str, float]:
    """CPU and peak of memory under one request at a time, and in another pass the stall."""
    running, upstream = running or stand.running, upstream or stand.upstream
    target = stand.sending(raw_request(running.endpoints["messages"], body), running)
    seconds = stand.options.seconds
    assert running.ledger is not None

    def load(length: float) -> float:
        result = stand.run(CallsSpec(target=target, seconds=length, concurrency=1, grace=60.0))
        assert running.ledger is not None
        wait_settled(running.ledger, upstream.total)
        return result.numbers["ok"]

    load(_WARM_UP)
    with Window(running.children, running.pids, upstream, 0.1) as window:
        answered = load(seconds)
    with _probe(stand, running, max(seconds / 2, 0.5)) as stall:
        load(max(seconds / 2, 0.5))
        longest = stall()
    return {
        "cpu_us": window.observed.system_cpu / answered * 1e6 if answered else 0.0,
        "private_mb": window.observed.peak_private_mb,
        "stall_ms": longest,
    }


@contextlib.contextmanager
def _probe(stand: Stand, running: Running, seconds: float) -> Iterator[Callable[[], float]]:
    """What the slowest of many small questions took, in milliseconds, once they are over."""
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    spec = CallsSpec(
        target=stand.sending(request, running), seconds=seconds, rate=_PROBES, poisson=False
    )
    with stand.driver(spec) as driver:
        yield lambda: driver.wait().histograms["latency"].maximum() / 1000


def _bodies(stand: Stand, kilobytes: int) -> dict[str, float]:
    return _requests(stand, grown_body(size=kilobytes * 1000, messages=21))


def _prompts(stand: Stand, kilobytes: int) -> dict[str, float]:
    return _requests(stand, grown_body(size=kilobytes * 1000))


def _messages(stand: Stand, count: int) -> dict[str, float]:
    return _requests(stand, grown_body(size=400_000, messages=count))


def _tools(stand: Stand, count: int) -> dict[str, float]:
    return _requests(stand, grown_body(size=2_000, tools=count))


def _events(kind: int) -> Callable[[Stand, int], dict[str, float]]:
    def run(stand: Stand, count: int) -> dict[str, float]:
        stand.upstream.behave(Behaviour(events=count, at_once=kind))
        return _requests(stand, grown_body(size=1_000, stream=True))

    return run


# -- open streams


def _streams(stand: Stand, count: int) -> dict[str, float]:
    seconds = stand.options.seconds
    interval_ms = max(count / _EVENTS_PER_S * 1000, _FASTEST_MS)
    ramp = 0.3 + count / _OPENED_PER_S
    # Those that are open first are still open when the probes have been answered.
    events = round((ramp + _CALM + seconds * 1.5 + 2.0) / interval_ms * 1000)
    stand.upstream.behave(stand.options.behaviour(events=events, interval_ms=interval_ms))
    pids = stand.running.pids()
    before = private_bytes(pids)
    window = stand.window(0.25)
    stalls: list[float] = []

    def on_phase(phase: str) -> None:
        if phase == "measuring":
            # Records of what was opened last are not part of the open streams' cost.
            time.sleep(_CALM)
            window.__enter__()
            return
        window.close()
        with _probe(stand, stand.running, max(seconds / 2, 0.5)) as stall:
            stalls.append(stall())

    spec = StreamsSpec(
        target=stand.target(["messages"], tokens=250, stream=True),
        streams=count,
        events=events,
        ramp=ramp,
        seconds=_CALM + seconds,
        grace=60.0,
    )
    with stand.driver(spec) as driver:
        try:
            driver.wait(on_phase)
        finally:
            window.abandon()
    stand.settle()
    observed = window.observed
    added = max(each.private_bytes for each in observed.samples) - before
    return {
        "cpu_us": observed.system_cpu / max(observed.upstream.events, 1) * 1e6,
        "kb_each": max(added, 0) / count / 1000,
        "stall_ms": stalls[0],
    }


# -- providers


def _providers(stand: Stand, count: int) -> dict[str, float]:
    """``count`` with those that every gateway of the benchmark has."""
    with contextlib.ExitStack() as exits:
        upstream = exits.enter_context(Upstream(stand.file("")))
        upstream.behave(stand.options.behaviour())
        environ = {}
        for number in range(3, count):
            at = f"CODER_AI_GATEWAY_PROVIDER_{number}"
            fields = {"TYPE": "anthropic", "NAME": f"more-{number}", "KEY": f"sk-{number}"}
            for field, value in {**fields, "BASE_URL": upstream.urls[0]}.items():
                environ[f"{at}_{field}"] = value
        running = exits.enter_context(stand.another(upstream.ports, environ=environ))
        time.sleep(_CALM)
        rest = private_bytes(running.pids()) / 1e6
        measured = _requests(stand, grown_body(size=1_000), running, upstream)
        return {**measured, "start_s": running.start_seconds, "rest_mb": rest}


_OF_REQUESTS = (_CPU, _STALL, _PRIVATE)
_EVENT_POINTS = (10, 100, 1_000, 10_000, 50_000)

DIMENSIONS: tuple[Dimension, ...] = (
    Dimension(
        "body", "Size of the body", "KB", (1, 10, 100, 1_000, 5_000, 20_000), _OF_REQUESTS, _bodies
    ),
    Dimension(
        "prompt",
        "Size of one prompt",
        "KB",
        (1, 10, 100, 1_000, 5_000, 20_000),
        _OF_REQUESTS,
        _prompts,
    ),
    Dimension(
        "messages",
        "Messages in a body of 400 KB",
        "messages",
        (1, 11, 101, 501, 2_001),
        _OF_REQUESTS,
        _messages,
    ),
    Dimension(
        "tools", "Tools that are defined", "tools", (0, 10, 50, 100, 500), _OF_REQUESTS, _tools
    ),
    Dimension("text", "Events of text", "events", _EVENT_POINTS, _OF_REQUESTS, _events(1)),
    Dimension("thinking", "Events of thinking", "events", _EVENT_POINTS, _OF_REQUESTS, _events(2)),
    Dimension(
        "arguments", "Events of a tool's arguments", "events", _EVENT_POINTS, _OF_REQUESTS,
        _events(3),
    ),
    Dimension(
        "streams",
        "Open streams",
        "streams",
        (1, 10, 100, 500, 2_000),
        (
            attrs.evolve(_CPU, title="CPU µs/event", digits=1),
            Measure("kb_each", "KB each", 1, watched=True),
            _STALL,
        ),
        _streams,
    ),
    Dimension(
        "providers",
        "Providers",
        "providers",
        (3, 10, 50, 100, 500),
        (
            _CPU,
            _STALL,
            Measure("start_s", "start-up s", 2, watched=True),
            Measure("rest_mb", "private MB at rest", watched=True),
        ),
        _providers,
    ),
)  # fmt: skip
"""In the order of the report."""
