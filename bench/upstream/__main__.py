"""``python -m bench.upstream``: the imitation as a process, led over standard input.

It prints ``{"ports": [main, slow]}``, then answers each line: ``{"behave": [listener, {...}]}``
and ``{"counters": true}``.  It ends with its standard input, or by SIGTERM.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from typing import Any

import attrs

from bench.upstream.behaviour import LISTENERS, Behaviour, Board
from bench.upstream.server import Server, listen

_PR_SET_PDEATHSIG = 1


def main() -> None:
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    processes = options.get("processes", 1)
    board = Board(processes)
    for index in range(len(LISTENERS)):
        board.behave(index, Behaviour())
    listeners = [listen(port) for port in options.get("ports", [0] * len(LISTENERS))]
    children = []
    for process in range(processes):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # What is alive now stays; collecting would only disturb the intervals.
            gc.freeze()
            Server(board, process, listeners).run()
        children.append(child)
    _say({"ports": [listener.getsockname()[1] for listener in listeners]})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for line in sys.stdin:
            _say(_obey(board, json.loads(line)))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _obey(board: Board, order: dict[str, Any]) -> dict[str, Any]:
    if "behave" in order:
        listener, behaviour = order["behave"]
        board.behave(listener, Behaviour.from_json(behaviour))
    return {"counters": [attrs.asdict(board.counters(i)) for i in range(len(LISTENERS))]}


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
