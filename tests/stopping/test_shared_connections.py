"""Workers share new connections, also when many come at once."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack

from gateway_process import wait_until
from stops import Start, port_of, ready_workers, served_by

CONNECTIONS = 400
LEAST = CONNECTIONS // 8


def test_no_worker_takes_all_connections(start: Start) -> None:
    gateway = start(workers=2, ready=False)
    wait_until(lambda: ready_workers(gateway) == 2, "both workers are there")
    with ExitStack() as exits:
        for _ in range(CONNECTIONS):
            exits.enter_context(socket.create_connection(("127.0.0.1", port_of(gateway))))

        def taken() -> Counter[int] | None:
            counts = Counter(served_by(gateway).values())
            return counts if counts.total() == CONNECTIONS else None

        counts = wait_until(taken, "all connections are taken")
    assert len(counts) == 2, counts
    assert min(counts.values()) >= LEAST, counts
