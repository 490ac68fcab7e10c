"""Records, and control planes that do what a test says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pykka
import waiting

from aigateway.actors.actor.base import GatewayActor, complete, new_reply
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    KeepsRecords,
    Spooled,
    Stored,
    StoreRecords,
)
from aigateway.actors.recorder.messages import Append
from aigateway.actors.recorder.recorder import Recorder
from aigateway.actors.recorder.spool import Spool, claim_spool
from aigateway.actors.values.records import InterceptionEnded, ModelThought, TokenUsage

PATIENCE = 20.0
CONTROL = "control-plane"

wait_until = partial(waiting.wait_until, patience=PATIENCE)


def thought(owner: str, text: str = "", **more: Any) -> ModelThought:
    return ModelThought(interception_id=owner, content=text, created_at=100.0, **more)


def tokens(owner: str, output: int = 1) -> TokenUsage:
    return TokenUsage(
        interception_id=owner, msg_id="m", input_tokens=1, output_tokens=output, created_at=100.0
    )


def end(owner: str) -> InterceptionEnded:
    return InterceptionEnded(id=owner, ended_at=100.0)


def text_of(spooled: Spooled) -> str:
    """What a record of these tests is known by."""
    record = spooled.record
    if isinstance(record, ModelThought):
        return f"{record.interception_id}:{record.content}"
    return f"{getattr(record, 'interception_id', None) or record.id}:{type(record).__name__}"  # type: ignore[union-attr]


class Plane(GatewayActor):
    """A control plane that keeps what it stores, and refuses what ``rule`` says.

    ``rule`` answers None for a record that is stored, else a reason; "away" and "wrong …" have
    their own meaning, "stall" is never answered, and "die" is what happens.
    """

    def __init__(
        self, role: str = CONTROL, watcher: Any = None, *, rule: Any = None, store: Any = None
    ) -> None:
        super().__init__(role, watcher)
        self.rule = rule or (lambda _record: None)
        self.stored: list[str] = [] if store is None else store

    def receive(self, message: Any) -> Any:
        match message:
            case Begin():
                complete(message.reply, Accepted())
            case StoreRecords():
                self._store(message)
            case "rule":
                return None
            case _ if callable(message):
                self.rule = message
        return None

    def _store(self, message: StoreRecords) -> None:
        done: list[int] = []
        retry: dict[int, str] = {}
        wrong: dict[int, str] = {}
        blocked: set[str] = set()
        away = False
        for spooled in message.records():
            owner = text_of(spooled).split(":")[0]
            answer = "" if owner in blocked else self.rule(spooled)
            if answer is None:
                self.stored.append(text_of(spooled))
                done.append(spooled.seq)
            elif answer == "die":
                raise RuntimeError("a record this control plane dies of")
            elif answer == "stall":
                blocked.add(owner)
            elif answer.startswith("wrong"):
                wrong[spooled.seq] = answer
            else:
                away = away or answer == "away"
                retry[spooled.seq] = answer
                blocked.add(owner)
        message.reply_to.tell(
            Stored(done=tuple(done), retry=retry, rejected=wrong, away=away, ticket=message.ticket)
        )


class KeepingPlane(Plane, KeepsRecords):
    """One whose database is a file of this machine."""


class House:
    """A recorder with its surroundings, taken down at the end of a test."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder
        self.tree = ActorTree()
        self.stored: list[str] = []
        self.deaths: list[BaseException | None] = []
        self._more = {"max_size": 1 << 30, "tick": 60.0, **more}
        self._refs: list[pykka.ActorRef[Any]] = []
        self.recorder: pykka.ActorRef[Recorder]

    def plane(self, rule: Any = None, kind: type[Plane] = Plane) -> pykka.ActorRef[Plane]:
        ref = kind.start(rule=rule, store=self.stored)
        self._refs.append(ref)
        self.tree.put(CONTROL, ref)
        return ref

    def start(self) -> pykka.ActorRef[Recorder]:
        self.recorder = Recorder.start(
            "recorder", self._died, tree=self.tree, folder=self.folder, **self._more
        )
        self._refs.append(self.recorder)
        self.tree.put("recorder", self.recorder)
        return self.recorder

    def _died(self, _actor: GatewayActor, error: BaseException | None) -> None:
        self.deaths.append(error)

    def append(self, *records: Any) -> None:
        """Append and wait until it is on disk."""
        reply = new_reply()
        self.recorder.tell(Append(records, reply))
        assert reply.get(timeout=PATIENCE) is True

    def wait_stored(self, *texts: str) -> None:
        wait_until(lambda: set(texts) <= set(self.stored), f"{texts} in {self.stored}")

    def close(self) -> None:
        for ref in reversed(self._refs):
            ref.stop(timeout=PATIENCE)


def spool_in(folder: Path) -> Spool:
    return claim_spool(folder)
