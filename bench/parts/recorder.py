"""What one request costs the recorder: an Append with four records, stored at once.

CPU time per request of everything between the ledger's message and the deleted row: spool,
delivery, and a control plane that says yes without doing anything.
"""

from __future__ import annotations

import json
import sys

if '"worker": "gevent"' in sys.argv[-1]:
    from gevent import monkey

    monkey.patch_all()

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from aigateway.actors.actor.base import GatewayActor, new_reply
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Stored, StoreRecords
from aigateway.actors.recorder.recorder import Append, Flushed, Recorder
from aigateway.actors.values.records import (
    InterceptionEnded,
    PromptUsage,
    TokenUsage,
    ToolUsage,
)

OPTIONS = json.loads(sys.argv[1])
"""``worker``, gevent or threads, and how many ``appends``."""
RATE = 2000
"""Requests per second of the imitated worker."""
TICK = 0.005
"""Seconds between bursts: requests come in clumps."""


class YesPlane(GatewayActor):
    """Says at once that all is stored, as the embedded control plane does per message."""

    def receive(self, message: Any) -> Any:
        if isinstance(message, StoreRecords):
            done = tuple(spooled.seq for spooled in message.records())
            message.reply_to.tell(Stored(done=done, ticket=message.ticket))


def records_of(number: int) -> tuple[Any, ...]:
    one = f"0197c9a0-0000-7000-8000-{number:012x}"
    now = time.time()
    return (
        PromptUsage(
            interception_id=one, msg_id="msg_1", prompt="x" * 200, created_at=now, record_id="1"
        ),
        TokenUsage(
            interception_id=one,
            msg_id="msg_1",
            input_tokens=10,
            output_tokens=20,
            created_at=now,
            metadata={"a": 1},
            record_id="2",
        ),
        ToolUsage(
            interception_id=one,
            msg_id="msg_1",
            tool="read_file",
            input='{"path": "/etc/hosts"}',
            created_at=now,
            record_id="3",
        ),
        InterceptionEnded(id=one, ended_at=now),
    )


def main() -> None:
    appends = OPTIONS["appends"]
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    tree = ActorTree()
    tree.put("control-plane", YesPlane.start("control-plane"))
    recorder = Recorder.start("recorder", None, tree=tree, folder=folder, max_size=1 << 30)
    ready = [records_of(number) for number in range(appends)]
    per_tick = int(RATE * TICK)
    began, cpu = time.monotonic(), time.process_time()
    last = None
    for first in range(0, appends, per_tick):
        for records in ready[first : first + per_tick]:
            last = new_reply()
            recorder.tell(Append(records, last))
        left = began + (first / per_tick + 1) * TICK - time.monotonic()
        time.sleep(max(0.0, left))
    assert last is not None
    last.get(timeout=60)
    flushed = new_reply()
    recorder.tell(Flushed(flushed))
    flushed.get(timeout=60)
    cpu = time.process_time() - cpu
    wall = time.monotonic() - began
    recorder.stop()
    shutil.rmtree(folder)
    numbers = {"cpu_us": cpu / appends * 1e6, "per_s": appends / wall}
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
