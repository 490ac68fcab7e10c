"""Calls of a Coder deployment, with and without reuse of streams.

A fixed number of askers each ask ``Authorize`` again and again, which is two calls:
``IsAuthorized`` and ``IsBudgetExceeded``.  What counts is CPU time, of this side (asker and
actor included), of the peer, and of both.  The peer keeps a log of its calls, which a coderd
does not; that costs it the same in both ways.
"""

from __future__ import annotations

import json
import sys

if '"worker": "gevent"' in sys.argv[-1]:
    # Patched before anything else is imported, as gunicorn's worker does.
    from gevent import monkey

    monkey.patch_all()

import logging
import threading
import time
from typing import Any

import structlog

from aigateway.actors.actor.base import new_reply
from aigateway.actors.control.coderd.connection import CoderdConnection, ConnectionSettings
from aigateway.actors.control.coderd.dial import DialSettings
from aigateway.actors.control.messages import Authorize, Caller

OPTIONS = json.loads(sys.argv[1])
"""``url``, ``pid`` and ``ca`` of the peer, ``worker``, and how many ``in_flight`` of ``asks``."""
CALLS_PER_ASK = 2


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    numbers = {}
    for reuse, ending in ((True, ""), (False, "_single")):
        numbers |= {name + ending: value for name, value in _round(reuse=reuse).items()}
    sys.stdout.write(json.dumps(numbers) + "\n")


def _round(*, reuse: bool) -> dict[str, float]:
    dial = DialSettings(url=OPTIONS["url"], key="gateway-key", proxy="", ca_file=OPTIONS["ca"])
    connected = threading.Event()
    settings = ConnectionSettings(dial=dial, stream_reuse=reuse)
    ref = CoderdConnection.start(
        "control-plane", None, settings, providers=(), on_connected=connected.set
    )
    in_flight, asks = OPTIONS["in_flight"], OPTIONS["asks"]
    try:
        assert connected.wait(10), "no connection to the peer"
        _ask(ref, in_flight, in_flight * 10)
        began, ours, peers = time.monotonic(), time.process_time(), _cpu_of(OPTIONS["pid"])
        _ask(ref, in_flight, asks)
        calls = asks * CALLS_PER_ASK
        mine = (time.process_time() - ours) / calls * 1e6
        peer = (_cpu_of(OPTIONS["pid"]) - peers) / calls * 1e6
        rate = calls / (time.monotonic() - began)
        return {"ours_us": mine, "peer_us": peer, "both_us": mine + peer, "per_s": rate}
    finally:
        ref.stop(timeout=10)


def _ask(ref: Any, in_flight: int, count: int) -> None:
    failed: list[BaseException] = []

    def asker(number: int) -> None:
        try:
            for _ in range(count // in_flight):
                reply = new_reply()
                ref.tell(Authorize(f"user{number}-secret", reply))
                assert isinstance(reply.get(timeout=10), Caller)
        except BaseException as ex:
            failed.append(ex)

    threads = [threading.Thread(target=asker, args=(number,)) for number in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _cpu_of(pid: int) -> float:
    """CPU seconds of another process: Linux makes a clock's number of its id."""
    return time.clock_gettime((~pid << 3) | 2)


if __name__ == "__main__":
    main()
