"""A connection actor for tests, in front of a coderd for tests."""

from __future__ import annotations

import itertools
import queue
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import pykka
from waiting import wait_until

from aigateway.actors.actor.base import Reply, new_reply
from aigateway.actors.control.coderd.connection import CoderdConnection, ConnectionSettings
from aigateway.actors.control.coderd.dial import DialSettings
from aigateway.actors.control.marks import PARCEL_BITS, Marks
from aigateway.actors.control.messages import (
    Authorize,
    Begin,
    GetMcpConfiguration,
    GetStatus,
    ProvidersChanged,
    Spooled,
    Status,
    Stored,
    StoreRecords,
    SubscribeProviders,
)
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    PromptUsage,
    UsageRecord,
)

__all__ = ["Mailbox", "Talk", "eventually", "interception", "prompt"]

PATIENCE = 10.0
_parcels = itertools.count(1_000_000)


def eventually(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    """Wait for a condition that nothing can be waited on for."""
    wait_until(condition, "what the test waits for", timeout)


class Mailbox(pykka.ThreadingActor):
    """Keeps what it is told."""

    use_daemon_thread = True

    def __init__(self, box: queue.Queue[Any]) -> None:
        super().__init__()
        self._box = box

    def on_receive(self, message: Any) -> None:
        self._box.put(message)


class Deployment(Protocol):
    """Anything that a gateway can dial."""

    @property
    def url(self) -> str: ...


D = TypeVar("D", bound=Deployment)


class Talk(Generic[D]):
    """Starts a connection actor and asks it what a gateway asks."""

    def __init__(
        self,
        coderd: D,
        *,
        dial: dict[str, Any] | None = None,
        connect: bool = True,
        actor: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.coderd = coderd
        self.fatal: queue.Queue[str] = queue.Queue()
        values = {"url": coderd.url, "key": "gateway-key", "proxy": "", **(dial or {})}
        self.settings = ConnectionSettings(dial=DialSettings(**values), **settings)
        # Without providers of its own the actor also loads and watches coderd's.
        options = {"providers": (), "on_fatal": self.fatal.put, **(actor or {})}
        self.ref = CoderdConnection.start("control-plane", None, self.settings, **options)
        self._mailboxes: list[pykka.ActorRef[Any]] = []
        self.box: queue.Queue[Any] = queue.Queue()
        self.mailbox = self.new_mailbox(self.box)
        self.marks = Marks()
        if connect:
            self.wait_connected()

    def __enter__(self) -> Talk[D]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        for mailbox in self._mailboxes:
            mailbox.stop()

    def stop(self) -> None:
        if self.ref.is_alive():
            self.ref.stop()

    def new_mailbox(self, box: queue.Queue[Any]) -> pykka.ActorRef[Any]:
        mailbox = Mailbox.start(box)
        self._mailboxes.append(mailbox)
        return mailbox

    # -- asking

    def status(self) -> Status:
        status: Status = self.ref.ask(GetStatus(), timeout=PATIENCE)
        return status

    def wait_connected(self, connected: bool = True) -> None:
        eventually(lambda: self.status().connected is connected)

    def begin_authorize(self, token: str, provider: str = "", model: str = "") -> Reply[Any]:
        reply = new_reply()
        self.ref.tell(Authorize(token, reply, provider, model))
        return reply

    def authorize(self, token: str, provider: str = "", model: str = "") -> Any:
        return self.begin_authorize(token, provider, model).get(timeout=PATIENCE)

    def begin_interception(self, record: InterceptionBegun) -> Reply[Any]:
        reply = new_reply()
        self.ref.tell(Begin(record, reply))
        return reply

    def start_interception(self, record: InterceptionBegun) -> Any:
        return self.begin_interception(record).get(timeout=PATIENCE)

    def mcp(self, user_id: str, token: str = "") -> Any:
        reply = new_reply()
        self.ref.tell(GetMcpConfiguration(user_id, token, reply))
        return reply.get(timeout=PATIENCE)

    def send(self, records: Iterable[UsageRecord | InterceptionEnded]) -> tuple[int, ...]:
        """Hand over a parcel of each interception; return the records' numbers."""
        parcels: dict[str, list[Spooled]] = {}
        seqs = []
        for record in records:
            owner = record.id if isinstance(record, InterceptionEnded) else record.interception_id
            parcel = parcels.setdefault(owner, [])
            seq = parcel[-1].seq + 1 if parcel else next(_parcels) << PARCEL_BITS
            parcel.append(Spooled(seq, record))
            seqs.append(seq)
        self.ref.tell(StoreRecords(tuple(map(tuple, parcels.values())), self.mailbox, self.marks))
        return tuple(seqs)

    def reports(self, seqs: Iterable[int]) -> Stored:
        """What became of these records, of however many reports."""
        missing = set(seqs)
        done: list[int] = []
        retry: dict[int, str] = {}
        rejected: dict[int, str] = {}
        away = False
        while missing:
            report = self.box.get(timeout=PATIENCE)
            assert isinstance(report, Stored)
            done += report.done
            retry.update(report.retry)
            rejected.update(report.rejected)
            away = away or report.away
            missing -= {*report.done, *report.retry, *report.rejected}
        return Stored(tuple(done), retry, rejected, away)

    def store(self, *records: UsageRecord | InterceptionEnded) -> Stored:
        return self.reports(self.send(records))

    def subscribe(self) -> queue.Queue[ProvidersChanged]:
        box: queue.Queue[ProvidersChanged] = queue.Queue()
        self.ref.tell(SubscribeProviders(self.new_mailbox(box)))
        return box


def interception(**changes: Any) -> InterceptionBegun:
    values = {
        "id": str(uuid.uuid4()),
        "initiator_id": str(uuid.uuid4()),
        "username": "alice",
        "api_key_id": "tok",
        "provider": "anthropic",
        "provider_name": "anthropic-eu",
        "model": "claude",
        "client": "Claude Code",
        "user_agent": "claude-cli/2.0",
        "started_at": 1767225600.25,
        **changes,
    }
    return InterceptionBegun(**values)


def prompt(owner: str, text: str = "hello") -> PromptUsage:
    return PromptUsage(interception_id=owner, msg_id="m", prompt=text, created_at=1767225600.25)
