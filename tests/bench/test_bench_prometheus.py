"""Reading what a gateway shows to Prometheus."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from bench.prometheus import Buckets, read_histograms


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = generate_latest(registry)
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_what_came_since_is_told_by_label(registry: CollectorRegistry, url: str) -> None:
    labels = ("provider", "stage")
    histogram = Histogram("stage_seconds", "Text", labels, buckets=(0.1, 1), registry=registry)
    Histogram("other_seconds", "Text", labels, registry=registry).labels("a", "edge").observe(9)
    histogram.labels("a", "edge").observe(0.05)
    before = read_histograms(url, "stage_seconds", "stage")["edge"]
    for provider in ("a", "b"):
        histogram.labels(provider, "edge").observe(0.5)
    histogram.labels("a", "relay").observe(7)
    found = read_histograms(url, "stage_seconds", "stage")
    assert found.keys() == {"edge", "relay"}
    since = found["edge"] - before
    assert since.counts == {0.1: 0, 1.0: 2, math.inf: 2}
    assert (since.count, since.mean()) == (2, 0.5)


@pytest.mark.parametrize(
    ("percent", "seconds"), [(10, 0.2), (50, 1.0), (75, 2.0), (99, 2.96), (100, 3.0)]
)
def test_values_are_taken_to_lie_evenly_in_their_bucket(percent: float, seconds: float) -> None:
    buckets = Buckets({1.0: 50.0, 3.0: 100.0, math.inf: 100.0}, 120.0)
    assert buckets.percentile(percent) == pytest.approx(seconds)


def test_values_beyond_the_last_edge_are_taken_for_it() -> None:
    assert Buckets({1.0: 1.0, math.inf: 10.0}).percentile(99) == 1.0


def test_without_values_there_is_nothing() -> None:
    assert Buckets().percentile(50) == Buckets().mean() == 0.0
    nothing = Buckets({1.0: 0.0, math.inf: 0.0})
    assert (nothing.count, nothing.percentile(99)) == (0, 0.0)
