"""Under gevent: does a locked database hold up the other greenlets?

Argument: database.  Prints how the interception was answered and the seconds that 100 turns
of another greenlet took meanwhile.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402

from aigateway.actors.actor.base import new_reply  # noqa: E402
from aigateway.actors.control.local.local import LocalControlPlane  # noqa: E402
from aigateway.actors.control.local.schema import open_database  # noqa: E402
from aigateway.actors.control.messages import Begin, GetStatus  # noqa: E402
from aigateway.actors.values.records import InterceptionBegun  # noqa: E402

locker = open_database(sys.argv[1])
plane = LocalControlPlane.start("control-plane", None, sys.argv[1], lock_patience=60.0)
plane.ask(GetStatus(), timeout=10)
locker.execute("BEGIN IMMEDIATE")
reply = new_reply()
record = InterceptionBegun(
    id="i",
    initiator_id="u",
    username="ada",
    api_key_id="k",
    provider="anthropic",
    provider_name="anthropic",
    model="m",
    client="c",
    user_agent="",
    started_at=0.0,
)
plane.tell(Begin(record, reply))
before = time.monotonic()
for _ in range(100):
    gevent.sleep(0.001)
took = time.monotonic() - before
locker.execute("COMMIT")
sys.stdout.write(f"{type(reply.get(timeout=10)).__name__} {took}\n")
plane.stop()
