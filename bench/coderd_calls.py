"""Calls of coderd with and without reuse of streams: ``python -m bench.coderd_calls``.

The other side is the Go peer of tests/interop, made of coderd's own libraries, so Go must be
on the PATH.  A fixed number of askers each ask ``Authorize`` again and again, which is two
calls: ``IsAuthorized`` and ``IsBudgetExceeded``.  What counts is CPU time, of this side (asker
and actor included), of the peer, and of both; streams are reused and not, in turns.

A gateway's worker runs under gevent, or with threads under ``--worker-class gthread``: each
kind is a process of its own here, and has a peer of its own.  The peer keeps a log of its
calls, which a coderd does not; that costs it the same in both ways.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
import trustme

from aigateway.actors.actor.base import new_reply
from aigateway.actors.control.coderd.connection import CoderdConnection, ConnectionSettings
from aigateway.actors.control.coderd.dial import DialSettings
from aigateway.actors.control.messages import Authorize, Caller

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / "interop")]
from go_peer import GoPeer  # noqa: E402 - a module of the tests

__all__ = ["main", "measure"]

_THREADS: Final = "from bench.coderd_calls import measure; measure()"
# Patched before anything else is imported, as gunicorn's worker does.
_GEVENT: Final = f"from gevent import monkey; monkey.patch_all(); {_THREADS}"
KINDS: Final = {"gevent": _GEVENT, "gevent, TLS": _GEVENT, "threads": _THREADS}

IN_FLIGHT = (1, 8, 64)
ROUNDS = 5
ASKS = {1: 2000, 8: 4000, 64: 6000}
CALLS_PER_ASK = 2

Key: TypeAlias = tuple[str, int, bool]
"""Kind of worker, calls in flight, whether streams are reused."""


def _token(number: int) -> str:
    # One for each asker: equal ones at the same moment share a call.
    return f"user{number}-secret"


# -- a worker


def measure() -> None:
    """Measure against the peer that the command line names; a line of JSON for each round."""
    url, peer_pid = sys.argv[1], int(sys.argv[2])
    dial = DialSettings(url=url, key="gateway-key", proxy="", ca_file=sys.argv[3])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for _ in range(ROUNDS):
        for in_flight in IN_FLIGHT:
            for reuse in (True, False):
                found = _round(dial, peer_pid, in_flight, reuse=reuse)
                print(json.dumps({"in_flight": in_flight, "reuse": reuse, **found}), flush=True)


def _round(dial: DialSettings, peer_pid: int, in_flight: int, *, reuse: bool) -> dict[str, float]:
    connected = threading.Event()
    settings = ConnectionSettings(dial=dial, stream_reuse=reuse)
    ref = CoderdConnection.start(
        "control-plane", None, settings, providers=(), on_connected=connected.set
    )
    try:
        assert connected.wait(10), "no connection to the peer"
        _ask(ref, in_flight, in_flight * 10)
        asks = ASKS[in_flight]
        began, ours, peers = time.monotonic(), time.process_time(), _cpu_of(peer_pid)
        _ask(ref, in_flight, asks)
        calls = asks * CALLS_PER_ASK
        return {
            "ours": (time.process_time() - ours) / calls,
            "peer": (_cpu_of(peer_pid) - peers) / calls,
            "rate": calls / (time.monotonic() - began),
        }
    finally:
        ref.stop(timeout=10)


def _ask(ref: Any, in_flight: int, count: int) -> None:
    failed: list[BaseException] = []

    def asker(number: int) -> None:
        try:
            for _ in range(count // in_flight):
                reply = new_reply()
                ref.tell(Authorize(_token(number), reply))
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


# -- all of them


def main() -> None:
    """Print a Markdown table."""
    found: dict[Key, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        files = _certificate(Path(name))
        for kind in KINDS:
            with GoPeer(tls=files[1:] if kind == "gevent, TLS" else None) as peer:
                for number in range(max(IN_FLIGHT)):
                    owner = f"00000000-0000-4000-8000-{number:012d}"
                    peer.add_user(_token(number), owner, f"user{number}")
                done = subprocess.run(
                    [sys.executable, "-c", KINDS[kind], peer.url, str(peer.pid), str(files[0])],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
            for line in done.stdout.splitlines():
                one = json.loads(line)
                found.setdefault((kind, one["in_flight"], one["reuse"]), []).append(one)
    sys.stdout.write("\n".join(_table(found)) + "\n")


def _certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Files with an authority, a certificate of it and the key of that."""
    files = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(files[0])
    leaf.cert_chain_pems[0].write_to_path(files[1])
    leaf.private_key_pem.write_to_path(files[2])
    return files


def _table(found: dict[Key, list[dict[str, float]]]) -> list[str]:
    lines = [
        "Streams reused / one per call; CPU per call in µs, and how many times as many calls a "
        "CPU second holds with reuse.",
        "",
        "| worker | in flight | calls/s | gateway | × | peer | × | both | × |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in KINDS:
        for in_flight in IN_FLIGHT:
            reused, single = (_medians(found[kind, in_flight, reuse]) for reuse in (True, False))
            cells = [kind, str(in_flight), f"{reused['rate']:,.0f} / {single['rate']:,.0f}"]
            for side in ("ours", "peer", "both"):
                cells.append(f"{reused[side] * 1e6:.0f} / {single[side] * 1e6:.0f}")
                cells.append(f"{single[side] / reused[side]:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    rounds = [{**one, "both": one["ours"] + one["peer"]} for one in rounds]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
