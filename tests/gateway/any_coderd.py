"""One face for both coderds of the tests: ours in Python, and the peer in Go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import requests
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess
from go_peer import GoPeer
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

__all__ = [
    "ALICE_ID",
    "USUAL",
    "AnyCoderd",
    "GoCoderd",
    "PythonCoderd",
    "Start",
    "Stored",
    "all_ended",
    "ask",
    "doubled",
    "interception_of",
    "per_interception",
]

Start = Callable[..., GatewayProcess]
"""What the fixture ``start`` gives."""

Stored = tuple[str, str, dict[str, Any]]
"""RPC without its service, interception id, fields by their names in the .proto."""

assert struct_pb2.DESCRIPTOR, "imported so that MessageToDict can unpack metadata"

ALICE_ID = "6b86b273-ff34-4ce1-9d6b-804eff5a3f57"


USUAL = Counter(
    RecordInterception=1, RecordTokenUsage=1, RecordPromptUsage=1, RecordInterceptionEnded=1
)
"""The records of one blocking request."""


class AnyCoderd(Protocol):
    url: str
    gateway_key: str

    def add_alice(self) -> str:
        """Add a user and return her key."""

    def set_budget(self, exceeded: bool, limit_micros: int | None) -> None:
        """Set the budget of alice."""

    def set_providers(self, providers: Sequence[dict[str, Any]]) -> None:
        """Replace the providers and tell those who watch."""

    def go_away(self, *, politely: bool = False) -> None:
        """Drop all connections, with or without a goodbye, and take no new ones."""

    def stall(self) -> None:
        """Let nothing in or out of the open connections, without a sign of it."""

    def hold(self, rpc: str) -> None:
        """Answer no call of this RPC."""

    def come_back(self) -> None:
        """End what :meth:`go_away`, :meth:`stall`, :meth:`hold` and :meth:`refuse` have begun."""

    def refuse(self, status: int) -> None:
        """Refuse upgrades until :meth:`come_back`."""

    def delete_key(self) -> None:
        """Forget the gateway key and end its sessions."""

    def reject(self, rpc: str, text: str) -> None:
        """Answer the next call of this RPC with an error."""

    def stored(self) -> list[Stored]: ...


def per_interception(stored: Sequence[Stored]) -> dict[str, Counter[str]]:
    """How often each kind of record was stored for each interception."""
    counted: dict[str, Counter[str]] = {}
    for rpc, interception, _ in stored:
        counted.setdefault(interception, Counter())[rpc] += 1
    return counted


def all_ended(coderd: AnyCoderd, interceptions: Sequence[str]) -> bool:
    """Whether coderd has the end of each of these, which is its last record."""
    found = per_interception(coderd.stored())
    return all(found.get(one, Counter())["RecordInterceptionEnded"] for one in interceptions)


def doubled(found: Counter[str], wanted: Counter[str]) -> int:
    """How many records are there once too often; fails when one is missing."""
    assert not wanted - found, f"missing: {wanted - found}"
    return (found - wanted).total()


def ask(gateway: GatewayProcess, key: str, timeout: float = 60.0) -> requests.Response:
    """Send a small blocking request."""
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "claude-x",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "hi"}],
        },
        headers={"X-Api-Key": key},
        timeout=timeout,
    )


def interception_of(answer: requests.Response) -> str:
    return answer.headers["X-AI-Gateway-Interception-Id"]


class PythonCoderd:
    def __init__(self, coderd: FakeCoderd) -> None:
        self._coderd = coderd
        self.url = coderd.url
        self.gateway_key = "gateway-key"

    def add_alice(self) -> str:
        self._alice = self._coderd.deployment.add_user("alice", "alice-secret", id=ALICE_ID)
        return "alice-secret"

    def set_budget(self, exceeded: bool, limit_micros: int | None) -> None:
        self._coderd.deployment.set_budget(
            self._alice, exceeded=exceeded, limit_micros=limit_micros
        )

    def set_providers(self, providers: Sequence[dict[str, Any]]) -> None:
        self._coderd.deployment.providers = tuple(pb.AIProvider(**fields) for fields in providers)
        for connection in self._coderd.connections:
            connection.signal_watchers()

    def go_away(self, *, politely: bool = False) -> None:
        self._coderd.refuse(503, {"message": "away"})
        if politely:
            self._coderd.close_connections(1001)
        else:
            self._coderd.cut_connections(reset=True)

    def stall(self) -> None:
        self._coderd.stall()

    def hold(self, rpc: str) -> None:
        self._coderd.faults.hang(rpc)

    def come_back(self) -> None:
        self._coderd.faults.clear()
        self._coderd.admit()
        self._coderd.resume()

    def refuse(self, status: int) -> None:
        self._coderd.refuse(status, {"message": "Refused for a test."})

    def delete_key(self) -> None:
        self._coderd.delete_gateway_key()

    def reject(self, rpc: str, text: str) -> None:
        self._coderd.faults.fail(rpc, text, times=1)

    def stored(self) -> list[Stored]:
        return [
            (
                record.rpc,
                record.interception_id,
                MessageToDict(record.message, preserving_proto_field_name=True),
            )
            for record in self._coderd.deployment.stored()
        ]


class GoCoderd:
    def __init__(self, peer: GoPeer) -> None:
        self._peer = peer
        self.url = peer.url
        self.gateway_key = "gateway-key"

    def add_alice(self) -> str:
        self._peer.add_user("alice-secret", ALICE_ID, "alice")
        return "alice-secret"

    def set_budget(self, exceeded: bool, limit_micros: int | None) -> None:
        self._peer.set_budget(ALICE_ID, exceeded, limit_micros)

    def set_providers(self, providers: Sequence[dict[str, Any]]) -> None:
        self._peer.set_providers(providers)

    def go_away(self, *, politely: bool = False) -> None:
        self._peer.close_listener()
        self._peer.drop("close" if politely else "reset")

    def stall(self) -> None:
        self._peer.stall()

    def hold(self, rpc: str) -> None:
        self._peer.disturb(rpc, "stall", times=0)

    def come_back(self) -> None:
        self._peer.clear_faults()
        self._peer.open_listener()
        self._peer.unstall()

    def refuse(self, status: int) -> None:
        self._peer.refuse_upgrades(status, {"message": "Refused for a test."})

    def delete_key(self) -> None:
        self._peer.delete_gateway_key(self.gateway_key)

    def reject(self, rpc: str, text: str) -> None:
        self._peer.reject_record(rpc, 1, text)

    def stored(self) -> list[Stored]:
        return [
            (entry["rpc"], entry["record"].get("interception_id") or entry["record"]["id"],
             entry["record"])
            for entry in self._peer.records()
        ]  # fmt: skip
