"""A gateway worker's writes without the gateway: stores interceptions with their records.

Arguments: database, how many interceptions, and "gevent" or "threads".  Prints the id of
each interception once all of it has been acknowledged.
"""

from __future__ import annotations

import sys

DATABASE, COUNT, KIND = sys.argv[1:]
if KIND == "gevent":
    from gevent import monkey

    monkey.patch_all()

import queue  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

from aigateway.actors.actor.base import new_reply  # noqa: E402
from aigateway.actors.control.local.local import LocalControlPlane  # noqa: E402
from aigateway.actors.control.messages import (  # noqa: E402
    Accepted,
    Begin,
    Spooled,
    StoreRecords,
)
from aigateway.actors.providers.recording import new_interception_id  # noqa: E402
from aigateway.actors.values.records import (  # noqa: E402
    InterceptionBegun,
    InterceptionEnded,
    PromptUsage,
    TokenUsage,
    UsageRecord,
)

AT_ONCE = 5


class Inbox:
    def __init__(self) -> None:
        self.stored: queue.Queue[Any] = queue.Queue()

    def tell(self, message: Any) -> None:
        self.stored.put(message)


def start_record(interception: str) -> InterceptionBegun:
    return InterceptionBegun(
        id=interception,
        initiator_id="u",
        username="ada",
        api_key_id="k",
        provider="anthropic",
        provider_name="anthropic",
        model="m",
        client="c",
        user_agent="",
        started_at=time.time(),
    )


def other_records(interception: str) -> list[UsageRecord | InterceptionEnded]:
    now = time.time()
    return [
        PromptUsage(
            interception_id=interception, msg_id="m", prompt="p", created_at=now, record_id="1"
        ),
        TokenUsage(
            interception_id=interception,
            msg_id="m",
            input_tokens=1,
            output_tokens=2,
            created_at=now,
            record_id="2",
        ),
        InterceptionEnded(id=interception, ended_at=now),
    ]


def main() -> None:
    plane = LocalControlPlane.start("control-plane", None, DATABASE)
    inbox = Inbox()
    for _ in range(0, int(COUNT), AT_ONCE):
        ids = [new_interception_id() for _ in range(AT_ONCE)]
        replies = [new_reply() for _ in ids]
        for interception, reply in zip(ids, replies, strict=True):
            plane.tell(Begin(start_record(interception), reply))
        assert all(reply.get(timeout=60) == Accepted() for reply in replies)
        rest = [record for interception in ids for record in other_records(interception)]
        batch = tuple(Spooled(number, record) for number, record in enumerate(rest))
        plane.tell(StoreRecords((batch,), inbox))
        stored = inbox.stored.get(timeout=60)
        assert len(stored.done) == len(batch), stored
        sys.stdout.write("".join(f"{interception}\n" for interception in ids))
        sys.stdout.flush()
    plane.stop()


main()
