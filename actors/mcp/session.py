"""The session actor: one user's use of one MCP server.

It decides, its threads talk: one that opens the session and lists the tools, one per running
call, one that listens for changes.  They touch nothing of the actor's and tell it how they
ended.  Calls run side by side up to a limit, the others wait in line; at its deadline a call
is answered, running or not, and its connection is cut.

A call that the server did not handle because it had forgotten the session is sent once more,
after a new session was opened.  One whose token the server refuses goes back to the owner.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pykka
import structlog
from attrs import evolve, frozen

from aigateway.actors.actor.base import GatewayActor, Watcher, tell_quietly
from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp import conversation
from aigateway.actors.mcp.calls import (
    CallQueue,
    Close,
    Connect,
    Listen,
    ListenerEnded,
    QueuedCall,
    SessionCall,
    SessionFailed,
    SessionTools,
    TokenRefused,
    not_handled,
)
from aigateway.actors.mcp.conversation import Discovery
from aigateway.actors.mcp.definitions import ParamHeader, ToolDefinition
from aigateway.actors.mcp.errors import (
    BadAnswer,
    DeadlinePassed,
    HttpRefused,
    McpError,
    RpcRefused,
    SessionLost,
    Unauthorized,
)
from aigateway.actors.mcp.line import KEEP_IDLE, Cutter, Line
from aigateway.actors.mcp.protocol import ClientInfo, Dialogue, Outgoing

__all__ = ["Listening", "McpSession"]

_FLOOR, _CEILING = 1.0, 60.0
"""Seconds before a stream that broke is opened again."""


class Listening:
    """Decides and does nothing: the session opens the streams."""

    def __init__(self) -> None:
        self.wanted = False
        self.again_at: float | None = None
        """When to open the next stream (monotonic time); None: at once, or never."""
        self._stream: Cutter | None = None
        self._pause = _FLOOR

    def open(self) -> Cutter | None:
        """Take note that a stream is opened now; None when it should not be."""
        if not self.wanted or self._stream is not None or self.again_at is not None:
            return None
        self._stream = Cutter()
        return self._stream

    def ended(self, error: McpError, lasted: float, now: float) -> bool:
        """The stream ended after ``lasted`` seconds; say whether there may be another one."""
        self._stream = None
        if not self.wanted or isinstance(error, RpcRefused | HttpRefused | BadAnswer):
            return False
        if lasted > _CEILING:
            self._pause = _FLOOR
        self.again_at = now + self._pause
        self._pause = min(self._pause * 2, _CEILING)
        return True

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next stream; once true, it may be opened."""
        if self.again_at is None or self.again_at > now:
            return False
        self.again_at = None
        return True

    def stop(self) -> None:
        """Want no stream any more, and cut the one there is."""
        self.wanted = False
        self.again_at = None
        if self._stream is not None:
            self._stream.cut()


DISCOVERY = 30.0
"""Seconds for opening a session and listing its tools."""
RELIST_PAUSE = 1.0
"""Seconds between two listings that the server asked for."""
CANCEL_WAIT = 3.0
"""Seconds for telling the server that nobody waits for a call any more."""
GOODBYE_WAIT = 2.0
"""Seconds for ending a session."""
_ENDED = "the session with the server ended"

log = structlog.get_logger("ai-gateway.mcp")


@frozen
class _Discovered:
    found: Discovery


@frozen
class _DiscoveryFailed:
    error: McpError


@frozen
class _CallEnded:
    job: QueuedCall
    lost: McpError | None
    """Set: the server did not handle it, and there is no reply yet."""


@frozen
class _ListChanged:
    pass


@frozen
class _ListenEnded:
    dialogue: Dialogue
    error: McpError
    lasted: float


@frozen
class _Due:
    pass


@frozen
class _Gone:
    pass


class McpSession(GatewayActor):
    """One user's session with one server.

    Tells its ``owner`` SessionTools, SessionFailed, TokenRefused and ListenerEnded.
    """

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        *,
        owner: pykka.ActorRef[Any],
        server: McpServer,
        line: Line,
        client: ClientInfo,
    ) -> None:
        super().__init__(role, watcher)
        self._owner = owner
        self._server = server
        self._line = line
        self._client = client
        self._ids = itertools.count(1)
        self._dialogue: Dialogue | None = None
        self._param_headers: dict[str, tuple[ParamHeader, ...]] = {}
        self._connecting: Cutter | None = None
        self._calls = CallQueue()
        self._listening = Listening()
        self._relist_at: float | None = None
        self._listed_at = 0.0
        self._timer: threading.Timer | None = None
        self._timer_at = 0.0
        self._closing = self._leaving = False

    def receive(self, message: object) -> None:
        match message:
            case SessionCall():
                self._take_call(message)
            case _CallEnded():
                self._call_ended(message)
            case Connect():
                self._connect()
            case _Discovered():
                self._discovered(message.found)
            case _DiscoveryFailed():
                self._discovery_failed(message.error)
            case _ListChanged():
                self._relist_at = max(time.monotonic(), self._listed_at + RELIST_PAUSE)
            case Listen():
                self._listening.wanted = True
                self._listen()
            case _ListenEnded():
                self._listen_ended(message)
            case Close():
                self._close()
            case _Due():
                self._timer = None
            case _Gone():
                self.stop()
                return
            case _:
                raise TypeError(f"{self.role}: unknown message {type(message).__name__}")
        self._look_at_the_clock()
        if self._closing:
            self._leave_when_done()

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._listening.stop()
        if self._connecting is not None:
            self._connecting.cut()
        self._calls.give_up(_ENDED)
        self._line.close()

    # -- opening and listing

    def _connect(self) -> None:
        if self._connecting is not None or self._closing:
            return
        self._relist_at = None
        cutter = self._connecting = Cutter()
        self._thread(self._discover_in_thread, self._dialogue, cutter)

    def _discover_in_thread(self, dialogue: Dialogue | None, cutter: Cutter) -> None:
        deadline = time.monotonic() + DISCOVERY
        try:
            found = conversation.discover(
                self._line, dialogue, self._client, self._ids, deadline, self._changed, cutter
            )
        except Exception as ex:
            self._tell(_DiscoveryFailed(self._as_error(ex)))
        else:
            self._tell(_Discovered(found))

    def _discovered(self, found: Discovery) -> None:
        self._connecting = None
        self._dialogue = found.dialogue
        self._param_headers = {t.name: t.param_headers for t in found.tools if t.param_headers}
        self._listed_at = time.monotonic()
        self._tell_owner(
            SessionTools(
                self.actor_urn, found.tools, found.problems, found.dialogue.announces_changes
            )
        )
        self._listen()
        self._dispatch()

    def _discovery_failed(self, error: McpError) -> None:
        self._connecting = None
        self._dialogue = None
        self._calls.give_up_waiting(str(error))
        self._tell_owner(SessionFailed(self.actor_urn, str(error)))

    def _changed(self) -> None:
        # In the thread that reads.
        self._tell(_ListChanged())

    # -- calls

    def _take_call(self, call: SessionCall) -> None:
        job = QueuedCall(call, self._server)
        if self._closing:
            job.fail(_ENDED)
        else:
            self._calls.add(job)
            self._dispatch()

    def _dispatch(self) -> None:
        """Send waiting calls as far as there is room."""
        while (job := self._calls.first) is not None:
            dialogue = self._dialogue
            if dialogue is None:
                if self._closing:
                    self._calls.give_up_waiting(_ENDED)
                else:
                    self._connect()
                return
            if job.retried and self._connecting is not None:
                return
            self._calls.run(job, dialogue)
            # What the server said last: a call may be sent again because of it.
            headers = self._param_headers.get(job.call.tool.name, ())
            tool = evolve(job.call.tool, param_headers=headers)
            self._thread(self._call_in_thread, job, dialogue, tool)

    def _call_in_thread(self, job: QueuedCall, dialogue: Dialogue, tool: ToolDefinition) -> None:
        call, lost = job.call, None
        request: Outgoing | None = None
        try:
            request = dialogue.call_tool(tool, call.arguments)
            outcome = conversation.call(
                self._line, dialogue, request, call.deadline, self._changed, job.cutter
            )
            job.succeed(outcome)
        except Exception as ex:
            error = self._as_error(ex)
            if not_handled(error) and not job.cutter.is_cut:
                lost = error
            elif isinstance(error, Unauthorized) and not job.cutter.is_cut:
                # The owner may have a newer token, for another session.
                token, failure = self._server.token, job.failure(str(error))
                self._tell_owner(TokenRefused(self.actor_urn, call, token, failure))
            else:
                job.fail(str(error))
            late = job.cutter.is_cut or isinstance(error, DeadlinePassed)
            if late and request is not None:
                cancel = dialogue.cancel(request, "nobody waits for the result any more")
                conversation.send_quietly(self._line, cancel, CANCEL_WAIT)
        self._tell(_CallEnded(job, lost))

    def _call_ended(self, message: _CallEnded) -> None:
        job, lost = message.job, message.lost
        self._calls.end(job)
        if lost is not None:
            if job.retried or self._closing:
                job.fail(str(lost))
            else:
                self._calls.again(job)
                if isinstance(lost, SessionLost) and self._dialogue is job.dialogue:
                    self._dialogue = None
                self._connect()
        self._dispatch()

    # -- the stream of changes

    def _listen(self) -> None:
        """Open the stream if that is wanted, possible and due."""
        dialogue = self._dialogue
        if dialogue is None or self._closing or not self._listening.wanted:
            return
        if not dialogue.announces_changes:
            self._give_up_listening()
            return
        cutter = self._listening.open()
        if cutter is not None:
            self._thread(self._listen_in_thread, dialogue, cutter)

    def _listen_in_thread(self, dialogue: Dialogue, cutter: Cutter) -> None:
        begun = time.monotonic()
        try:
            conversation.listen(self._line, dialogue, self._changed, cutter)
        except Exception as ex:
            self._tell(_ListenEnded(dialogue, self._as_error(ex), time.monotonic() - begun))

    def _listen_ended(self, message: _ListenEnded) -> None:
        if isinstance(message.error, SessionLost) and self._dialogue is message.dialogue:
            self._dialogue = None
        may_go_on = self._listening.ended(message.error, message.lasted, time.monotonic())
        if self._listening.wanted and not may_go_on:
            self._give_up_listening()

    def _give_up_listening(self) -> None:
        self._listening.stop()
        self._tell_owner(ListenerEnded(self.actor_urn))

    # -- time

    def _look_at_the_clock(self) -> None:
        """Do what is due, and set the timer for what comes next."""
        now = time.monotonic()
        self._calls.cut_late(now)
        if self._closing:
            self._relist_at = None
        if self._listening.is_due(now):
            # What was told while nobody listened is lost, so look at the list itself.
            self._relist_at = now
            self._listen()
        if self._relist_at is not None and self._relist_at <= now and self._connecting is None:
            self._connect()
        times = list(self._calls.deadlines())
        if self._listening.again_at is not None:
            times.append(self._listening.again_at)
        if self._relist_at is not None and self._connecting is None:
            times.append(self._relist_at)
        idle = self._line.close_idle(KEEP_IDLE)
        if idle is not None:
            times.append(idle)
        if times:
            self._wake_at(min(times), now)

    def _wake_at(self, at: float, now: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.later(max(0.0, at - now), _Due())

    # -- the end

    def _close(self) -> None:
        self._closing = True
        self._listening.stop()
        if self._connecting is not None and not self._calls:
            self._connecting.cut()

    def _leave_when_done(self) -> None:
        if self._calls or self._connecting is not None or self._leaving:
            return
        self._leaving = True
        dialogue, self._dialogue = self._dialogue, None
        goodbye = dialogue.goodbye() if dialogue is not None else None
        if goodbye is None:
            self.stop()
        else:
            self._thread(self._goodbye_in_thread, goodbye)

    def _goodbye_in_thread(self, goodbye: Outgoing) -> None:
        conversation.send_quietly(self._line, goodbye, GOODBYE_WAIT)
        self._tell(_Gone())

    # -- threads

    def _thread(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, name=self.role, daemon=True).start()

    def _tell(self, message: object) -> None:
        tell_quietly(self.actor_ref, message)

    def _tell_owner(self, message: object) -> None:
        tell_quietly(self._owner, message)

    def _as_error(self, error: Exception) -> McpError:
        """Any exception of a thread as one of ours; those are all that should come."""
        if isinstance(error, McpError):
            return error
        log.error("mcp session failed", server=self._server.id, exc_info=error)
        return McpError(f"the gateway failed: {type(error).__name__}")
