"""What a worker with threads does to connections between two requests, when it ends."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn, ThreadWorker

from aigateway.http.server.thread_worker import GatewayThreadWorker


class Parser:
    """Has one request, and does something when the rest of its body is read."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def __next__(self) -> object:
        return object()

    def finish_body(self, deadline: float) -> bool:
        self._meanwhile()
        return True


@pytest.fixture
def worker() -> Iterator[GatewayThreadWorker]:
    worker = GatewayThreadWorker(1, os.getppid(), [], None, 30, Config(), logging.getLogger())
    yield worker
    worker.tmp.close()


def handle(worker: GatewayThreadWorker, meanwhile: Callable[[], None]) -> bool:
    """Whether the client still has its connection after one request."""
    ours, client = socket.socketpair()
    with ours, client:
        conn = TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        conn.initialized = True
        conn.parser = Parser(meanwhile)
        assert worker.handle(conn)
        client.setblocking(False)
        try:
            assert client.recv(1) == b""
        except BlockingIOError:
            return True
        return False


def test_a_connection_is_not_silent_while_its_request_was_served(
    worker: GatewayThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[float] = []

    def serve(*_: object) -> bool:
        served.append(time.monotonic())
        return True

    monkeypatch.setattr(ThreadWorker, "handle_request", serve)
    # The main thread looks between the end of a request and the next one.
    assert handle(worker, lambda: worker.close_silent(served[0]))


def test_a_client_that_keeps_the_rest_of_a_body_back_is_not_waited_for(
    worker: GatewayThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadWorker, "handle_request", lambda *_: True)
    assert not handle(worker, lambda: worker.close_silent(math.inf))
