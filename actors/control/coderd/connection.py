"""The control plane of a real Coder deployment.

Theory of operation
===================

:class:`CoderdConnection` answers every message of
:mod:`~aigateway.actors.control.messages` by calling coderd, and waits for nothing itself.
A thread of its own dials, and dials again when the session has ended; the session has its
threads for reading and writing; one more rings alarms.  Whatever they find out comes to the
actor as a message, so its state is touched by its own thread only.

What a request asks while coderd is away waits for it, within bounds in time and number; what
was on its way when the connection broke is asked again.  Records do not wait here: they go
back to the recorder, which has them on disk.

coderd's "no" and "coderd is away" are kept apart: the first is :class:`Denied`, all else is
:class:`Unavailable`, and nothing but coderd's own "yes" lets anybody in.

When the actor ends, records may be in the air: coderd has them, perhaps, and its answer is on
its way.  The session lives on until they are answered, and the reader of the answer tells what
became of them, in its own thread and one at a time.

A refused gateway key (and whatever else will not change by asking again) is fatal: it is
told to ``on_fatal`` in the dialling thread, shows in :class:`Status`, and everything that
waits is answered with it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from attrs import field

from aigateway.actors.actor.base import (
    ActorDied,
    AlreadySet,
    GatewayActor,
    Question,
    Watcher,
    complete,
    fail,
    tell_quietly,
)
from aigateway.actors.control.call_counters import CallCounters
from aigateway.actors.control.coderd._alarms import Alarms
from aigateway.actors.control.coderd._authorizing import Authorizing, coderd_away
from aigateway.actors.control.coderd._calls import Calls
from aigateway.actors.control.coderd._dialling import (
    Connected,
    DialFailed,
    Dialling,
    Disconnected,
    Fatal,
    News,
)
from aigateway.actors.control.coderd._mcp_servers import McpServers
from aigateway.actors.control.coderd._provider_feed import Finish, ProviderFeed
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd._storing import Storing
from aigateway.actors.control.coderd.dial import Dialer, DialSettings
from aigateway.actors.control.coderd.wire import yamux
from aigateway.actors.control.coderd.wire.rpc_client import RpcClient
from aigateway.actors.control.messages import (
    Authorize,
    Begin,
    CallStats,
    GetCallStats,
    GetMcpConfiguration,
    GetStatus,
    Status,
    StoreRecords,
    SubscribeProviders,
)
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["CoderdConnection", "ConnectionSettings"]

_RELEASE_ALARMS_AFTER = 3.0
"""Seconds; longer than a session waits for its goodbye to get through."""


_FLUSH_AFTER = 32
"""Messages after which calls are sent in any case, though more messages wait."""


@frozen(kw_only=True)
class ConnectionSettings:
    """How to talk to coderd.  Times in seconds."""

    dial: DialSettings
    stream_reuse: bool = True
    """Use a stream for many calls, one after the other, instead of one per call."""
    pipeline_depth: int = 1
    """Unfinished calls per stream once all streams are busy.  coderd cancels all but the last,
    so leave it at 1 unless the other side is known to be none."""
    max_streams: int = 256
    max_waiting: int = 1000
    """Requests that may wait while coderd is away."""
    max_wait: float = 60.0
    call_timeout: float = 10.0
    record_timeout: float = 45.0
    """Nobody waits for a record, and one that is sent again may be stored twice.  So this is
    longer than it takes to notice that coderd is silent (``limits``: 30 + 10)."""
    parallel_records: int = 32
    """Interceptions whose records are on their way at once."""
    limits: yamux.Limits = field(factory=yamux.Limits)


@frozen
class _Run:
    """To itself: something that another thread wants done."""

    action: Callable[[], None]
    lock: threading.RLock = field(factory=threading.RLock, repr=False)

    @property
    def reply(self) -> _Run:
        """For :class:`~aigateway.actors.actor.base.GatewayActor`, which tells it of a message that
        nobody takes any more."""
        return self

    def set_error(self, _error: BaseException) -> None:
        with self.lock:
            self.action()


T = TypeVar("T")

_Request: TypeAlias = Authorize | Begin | GetMcpConfiguration


def _as_they_are(providers: tuple[ProviderConfig, ...]) -> tuple[ProviderConfig, ...]:
    return providers


class CoderdConnection(GatewayActor):
    """A connection to coderd, kept up for as long as the actor lives.

    ``providers`` replaces coderd's providers; ``finish_providers`` applies the gateway's
    settings to those that coderd has.  ``on_fatal`` and ``on_connected`` are called in the
    dialling thread.
    """

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        settings: ConnectionSettings,
        *,
        providers: tuple[ProviderConfig, ...] | None = None,
        finish_providers: Finish = _as_they_are,
        on_fatal: Callable[[str], None] | None = None,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(role, watcher)
        self._settings = settings
        self._on_fatal = on_fatal
        self._on_connected = on_connected
        self._open: dict[int, _Request] = {}
        self._last_words = threading.RLock()
        """Held by who acts in the place of the actor, or ends it."""
        self._unflushed = 0
        self._session: Session | None = None
        self._detail = "dialling"
        self._fatal: str | None = None
        self._alarms = Alarms(f"{role}-alarms")
        self._dialling = Dialling(
            Dialer(settings.dial),
            self._new_client,
            self._alarms,
            self._run,
            self._report,
            name=role,
        )
        self._counters = CallCounters()
        self._calls = Calls(self._run, self._alarms, self._counters, max_wait=settings.max_wait)
        self._authorizing = Authorizing(self._calls, self._answer, settings.call_timeout)
        self._mcp_servers = McpServers(self._calls, self._answer, settings.call_timeout)
        self._storing = Storing(
            self._calls,
            self._answer,
            self._run,
            self._later,
            timeout=settings.record_timeout,
            start_timeout=settings.call_timeout,
            parallel=settings.parallel_records,
        )
        self._feed = ProviderFeed(
            self._run,
            self._alarms,
            self._counters,
            fixed=providers,
            finish=finish_providers,
            timeout=settings.call_timeout,
        )

    # -- life

    def started(self) -> None:
        # Threads belong to the process that the actor runs in, so not before it runs.
        self._alarms.start()
        self._dialling.start()

    def release(self) -> None:
        reason = f"{self.role} stopped"
        with self._last_words:
            self._dialling.stop()
            if self._session is not None:
                # What was begun in the last moment, and is marked as sent.
                self._session.flush()
            for message in self._open.values():
                fail(message.reply, ActorDied(reason))
            self._open.clear()
            self._calls.give_up(reason)
            self._storing.release(reason, self._let_go, died=self._died_of is not None)

    def _let_go(self) -> None:
        """Nothing is in the air any more."""
        self._dialling.hang_up()
        self._alarms.at(time.monotonic() + _RELEASE_ALARMS_AFTER, self._alarms.stop)

    # -- messages

    def handled(self) -> None:
        self._unflushed += 1
        # PERF: what is asked of coderd leaves in one message with what those ask who wait here.
        if self.actor_inbox.empty() or self._unflushed >= _FLUSH_AFTER:
            self._unflushed = 0
            self._storing.tell()
            if self._session is not None:
                self._session.flush_pressing()

    def receive(self, message: object) -> object:
        match message:
            case _Run():
                message.action()
            case Authorize():
                if self._admit(message):
                    self._authorizing.authorize(message)
            case Begin():
                if self._admit(message):
                    self._storing.begin(message)
            case StoreRecords():
                self._storing.store(message)
            case GetMcpConfiguration():
                if self._admit(message):
                    self._mcp_servers.look_up(message)
            case SubscribeProviders():
                self._feed.subscribe(message.subscriber)
            case GetCallStats():
                waiting = len(self._open) if self._session is None else 0
                return CallStats(waiting=waiting, times=self._counters.copy())
            case GetStatus():
                connected = self._session is not None
                return Status(
                    connected=connected,
                    detail=self._detail,
                    fatal=self._fatal,
                    providers_tried_at=self._feed.tried_at,
                    providers_loaded_at=self._feed.loaded_at,
                )
            case _:
                raise TypeError(f"{self.role}: unknown message {type(message).__name__}")
        return None

    def _admit(self, message: _Request) -> bool:
        """Whether a request may begin; one too many is answered."""
        if self._session is None and len(self._open) >= self._settings.max_waiting:
            text = f"{self._settings.max_waiting} requests wait for coderd: {self._detail}"
            with contextlib.suppress(AlreadySet):
                message.reply.set(coderd_away(text))
            return False
        self._open[id(message.reply)] = message
        return True

    def _answer(self, message: Question[T], answer: T) -> None:
        self._open.pop(id(message.reply), None)
        complete(message.reply, answer)

    def _run(self, action: Callable[[], None]) -> None:
        """Have something done in the actor's thread; from any thread.

        After its end it is done here and now, since records may still be in the air.
        """
        if not tell_quietly(self.actor_ref, _Run(action, self._last_words)):
            with self._last_words:
                action()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done in the actor's thread after so many seconds."""
        self._alarms.at(time.monotonic() + seconds, lambda: self._run(action))

    # -- what the dialling thread reports, in that thread

    def _report(self, news: News) -> None:
        self._run(lambda: self._heard(news))
        if isinstance(news, Connected) and self._on_connected is not None:
            self._on_connected()
        if isinstance(news, Fatal) and self._on_fatal is not None:
            self._on_fatal(news.reason)

    # -- and in the actor's

    def _heard(self, news: News) -> None:
        if isinstance(news, Connected):
            self._session = news.session
            address = self._settings.dial.address
            self._detail = f"connected to {address}, API {news.session.version}"
            self._calls.connected(news.session)
            self._feed.connected(news.session)
        elif isinstance(news, Disconnected):
            self._session = None
            # It may be leaving only, and answer what it was asked in this turn.
            news.session.flush()
            self._detail = f"connection lost: {news.reason}"
            self._calls.disconnected(news.session, news.reason)
        elif isinstance(news, DialFailed):
            self._detail = news.reason
            self._calls.unreachable(news.reason)
        else:
            self._fatal = self._detail = news.reason
            self._calls.give_up(news.reason)

    def _new_client(self, now: float) -> RpcClient:
        settings = self._settings
        return RpcClient(
            now,
            reuse=settings.stream_reuse,
            depth=settings.pipeline_depth,
            max_streams=settings.max_streams,
            limits=settings.limits,
        )
