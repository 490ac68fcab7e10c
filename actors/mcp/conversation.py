"""What a session's threads do: whole conversations over a :class:`~.line.Line`, blocking.

Functions without state: all they know is passed in, all they find out is returned or raised
as an McpError.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from attrs import frozen

from aigateway.actors.mcp.answers import Notice, Notification
from aigateway.actors.mcp.definitions import (
    CallOutcome,
    ToolDefinition,
    read_call_result,
    read_tools_page,
)
from aigateway.actors.mcp.errors import DeadlinePassed, McpError, SessionLost, StreamCut
from aigateway.actors.mcp.line import Cutter, Line
from aigateway.actors.mcp.protocol import (
    LIST_CHANGED,
    ClientInfo,
    Dialogue,
    Negotiation,
    Outgoing,
)

__all__ = ["Changed", "Discovery", "ask", "discover", "listen", "send_quietly", "talk_about"]

MAX_PAGES = 100
MAX_TOOLS = 1000
"""Bounds of one server's list of tools.  Providers take some hundred tools in a request."""
PROBE = 3.0
"""Seconds for the question that only newer servers know: some older ones never answer it."""
DECLINE_WAIT = 5.0
"""Seconds for telling a server that what it asks for is not offered."""
RESUMES = 2
"""How often in a row a cut stream is asked for again without anything new coming of it."""
RESUME_PAUSE = 1.0
"""Seconds before that where the server names no time."""

Changed = Callable[[], None]
"""Called, in whatever thread reads, when the server says that its tools have changed."""


@frozen
class Discovery:
    """What was found out about a server."""

    dialogue: Dialogue
    tools: tuple[ToolDefinition, ...]
    problems: tuple[str, ...]


def discover(
    line: Line,
    dialogue: Dialogue | None,
    client: ClientInfo,
    ids: Iterator[int],
    deadline: float,
    changed: Changed,
    cutter: Cutter,
) -> Discovery:
    """List the server's tools, after opening a session where there is none any more."""
    if dialogue is not None:
        with contextlib.suppress(SessionLost):
            return _list_tools(line, dialogue, deadline, changed, cutter)
    dialogue = _negotiate(line, client, ids, deadline, cutter)
    return _list_tools(line, dialogue, deadline, changed, cutter)


def ask(
    line: Line,
    dialogue: Dialogue,
    outgoing: Outgoing,
    deadline: float,
    changed: Changed,
    cutter: Cutter,
) -> bytes:
    """Send a request and return its result as raw JSON.

    A stream that is cut before the answer is continued where the server can do that.
    """
    on_notice = talk_about(line, dialogue, deadline, changed)
    request, seen, failures = outgoing, "", 0
    while True:
        reader = request.reader(seen)
        line.perform(request, reader, deadline, on_notice=on_notice, cutter=cutter)
        try:
            return reader.result()
        except SessionLost as ex:
            if request is outgoing:
                raise
            # It was handled, and nobody will hear of it: it must not be sent again.
            raise StreamCut("the server lost the session before its answer") from ex
        except StreamCut as ex:
            failures = failures + 1 if ex.last_event_id == seen else 0
            again = dialogue.resume(outgoing, ex.last_event_id)
            if again is None or failures >= RESUMES:
                raise
            request, seen = again, ex.last_event_id
            pause = ex.retry or RESUME_PAUSE
        if time.monotonic() + pause >= deadline:
            raise DeadlinePassed("the server did not answer in time")
        time.sleep(pause)


def call(
    line: Line,
    dialogue: Dialogue,
    outgoing: Outgoing,
    deadline: float,
    changed: Changed,
    cutter: Cutter,
) -> CallOutcome:
    """Send a tools/call and return what the tool returned."""
    return read_call_result(ask(line, dialogue, outgoing, deadline, changed, cutter))


def listen(line: Line, dialogue: Dialogue, changed: Changed, cutter: Cutter) -> None:
    """Read the stream on which the server tells of changes, until it ends.

    Always raises: StreamCut, Unreachable or DeadlinePassed when it may be tried again.
    """
    outgoing = dialogue.listen()
    reader = outgoing.reader()
    on_notice = talk_about(line, dialogue, None, changed)
    line.perform(outgoing, reader, None, on_notice=on_notice, cutter=cutter)
    reader.result()
    raise StreamCut("the server ended the stream of changes")


def send_quietly(line: Line, outgoing: Outgoing | None, seconds: float) -> None:
    """Send something whose failure changes nothing."""
    if outgoing is None:
        return
    with contextlib.suppress(McpError):
        line.perform(outgoing, outgoing.reader(), time.monotonic() + seconds)


def talk_about(
    line: Line, dialogue: Dialogue, deadline: float | None, changed: Changed
) -> Callable[[Notice], None]:
    """What to do with what a server tells and asks beside an answer."""

    def on_notice(notice: Notice) -> None:
        if isinstance(notice, Notification):
            if notice.method == LIST_CHANGED:
                changed()
            return
        patience = DECLINE_WAIT
        if deadline is not None:
            patience = min(patience, deadline - time.monotonic())
        send_quietly(line, dialogue.decline(notice), patience)

    return on_notice


def _negotiate(
    line: Line, client: ClientInfo, ids: Iterator[int], deadline: float, cutter: Cutter
) -> Dialogue:
    negotiation = Negotiation(client, ids)
    step: Outgoing | Dialogue = negotiation.start()
    while not isinstance(step, Dialogue):
        reader = step.reader()
        limit = deadline
        if negotiation.probes:
            limit = min(deadline, time.monotonic() + PROBE)
        try:
            line.perform(step, reader, limit, cutter=cutter)
        except DeadlinePassed:
            if limit == deadline:
                raise
            step = negotiation.not_answered()
        else:
            step = negotiation.take(reader)
    return step


def _list_tools(
    line: Line, dialogue: Dialogue, deadline: float, changed: Changed, cutter: Cutter
) -> Discovery:
    tools: dict[str, ToolDefinition] = {}
    problems: list[str] = []
    cursors: set[str | None] = set()
    cursor: str | None = None
    while dialogue.has_tools:
        result = ask(line, dialogue, dialogue.list_tools(cursor), deadline, changed, cutter)
        page = read_tools_page(result, mirror_params=dialogue.stateless)
        problems += page.problems
        for tool in page.tools:
            if tool.name in tools:
                problems.append(f"tool {tool.name!r} is there twice, the later one is used")
            tools[tool.name] = tool
        cursors.add(cursor)
        cursor = page.next_cursor
        if cursor is None:
            break
        if cursor in cursors:
            problems.append("the list of tools goes round in a circle")
            break
        if len(cursors) >= MAX_PAGES or len(tools) >= MAX_TOOLS:
            problems.append(f"the list of tools is too long, {len(tools)} of them are used")
            break
    return Discovery(dialogue, tuple(tools.values())[:MAX_TOOLS], tuple(problems))
