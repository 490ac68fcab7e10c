"""What reading a request's body costs: ``python -m bench.request_reading``.

Prints two Markdown tables.  The first is one scan of a body by each parser that is installed
(pysimdjson and orjson are no dependencies of the gateway; install them to compare), beside what
the gateway uses: msgspec, which finds the fields and checks the whole document at once.  The
second is the opening of an interception, as a request passes it.  CPU time, best of several.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import time
from collections.abc import Callable

import msgspec

from aigateway.actors.interception import InvalidRequest, open_interception
from bench.payloads import body_of

__all__ = ["main"]

ROUNDS = 7
TOKENS = {"1 KB": 200, "100 KB": 28_000, "455 KB": 140_000, "600 KB": 185_000}


class _Fields(msgspec.Struct):
    model: str = ""
    messages: list[msgspec.Raw] = []


def _bodies() -> dict[str, bytes]:
    bodies = {name: body_of("messages", tokens=n, stream=False) for name, n in TOKENS.items()}
    whole = bodies["100 KB"]
    escaped = re.sub(" (?=[a-z])", r"\\u0020", whole.decode())
    nested = b"[" * 500 + b"]" * 500
    bodies["100 KB, all blanks escaped"] = escaped.encode()
    bodies["100 KB, 500 levels deep"] = whole[:-1] + b',"x":' + nested + b"}"
    bodies["100 KB, half a character"] = whole[:-1] + rb',"x":"\ud83d"}'
    bodies["100 KB, without its end"] = whole[:-1]
    return bodies


def _parsers() -> dict[str, Callable[[bytes], object]]:
    typed, raw = msgspec.json.Decoder(_Fields), msgspec.json.Decoder(msgspec.Raw)
    found: dict[str, Callable[[bytes], object]] = {
        "msgspec, fields": typed.decode,
        "msgspec, check alone": raw.decode,
        "msgspec, all values": msgspec.json.decode,
        "json": json.loads,
    }
    for name, of in (("orjson", "loads"), ("simdjson", "Parser")):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        entry = getattr(module, of)
        found[name] = entry if of == "loads" else entry().parse
    return found


def _cost(call: Callable[[bytes], object], body: bytes) -> float:
    """Microseconds of CPU for one call."""
    times = max(3, 1_000_000 // max(len(body), 1000))
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            with contextlib.suppress(ValueError, RecursionError, InvalidRequest):
                call(body)
        best = min(best, (time.process_time() - began) / times)
    return best * 1e6


def _open(api: str) -> Callable[[bytes], object]:
    return lambda body: open_interception(api, id="i", body=body)


def main() -> None:
    """Print the tables."""
    bodies = _bodies()
    parsers = _parsers()
    lines = [f"| µs | {' | '.join(parsers)} |", "|---" * (len(parsers) + 1) + "|"]
    for name, body in bodies.items():
        costs = " | ".join(f"{_cost(parse, body):.0f}" for parse in parsers.values())
        lines.append(f"| {name} | {costs} |")
    lines += ["", "| µs | opened | per KB |", "|---|---|---|"]
    for name, body in bodies.items():
        cost = _cost(_open("messages"), body)
        lines.append(
            f"| {name} ({len(body):,} bytes) | {cost:.0f} | {cost / len(body) * 1e3:.2f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
