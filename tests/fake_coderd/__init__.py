"""A coderd for tests: a real WebSocket listener on the server role of the gateway's wire code.

It knows users, budgets, providers and MCP servers, keeps the records it is given, and fails
on command::

    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        coderd.faults.fail("RecordTokenUsage", "insert token usage: no disk", times=1)
        ...
        coderd.wait_for(lambda: len(coderd.deployment.stored()) == 6)

``python -m fake_coderd`` (with ``tests/`` on the path) runs one for a whole gateway.
"""

from __future__ import annotations

from ._deployment import CallError, Deployment, StoredRecord, User
from ._faults import Faults
from ._frames import HttpRequest, encode_frame
from ._server import FakeCoderd

__all__ = [
    "CallError",
    "Deployment",
    "FakeCoderd",
    "Faults",
    "HttpRequest",
    "StoredRecord",
    "User",
    "encode_frame",
]
