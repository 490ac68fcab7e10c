"""Run a coderd for tests until SIGTERM: ``python -m fake_coderd [--port N] [--records FILE]``.

Prints one line of JSON with the address and the gateway key.  There is one user, alice, with
the token ``tok-alice-secret``.  The records are written to FILE at the end, one per line.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from . import FakeCoderd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--version", default="1.4")
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with FakeCoderd(version=args.version, port=args.port) as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        sys.stdout.write(json.dumps({"url": coderd.url, "key": coderd.gateway_key}) + "\n")
        sys.stdout.flush()
        stop.wait()
    if args.records:
        lines = (
            json.dumps({"rpc": record.rpc, **MessageToDict(record.message)})
            for record in coderd.deployment.stored()
        )
        args.records.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
