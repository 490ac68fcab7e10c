"""What it costs to read a request's body: one scan by each parser, and opening an interception.

pysimdjson and orjson are no dependencies of the gateway; where they are installed, they are
measured too.  The gateway uses msgspec, which finds the fields and checks the whole document at
once.  CPU time, the best of several rounds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from aigateway.actors.interception import InvalidRequest, open_interception

__all__ = ["main"]

ROUNDS = 7


class _Fields(msgspec.Struct):
    model: str = ""
    messages: list[msgspec.Raw] = []


def _parsers() -> dict[str, Callable[[bytes], object]]:
    typed, raw = msgspec.json.Decoder(_Fields), msgspec.json.Decoder(msgspec.Raw)
    found: dict[str, Callable[[bytes], object]] = {
        "fields_us": typed.decode,
        "check_us": raw.decode,
        "values_us": msgspec.json.decode,
        "json_us": json.loads,
    }
    for name, of in (("orjson", "loads"), ("simdjson", "Parser")):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        entry = getattr(module, of)
        found[f"{name}_us"] = entry if of == "loads" else entry().parse
    return found


def _cost(call: Callable[[bytes], object], body: bytes, times: int) -> float:
    """Microseconds of CPU for one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            with contextlib.suppress(ValueError, RecursionError, InvalidRequest):
                call(body)
        best = min(best, (time.process_time() - began) / times)
    return best * 1e6


def main() -> None:
    """Options: ``body``, a file's name, and about how many ``bytes`` are read in a round."""
    options = json.loads(sys.argv[1])
    body = Path(options["body"]).read_bytes()
    times = max(3, options["bytes"] // max(len(body), 1000))
    opened = _cost(lambda data: open_interception("messages", id="i", body=data), body, times)
    numbers = {"kb": len(body) / 1e3, "opened_us": opened, "per_kb_us": opened / len(body) * 1e3}
    for name, parse in _parsers().items():
        numbers[name] = _cost(parse, body, times)
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
