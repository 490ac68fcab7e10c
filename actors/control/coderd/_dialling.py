"""The thread that keeps a session with coderd: dial, live through it, dial again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import structlog
from attrs import frozen

from aigateway.actors.control.coderd._alarms import Alarms, Backoff
from aigateway.actors.control.coderd._channel import Channel
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd.dial import Dialer, DialError, UpgradeRefused
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.coderd.wire.rpc_client import RpcClient
from aigateway.actors.control.rpc_results import Run

__all__ = ["Connected", "Dialling", "Disconnected", "Fatal", "News", "DialFailed"]

log = structlog.get_logger("ai-gateway.coderd")

_STABLE_AFTER = 1.0
"""A session that ends sooner, and without one answer, is no reason to dial at once."""


@frozen
class Connected:
    """Calls may be made."""

    session: Session


@frozen
class Disconnected:
    """The session takes no more calls."""

    session: Session
    reason: str


@frozen
class DialFailed:
    """An attempt has failed; another one follows."""

    reason: str


@frozen
class Fatal:
    """An attempt has failed for good; no other follows."""

    reason: str


News: TypeAlias = Connected | Disconnected | DialFailed | Fatal


class Dialling:
    """Tells ``report``, in its own thread, what becomes of the connection."""

    def __init__(
        self,
        dialer: Dialer,
        new_client: Callable[[float], RpcClient],
        alarms: Alarms,
        run: Run,
        report: Callable[[News], None],
        *,
        name: str,
    ) -> None:
        self._dialer = dialer
        self._new_client = new_client
        self._alarms = alarms
        self._run_for_owner = run
        self._report = report
        self._name = name
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name}-dial", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Dial no more; the session, if there is one, goes on."""
        with self._lock:
            self._stopping.set()

    def hang_up(self) -> None:
        """End the session, if there is one, and dial no more.  Does not wait for it."""
        with self._lock:
            self._stopping.set()
            session = self._session
        if session is not None:
            session.close()

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.wait(backoff.next()):
            log.debug("dialing coderd")
            try:
                channel, version = self._dialer.dial()
            except DialError as ex:
                if ex.fatal:
                    self._report_fatal(ex)
                    return
                self._report_transient(ex)
            except Exception as ex:
                # Whatever it is, a gateway without coderd is worse.
                log.exception("dialing coderd failed")
                self._report(DialFailed(f"dial coderd: {ex!r}"))
            else:
                if self._live_through(channel, version):
                    backoff.reset()

    def _report_transient(self, ex: DialError) -> None:
        error = str(ex)
        if isinstance(ex, UpgradeRefused):
            error = f"unexpected HTTP response dialing coderd: {error}"
        log.warning("coderd client failed to dial", error=error)
        self._report(DialFailed(error))

    def _report_fatal(self, ex: DialError) -> None:
        error = f"dial coderd: {ex}"
        refusal = (
            {"status_code": ex.status, "url": ex.url} if isinstance(ex, UpgradeRefused) else {}
        )
        log.error("fatal error dialing coderd", error=error, **refusal)
        self._report(Fatal(error))

    def _live_through(self, channel: Channel, version: ApiVersion) -> bool:
        """Report a session's beginning and end; say whether to dial again at once."""
        ended = threading.Event()
        reasons = []

        def on_end(reason: str) -> None:
            reasons.append(reason)
            ended.set()

        began = time.monotonic()
        with self._lock:
            session = self._session = Session(
                channel,
                version,
                self._alarms,
                self._run_for_owner,
                on_end,
                client=self._new_client,
                name=self._name,
            )
            stopping = self._stopping.is_set()
        if stopping:
            session.close()
        log.info("successfully connected to coderd")
        self._report(Connected(session))
        ended.wait()
        tell = log.debug if self._stopping.is_set() else log.info
        tell("connection to coderd closed", context="aibridged.server", reason=reasons[0])
        self._report(Disconnected(session, reasons[0]))
        return session.answers > 0 or time.monotonic() - began > _STABLE_AFTER
