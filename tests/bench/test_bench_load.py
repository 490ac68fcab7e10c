"""The load drivers count what clients would have seen, also when it is bad."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load import CallsSpec, Driver, LoadResult, StreamsSpec, Target
from bench.payloads import Endpoint, requests_for
from bench.upstream import Behaviour, Upstream

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with Upstream(tmp_path_factory.mktemp("upstream")) as imitation:
        yield imitation


def _target(folder: Path, port: int, *, stream: bool) -> Target:
    endpoints = [(api, Endpoint(port, path, {})) for api, path in PATHS.items()]
    names = []
    for number, request in enumerate(requests_for(endpoints, tokens=50, stream=stream)):
        file = folder / f"{number}.http"
        file.write_bytes(request)
        names.append(str(file))
    return Target(port, tuple(names))


def _run(spec: CallsSpec | StreamsSpec, folder: Path) -> LoadResult:
    phases: list[str] = []
    with Driver(spec, folder, "load") as driver:
        result = driver.wait(phases.append)
    assert phases == ["measuring", "measured"]
    return result


def test_a_closed_loop_keeps_so_many_requests_in_flight(upstream: Upstream, tmp_path: Path) -> None:
    upstream.behave(Behaviour(think_us=100_000))
    before = upstream.settled()
    target = _target(tmp_path, upstream.ports[0], stream=False)
    load = _run(CallsSpec(target=target, seconds=1, concurrency=5), tmp_path)
    seen = upstream.settled() - before
    assert seen.connections == 5
    assert load.numbers["ok"] == load.numbers["sent"] == seen.requests == seen.answers
    assert load.errors == {}
    assert load.histograms["latency"].percentile(50) >= 99_000


def test_latency_counts_from_the_moment_a_request_was_due(tmp_path: Path) -> None:
    """A server that is silent for half a second delays all that were due meanwhile."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    release = threading.Event()
    timer = threading.Timer(0.5, release.set)

    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            if timer.ident is None:
                timer.start()
            release.wait(10)
            connection.sendall(answer)

    with _server(serve) as port:
        target = _target(tmp_path, port, stream=False)
        load = _run(CallsSpec(target=target, seconds=1, rate=100, poisson=False), tmp_path)
    latency = load.histograms["latency"]
    assert load.numbers["sent"] == load.numbers["ok"]
    assert len(latency) == load.numbers["sent"]
    # Due evenly, so half of them wait between 0 and 0.5 s.
    assert latency.percentile(75) > 150_000
    assert latency.maximum() > 400_000


def test_requests_without_an_answer_are_in_the_latencies(tmp_path: Path) -> None:
    with _server(lambda connection: connection.recv(65536) and threading.Event().wait(8)) as port:
        target = _target(tmp_path, port, stream=False)
        load = _run(CallsSpec(target=target, seconds=0.5, rate=20, grace=0.5), tmp_path)
    assert load.numbers["ok"] == 0
    assert load.numbers["unanswered"] == load.numbers["sent"] > 0
    assert load.histograms["latency"].percentile(1) >= 490_000


def test_refusals_are_errors(tmp_path: Path) -> None:
    def refuse(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with _server(refuse) as port:
        target = _target(tmp_path, port, stream=False)
        load = _run(CallsSpec(target=target, seconds=0.3, rate=50), tmp_path)
    assert load.errors == {"status 503": load.numbers["sent"]}
    assert load.numbers["ok"] == 0


def test_streams_are_counted_to_the_event(upstream: Upstream, tmp_path: Path) -> None:
    upstream.behave(Behaviour(events=20, interval_us=10_000))
    before = upstream.settled()
    target = _target(tmp_path, upstream.ports[0], stream=True)
    spec = StreamsSpec(target=target, streams=6, events=20, ramp=0.2, seconds=1)
    load = _run(spec, tmp_path)
    seen, numbers = upstream.settled() - before, load.numbers
    assert numbers["streams_begun"] == numbers["streams_finished"] == seen.streams
    assert seen.events == 20 * seen.streams
    assert 0 < numbers["events"] <= seen.events
    assert (numbers["events_lost"], numbers["events_doubled"]) == (0, 0)
    assert numbers["streams_unfinished"] == 0
    assert load.errors == {}
    gap = load.histograms["gap"]
    assert 8_000 < gap.percentile(50) < 20_000
    # Each that was begun in the measurement, and those of before whose first byte came in it.
    first_bytes, begun = len(load.histograms["ttfb"]), numbers["streams_begun_measured"]
    assert begun <= first_bytes <= begun + spec.streams


def test_clients_that_hang_up_come_again(upstream: Upstream, tmp_path: Path) -> None:
    upstream.behave(Behaviour(events=50, interval_us=10_000))
    before = upstream.settled()
    target = _target(tmp_path, upstream.ports[0], stream=True)
    spec = StreamsSpec(target=target, streams=4, events=50, ramp=0.1, seconds=1, leave_after=5)
    load = _run(spec, tmp_path)
    seen = upstream.settled() - before
    assert load.numbers["streams_left"] == load.numbers["streams_begun"] > 8
    assert seen.cut == seen.streams == load.numbers["streams_left"]
    assert load.errors == {}


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


def _event(number: int) -> bytes:
    return b'data: {"delta":"#%06d.%015d#"}\n\n' % (number, 0)


def _play(*pieces: bytes) -> Callable[[socket.socket], None]:
    """A server that answers one stream per connection with these pieces and then is silent."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
            threading.Event().wait(0.05)
        while connection.recv(65536):
            pass

    return serve


def _one_stream(folder: Path, serve: Callable[[socket.socket], None], events: int) -> LoadResult:
    with _server(serve) as port:
        target = _target(folder, port, stream=True)
        return _run(
            StreamsSpec(target=target, streams=1, events=events, ramp=0, seconds=1, grace=0.2),
            folder,
        )


def test_merged_events_are_counted(tmp_path: Path) -> None:
    serve = _play(HEAD + _event(0), _event(1) + _event(2) + _event(3), END)
    load = _one_stream(tmp_path, serve, 4)
    assert load.numbers["events"] == 4
    assert load.numbers["events_merged"] == 2
    assert load.numbers["streams_finished"] == 1
    assert load.numbers["events_lost"] == 0


def test_an_event_in_two_pieces_is_one_event(tmp_path: Path) -> None:
    event = _event(1)
    serve = _play(HEAD + _event(0) + event[:25], event[25:], END[:9], END[9:])
    load = _one_stream(tmp_path, serve, 2)
    assert (load.numbers["events"], load.numbers["events_lost"]) == (2, 0)
    assert load.numbers["streams_finished"] == 1


@pytest.mark.parametrize("numbers", [(0, 2, 3), (0, 1, 2)])
def test_lost_events_are_counted_in_the_middle_and_at_the_end(
    numbers: tuple[int, ...], tmp_path: Path
) -> None:
    load = _one_stream(tmp_path, _play(HEAD, *map(_event, numbers), END), 4)
    assert (load.numbers["events"], load.numbers["events_lost"]) == (3, 1)


def test_a_stream_that_never_ends_is_reported(tmp_path: Path) -> None:
    load = _one_stream(tmp_path, _play(HEAD + _event(0)), 4)
    assert load.numbers["streams_unfinished"] == 1
    assert load.numbers["streams_finished"] == 0


def test_a_stream_that_is_cut_is_an_error(tmp_path: Path) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + _event(0))

    load = _one_stream(tmp_path, cut, 4)
    assert load.errors.keys() == {"closed inside the stream"}


@contextmanager
def _server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Serve each connection in a thread; yields the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            with connection:
                try:
                    serve(connection)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
