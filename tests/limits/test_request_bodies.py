"""Clients that send their bodies slowly, brokenly, or all at once."""

from __future__ import annotations

import json
import select
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, imitate
from raw_client import RawClient

from aigateway.http.request import inbound
from aigateway.http.request.inbound import Bodies, BodyTooSlow, TooManyBodies

WORKERS = pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
ASK = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
ROUTES = ["/anthropic/v1/messages", "/anthropic/v1/messages/count_tokens"]


def gateway(
    folder: Path, provider: ScriptedProvider, worker_class: str, *options: str
) -> GatewayProcess:
    upstreams = [Upstream("anthropic", provider.url)]
    return GatewayProcess(folder, upstreams, ["--worker-class", worker_class, *options])


def ask(gateway: GatewayProcess, route: str = ROUTES[0]) -> requests.Response:
    headers = {"X-Api-Key": gateway.key()}
    return requests.post(f"{gateway.url}{route}", json=ASK, headers=headers, timeout=30)


def head(gateway: GatewayProcess, *lines: str, route: str = ROUTES[0]) -> bytes:
    first = [f"POST {route} HTTP/1.1", "Host: gateway", f"X-Api-Key: {gateway.key()}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


@WORKERS
def test_bodies_that_stop_in_the_middle_hold_no_place(tmp_path: Path, worker_class: str) -> None:
    options = ["--ai-gateway-max-concurrency", "3", "--queue-depth", "0"]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, *options) as limited,
        ExitStack() as stack,
    ):
        for route in ROUTES * 3:
            client = stack.enter_context(RawClient(limited))
            client.send(head(limited, "Content-Length: 5000", route=route) + b'{"model":')
        for route in ROUTES * 4:
            assert ask(limited, route).status_code == 200


@WORKERS
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_that_does_not_come_in_its_time_is_given_up(
    tmp_path: Path, worker_class: str, route: str
) -> None:
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, "--body-timeout", "1s") as quick,
    ):
        for framing, start in (
            ("Content-Length: 5000", b"{"),
            ("Transfer-Encoding: chunked", b"5\r\n{"),
        ):
            with RawClient(quick) as client:
                client.send(head(quick, framing, route=route) + start)
                answer = client.answer()
                assert answer.status == 408
                assert b"not there within 1 s" in answer.body
                assert client.read_rest() == b""
        assert ask(quick, route).status_code == 200
        assert len(provider.requests) == 1


@WORKERS
def test_all_bodies_together_have_a_bound_and_who_is_over_it_is_told_so(
    tmp_path: Path, worker_class: str
) -> None:
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, "--max-bodies-size", "300KiB") as limited,
        RawClient(limited) as one,
        RawClient(limited) as other,
    ):
        for client in (one, other):
            client.send(head(limited, "Content-Length: 300000") + b" " * 250_000)
        # Whichever is read first has the room.
        [refused], _, _ = select.select([one._socket, other._socket], [], [], 30)
        first, second = (other, one) if refused is one._socket else (one, other)
        answer = second.answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        body = b'{"model":"m","max_tokens":1,"messages":[]}'
        first.send(b" " * (50_000 - len(body)) + body)
        assert first.answer().status == 200
        assert ask(limited).status_code == 200


MALFORMED = [
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"\r\n{}\r\n0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"2;a\x00b\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}XX0\r\n\r\n",
    b"2\r\n{}\r\n0\r\nno colon here\r\n\r\n",
    b"0" * 70_000,
]


@WORKERS
def test_malformed_chunks_are_the_clients_fault(tmp_path: Path, worker_class: str) -> None:
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class) as plain,
    ):
        for route in ROUTES:
            for body in MALFORMED:
                with RawClient(plain) as client:
                    client.send(head(plain, "Transfer-Encoding: chunked", route=route) + body)
                    answer = client.answer()
                assert answer.status == 400, body[:20]
                said = json.loads(answer.body)["error"]["message"]
                assert said.startswith("malformed request body: ")
        assert provider.requests == []
        assert [line for line in plain.logs() if line["level"] == "ERROR"] == []


TOO_LARGE = [
    b"ffffffffffffffff\r\n",
    b"f" * 4000 + b"\r\n{",
    b"2000001;ext=1\r\n{",
    b"1\r\n{\r\n2000000\r\n",
]


@WORKERS
def test_a_chunk_over_the_limit_is_refused_by_its_size(tmp_path: Path, worker_class: str) -> None:
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class) as plain,
    ):
        for route in ROUTES:
            for body in TOO_LARGE:
                with RawClient(plain) as client:
                    client.send(head(plain, "Transfer-Encoding: chunked", route=route) + body)
                    answer = client.answer()
                    assert answer.status == 413, body[:20]
                    assert client.read_rest() == b""
        assert ask(plain).status_code == 200
        assert len(provider.requests) == 1


# -- one body's time


class Socket:
    """Bytes with the seconds that each took to come."""

    def __init__(self, clock: Clock, arrivals: list[tuple[float, bytes]]) -> None:
        self._clock, self._arrivals, self._timeout = clock, arrivals, None

    def gettimeout(self) -> float | None:
        return self._timeout

    def settimeout(self, seconds: Any) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        after, data = self._arrivals[0]
        assert self._timeout is not None
        if after > self._timeout:
            self._clock.now += self._timeout
            self._arrivals[0] = after - self._timeout, data
            raise TimeoutError
        self._clock.now += after
        del self._arrivals[0]
        return data[:size]


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(inbound, "time", clock)
    return clock


def receive(clock: Clock, bodies: Bodies, arrivals: list[tuple[float, bytes]]) -> float:
    """How long it takes until all has come, or the reading is given up."""
    began, pace = clock.now, bodies.begin(10**9)
    sock = Socket(clock, arrivals)
    try:
        while arrivals:
            pace.receive(sock, 1 << 20)
    finally:
        pace.over()
        assert sock.gettimeout() is None
        assert bodies.held == 0
    return clock.now - began


def test_a_body_may_pause_for_as_long_as_it_brings_enough(clock: Clock) -> None:
    bodies = Bodies(0, 60.0, 100)
    assert receive(clock, bodies, [(8.0, b"x" * 1000)] * 7) == 56.0
    assert receive(clock, bodies, [(0.1, b"x"), (9.8, b"x" * 999)]) == pytest.approx(9.9)
    assert receive(clock, Bodies(0, 60.0, 0), [(59.0, b"x")]) == 59.0


@pytest.mark.parametrize(
    ("arrivals", "seconds"),
    [
        ([(30.0, b"x")], 10.0),
        ([(1.0, b"x")] * 100, 10.0),
        ([(1.0, b"x" * 5000), (50.0, b"x")], 20.0),
        ([(1.0, b"x" * 100)] * 100, 60.0),
    ],
)
def test_a_body_that_drips_stops_or_never_ends_is_given_up(
    clock: Clock, arrivals: list[tuple[float, bytes]], seconds: float
) -> None:
    began = clock.now
    with pytest.raises(BodyTooSlow):
        receive(clock, Bodies(0, 60.0, 100), list(arrivals))
    assert clock.now - began == pytest.approx(seconds, abs=1.0)


def test_what_one_body_holds_another_cannot() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 60)
        bodies = Bodies(100, 60.0, 0)
        first, second = bodies.begin(10**9), bodies.begin(10**9)
        assert len(first.receive(ours, 60)) == 60
        theirs.sendall(b"x" * 60)
        with pytest.raises(TooManyBodies):
            second.receive(ours, 60)
        second.over()
        first.over()
        assert bodies.held == 0


def test_bodies_are_counted_from_many_threads() -> None:
    bodies = Bodies(0, 60.0, 0)

    def hold() -> None:
        for _ in range(1000):
            bodies.hold(3)
            bodies.release(3)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies.held == 0
