"""Calls of coderd with and without reuse of streams: ``python -m bench.coderd_calls``.

The other side is the Go peer of tests/interop, made of coderd's own libraries, so Go must be
on the PATH.  Each round asks ``IsAuthorized`` many times with a fixed number in flight; what
counts is CPU time of this process and calls per second, in turns.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path

from aigateway.actors.actor import new_reply
from aigateway.actors.coderd.connection import CoderdConnection, ConnectionSettings
from aigateway.actors.coderd.dial import DialSettings
from aigateway.actors.coderd.messages import Authorize, Caller

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / "interop")]
from go_peer import GoPeer  # noqa: E402 - a module of the tests

__all__ = ["main"]

CALLS = 6000
IN_FLIGHT = 64
ROUNDS = 5


def _round(peer: GoPeer, *, reuse: bool) -> tuple[float, float]:
    """CPU seconds per call and calls per second."""
    connected = threading.Event()
    settings = ConnectionSettings(
        dial=DialSettings(url=peer.url, key="gateway-key"), stream_reuse=reuse
    )
    ref = CoderdConnection.start(
        "control-plane", None, settings, providers=(), on_connected=connected.set
    )
    try:
        assert connected.wait(10), "no connection to the peer"
        _ask(ref, IN_FLIGHT)
        cpu, clock = time.process_time(), time.monotonic()
        _ask(ref, CALLS)
        return (time.process_time() - cpu) / CALLS, CALLS / (time.monotonic() - clock)
    finally:
        ref.stop(timeout=10)


def _ask(ref: object, count: int) -> None:
    for _ in range(0, count, IN_FLIGHT):
        # Each with a token of its own: equal ones at the same moment share a call.
        replies = []
        for number in range(IN_FLIGHT):
            reply = new_reply()
            ref.tell(Authorize(f"user{number}-secret", reply))  # type: ignore[attr-defined]
            replies.append(reply)
        for reply in replies:
            assert isinstance(reply.get(timeout=10), Caller)


def main() -> None:
    """Print a Markdown table."""
    with GoPeer() as peer:
        for number in range(IN_FLIGHT):
            owner = f"00000000-0000-4000-8000-{number:012d}"
            peer.add_user(f"user{number}-secret", owner, f"user{number}")
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(ROUNDS):
            for reuse in (True, False):
                found[reuse].append(_round(peer, reuse=reuse))
    lines = ["| streams | CPU per call | calls per second |", "|---|---|---|"]
    for reuse, name in ((True, "reused"), (False, "one per call")):
        cpu = statistics.median(one[0] for one in found[reuse])
        rate = statistics.median(one[1] for one in found[reuse])
        lines.append(f"| {name} | {cpu * 1e6:.0f} µs | {rate:.0f} |")
    ratio = statistics.median(one[0] for one in found[False]) / statistics.median(
        one[0] for one in found[True]
    )
    lines.append(f"\nWith reuse {ratio:.2f} times the calls per CPU second.")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
