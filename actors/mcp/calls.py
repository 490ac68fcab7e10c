"""What a session actor is told and tells its owner, and the calls that it has in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from attrs import define, field, frozen

from aigateway.actors.actor.base import Reply, complete
from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp.definitions import CallOutcome, ToolDefinition
from aigateway.actors.mcp.errors import McpError, RpcRefused, SessionLost
from aigateway.actors.mcp.line import Cutter
from aigateway.actors.mcp.messages import CallTool
from aigateway.actors.mcp.protocol import HEADER_MISMATCH, Dialogue
from aigateway.actors.values.tools import ToolResult

__all__ = [
    "CALLERS",
    "QUEUE",
    "SessionCall",
    "CallQueue",
    "Close",
    "Connect",
    "QueuedCall",
    "Listen",
    "ListenerEnded",
    "SessionFailed",
    "SessionTools",
    "TokenRefused",
    "not_handled",
]


@frozen
class Connect:
    """List the tools, after opening the session if need be; the owner is told the outcome."""


@frozen
class Listen:
    """Keep a stream open on which the server tells of changes to its tools."""


@frozen
class Close:
    """Take no more calls, finish those that are there, end the session and stop."""


@frozen
class SessionCall:
    """Run a tool.  Replies ToolResult at ``deadline`` (monotonic time) at the latest."""

    tool: ToolDefinition
    arguments: bytes = field(repr=False)
    deadline: float
    reply: Reply[ToolResult] = field(repr=False, eq=False)
    asked: CallTool | None = None
    """What it was made of."""
    repeated: bool = False
    """It was sent with another token before."""


@frozen
class SessionTools:
    """Told to the owner: these are the tools now."""

    urn: str
    tools: tuple[ToolDefinition, ...]
    problems: tuple[str, ...]
    announces_changes: bool


@frozen
class SessionFailed:
    """Told to the owner: the server cannot be used."""

    urn: str
    message: str


@frozen
class TokenRefused:
    """Told to the owner: the server did not take the token for a call, which has no reply yet
    and is the owner's now."""

    urn: str
    call: SessionCall
    token: str = field(repr=False)
    failure: ToolResult
    """What is replied when there is no other token."""


@frozen
class ListenerEnded:
    """Told to the owner: no stream of changes is kept any more."""

    urn: str


CALLERS = 4
"""Calls of one user that one server gets at a time."""
QUEUE = 64
"""Calls that may wait for that."""


@define(eq=False)
class QueuedCall:
    """A call on its way."""

    call: SessionCall
    server: McpServer = field(repr=False)
    cutter: Cutter = field(factory=Cutter)
    dialogue: Dialogue | None = None
    """With what it was sent."""
    retried: bool = False

    def succeed(self, outcome: CallOutcome) -> None:
        """Reply what the tool returned, unless there is a reply."""
        result = ToolResult(
            tool=self.call.tool.name,
            server_id=self.server.id,
            server_url=self.server.url,
            content=outcome.content,
            structured_content=outcome.structured_content,
            is_error=outcome.is_error,
        )
        complete(self.call.reply, result)

    def failure(self, text: str) -> ToolResult:
        """The result when nothing came of it."""
        return ToolResult(
            tool=self.call.tool.name,
            server_id=self.server.id,
            server_url=self.server.url,
            is_error=True,
            transport_error=text,
        )

    def fail(self, text: str) -> None:
        """Reply that nothing came of it, unless there is a reply."""
        complete(self.call.reply, self.failure(text))


class CallQueue:
    """First come, first served, ``CALLERS`` at a time."""

    def __init__(self) -> None:
        self._waiting: deque[QueuedCall] = deque()
        self._running: list[QueuedCall] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def first(self) -> QueuedCall | None:
        """The one to run next, if there is room for it."""
        return self._waiting[0] if self._waiting and len(self._running) < CALLERS else None

    def add(self, job: QueuedCall) -> None:
        """Put it last in the line; it fails at once when the line is too long."""
        if len(self._waiting) >= QUEUE:
            job.fail("too many calls wait for the server")
        else:
            self._waiting.append(job)

    def run(self, job: QueuedCall, dialogue: Dialogue) -> None:
        """Take note that the first one is sent now."""
        self._waiting.remove(job)
        job.dialogue = dialogue
        self._running.append(job)

    def end(self, job: QueuedCall) -> None:
        self._running.remove(job)

    def again(self, job: QueuedCall) -> None:
        """Put one that was sent in vain first in the line."""
        job.retried = True
        self._waiting.appendleft(job)

    def give_up_waiting(self, text: str) -> None:
        while self._waiting:
            self._waiting.popleft().fail(text)

    def give_up(self, text: str) -> None:
        """Cut and answer everything."""
        for job in (*self._waiting, *self._running):
            job.fail(text)
            job.cutter.cut()

    def cut_late(self, now: float) -> None:
        """Answer those whose deadline has passed.  A thread may take a while to notice."""
        for job in list(self._open()):
            if job.call.deadline <= now:
                job.fail("the server did not answer in time")
                job.cutter.cut()
                if job in self._waiting:
                    self._waiting.remove(job)

    def deadlines(self) -> Iterator[float]:
        """When each of those that have no reply yet must have one."""
        return (job.call.deadline for job in self._open())

    def _open(self) -> Iterator[QueuedCall]:
        return (job for job in (*self._waiting, *self._running) if not job.cutter.is_cut)


def not_handled(error: McpError) -> bool:
    """Whether a server says that it did not even look at a call, for a reason that passes."""
    if isinstance(error, RpcRefused):
        return error.code == HEADER_MISMATCH
    return isinstance(error, SessionLost)
