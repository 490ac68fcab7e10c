"""The McpTools actor: which tools a user has, and who runs them.

A set of tools is loaded when it is asked for the first time: the control plane says which
servers there are, each gets a session actor, and all are asked at once.  One load answers
everybody who asked meanwhile.  Towards the end of its time a set is loaded again in the
background, while the old one is still given out; servers that failed are tried again much
sooner.  Nothing here waits: sessions and the control plane tell when they know.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import pykka
import structlog
from attrs import evolve, frozen

from aigateway.actors.actor.base import GatewayActor, Reply, Watcher, complete, fail, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import (
    GetMcpConfiguration,
    McpConfiguration,
    McpServer,
    Unavailable,
)
from aigateway.actors.mcp.calls import (
    ListenerEnded,
    SessionCall,
    SessionFailed,
    SessionTools,
    TokenRefused,
)
from aigateway.actors.mcp.errors import McpError
from aigateway.actors.mcp.messages import (
    CallTool,
    GetMcpState,
    GetTools,
    LeftOut,
    McpLimits,
    McpState,
)
from aigateway.actors.mcp.shelf import ToolShelf, ToolTroubles, UserKey, user_key
from aigateway.actors.mcp.toolbox import KnownServer, SessionPool, Shared, Users, UserTools, Waiting
from aigateway.actors.values.tools import ServerProblem, ToolResult

__all__ = [
    "Configured",
    "LoadIsDue",
    "McpTools",
    "ResultReply",
    "SessionOver",
    "Sweep",
    "TellingReply",
]


T = TypeVar("T")


@frozen
class Configured:
    key: UserKey
    load: int
    answer: McpConfiguration | Unavailable | BaseException


@frozen
class LoadIsDue:
    """The load that began first may have taken all of its time."""


@frozen
class SessionOver:
    urn: str
    error: BaseException | None


@frozen
class Sweep:
    pass


class TellingReply(Reply[T]):
    """Calls ``told`` with the answer, or with the exception that came instead."""

    def __init__(self, told: Callable[[T | BaseException], None]) -> None:
        super().__init__()
        self._told = told

    def set(self, value: T) -> None:
        super().set(value)
        self._told(value)

    def set_error(self, error: BaseException) -> None:
        super().set_error(error)
        self._told(error)


class ResultReply(Reply[ToolResult]):
    """Hands a session's answer on, and makes a result of the session's death."""

    def __init__(self, reply: Reply[ToolResult], server: McpServer, tool: str) -> None:
        super().__init__()
        self._reply, self._server, self._tool = reply, server, tool

    def set(self, value: ToolResult) -> None:
        super().set(value)
        complete(self._reply, value)

    def set_error(self, error: BaseException) -> None:
        super().set_error(error)
        result = ToolResult(
            tool=self._tool,
            server_id=self._server.id,
            server_url=self._server.url,
            is_error=True,
            transport_error="the session with the server ended",
        )
        complete(self._reply, result)


SWEEP_EVERY = 60.0
"""Seconds between looks for users who have gone."""

NOBODY_FOR = 10.0
"""Seconds for which nobody else is looked up once it is known that no user has any server."""

log = structlog.get_logger("ai-gateway.mcp")


class McpTools(GatewayActor):
    """Finds the control plane in ``tree``.  ``proxy_for`` names the HTTP proxy to a URL.

    What needs no question is on ``shelf``; ``clock`` is the shelf's.  Tools that cannot be
    offered are noted in ``troubles``.
    """

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        *,
        tree: ActorTree,
        ca_file: str = "",
        proxy_for: Callable[[str], str] = lambda _url: "",
        limits: McpLimits | None = None,
        shelf: ToolShelf | None = None,
        troubles: ToolTroubles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(role, watcher)
        self._tree = tree
        self._limits = limits or McpLimits()
        self._clock = clock
        self._shelf = shelf or ToolShelf()
        self._troubles = troubles or ToolTroubles()
        self._too_late = f"no answer within {self._limits.tools_wait:g} s"
        self._sessions = SessionPool(
            role,
            self.actor_ref,
            self._watch_session,
            connect_timeout=self._limits.connect_timeout,
            listeners=self._limits.listeners,
            ca_file=ca_file,
            proxy_for=proxy_for,
        )
        self._users = Users(self._limits.users)
        self._shared = Shared()
        self._loads = itertools.count(1)
        self._due: deque[tuple[float, UserKey, int]] = deque()
        """When loads are given up, by user and number; in that order, since all have the same time.
        Some may have ended.

        PERF: one timer for all.  One for each user costs more than all else that is done here for
        a user without servers."""
        self._timer: threading.Timer | None = None
        self._sweeper: threading.Timer | None = None

    def started(self) -> None:
        # There may be sets of a predecessor, whose sessions are gone.
        self._shelf.clear()
        self._schedule_sweep()

    def receive(self, message: object) -> object:
        match message:
            case GetTools():
                self._get_tools(message)
            case CallTool():
                self._call_tool(message)
            case Configured():
                self._configured(message)
            case SessionTools():
                self._session_tools(message)
            case SessionFailed():
                place = self._sessions.find(message.urn)
                if place is not None:
                    self._server_failed(*place, message.message)
            case TokenRefused():
                self._token_refused(message)
            case ListenerEnded():
                self._sessions.listens_no_more(message.urn)
            case LoadIsDue():
                self._timer = None
                self._give_up_loads()
            case SessionOver():
                self._session_ended(message)
            case Sweep():
                self._sweep()
            case GetMcpState():
                return McpState(
                    len(self._users),
                    len(self._sessions),
                    self._sessions.listeners,
                    self._troubles.left_out,
                )
            case _:
                raise TypeError(f"{self.role}: unknown message {type(message).__name__}")
        return None

    def release(self) -> None:
        for timer in (self._sweeper, self._timer):
            if timer is not None:
                timer.cancel()
        for user in self._users:
            self._forget(user)
        if self._died_of is None:
            # The process is about to end; after that no session can say goodbye.
            end = time.monotonic() + self._limits.goodbye
            for ref in self._sessions.closing:
                ref.actor_stopped.wait(max(0.0, end - time.monotonic()))

    # -- questions

    def _get_tools(self, message: GetTools) -> None:
        user = self._user(message.user_id, message.session_token)
        now = self._clock()
        stale = now >= user.fresh_until
        if now < user.good_until:
            complete(message.reply, user.tool_set)
        else:
            stale = True
            user.waiting.append(Waiting(message, time.monotonic()))
        if stale and user.load is None:
            self._start_load(user, message.session_token)

    def _call_tool(self, message: CallTool) -> None:
        waiting = Waiting(message, time.monotonic())
        if message.session_token:
            user = self._user(message.user_id, message.session_token)
        else:
            latest = self._users.latest(message.user_id)
            if latest is None:
                self._refuse(message, f"tool {message.tool_id} not found")
                return
            user = latest
            self._users.used(user, self._clock())
        if user.good_until > float("-inf"):
            self._run(user, waiting)
            return
        # Restarted since the tools were asked for: find them again first.
        user.waiting.append(waiting)
        timer = threading.Timer(
            message.deadline_seconds, self._refuse, (message, "the tools were not found in time")
        )
        timer.daemon = True
        timer.start()
        if user.load is None:
            self._start_load(user, message.session_token)

    def _run(self, user: UserTools, waiting: Waiting) -> None:
        message = waiting.message
        assert isinstance(message, CallTool)
        place = user.places.get(message.tool_id)
        if place is None:
            self._refuse(message, f"tool {message.tool_id} not found")
            return
        server, tool = place
        reply = ResultReply(message.reply, server.config, tool.name)
        deadline = waiting.since + message.deadline_seconds
        if deadline <= time.monotonic():
            self._refuse(message, "the tools were not found in time")
            return
        call = SessionCall(tool, message.arguments_json, deadline, reply, message)
        try:
            self._sessions.get(user, server).tell(call)
        except McpError as ex:
            self._refuse(message, str(ex))
        except pykka.ActorDeadError as ex:
            fail(reply, ex)

    def _repeat_refused(self, user: UserTools) -> None:
        """Send calls again whose token was refused, where there is another one now."""
        refused, user.refused = user.refused, []
        for each in refused:
            asked = each.call.asked
            place = None if asked is None else user.places.get(asked.tool_id)
            if place is None or place[0].config.token == each.token:
                complete(each.call.reply, each.failure)
                continue
            try:
                session = self._sessions.get(user, place[0])
                session.tell(evolve(each.call, repeated=True))
            except (McpError, pykka.ActorDeadError):
                complete(each.call.reply, each.failure)

    @staticmethod
    def _refuse(message: CallTool, text: str) -> None:
        result = ToolResult(tool=message.tool_id, is_error=True, transport_error=text)
        complete(message.reply, result)

    def _user(self, user_id: str, session_token: str) -> UserTools:
        """Who asks; remembered as the one used last."""
        key = user_key(user_id, session_token)
        user = self._users.find(key)
        if user is None:
            if (other := self._users.to_give_way) is not None:
                self._forget(other)
            user = self._users.add(key)
        self._users.used(user, self._clock())
        return user

    # -- loading

    def _start_load(self, user: UserTools, session_token: str) -> None:
        load = user.load = next(self._loads)
        user.configured = False
        self._due.append((time.monotonic() + self._limits.tools_wait, user.key, load))
        self._set_timer()

        def told(answer: McpConfiguration | Unavailable | BaseException) -> None:
            self._tell(Configured(user.key, load, answer))

        control_plane = self._tree.find("control-plane")
        try:
            if control_plane is None:
                told(Unavailable("there is no control plane"))
            else:
                question = GetMcpConfiguration(user.key[0], session_token, TellingReply(told))
                control_plane.tell(question)
        except pykka.ActorDeadError as ex:
            told(ex)

    def _configured(self, message: Configured) -> None:
        user = self._users.find(message.key)
        if user is None or user.load != message.load:
            return
        answer = message.answer
        if not isinstance(answer, McpConfiguration):
            text = answer.message if isinstance(answer, Unavailable) else str(answer)
            self._finish_load(user, f"control plane: {text}")
            return
        user.configured = True
        self._sessions.apply(user, answer)
        self._update(user)
        if answer.servers or not answer.for_all:
            self._shelf.somebody_may_have()
        else:
            # PERF: two questions less for each user's first request.
            self._shelf.nobody_has_any(user.tool_set, self._clock() + NOBODY_FOR)
        self._repeat_refused(user)
        self._finish_when_all_told(user)

    def _finish_when_all_told(self, user: UserTools) -> None:
        if user.load is None:
            self._update(user)
        elif user.configured and not self._sessions.hold_up(user, self._clock()):
            self._finish_load(user)

    def _set_timer(self) -> None:
        if self._timer is None and self._due:
            wait = max(0.0, self._due[0][0] - time.monotonic())
            self._timer = self.later(wait, LoadIsDue())

    def _give_up_loads(self) -> None:
        """End the loads whose time is over."""
        due, now = self._due, time.monotonic()
        while due:
            when, key, load = due[0]
            user = self._users.find(key)
            going_on = user is not None and user.load == load
            if going_on and when > now:
                break
            due.popleft()
            if user is not None and going_on:
                self._sessions.hung(user, self._clock())
                late = None if user.configured else f"control plane: {self._too_late}"
                self._finish_load(user, late)
        self._set_timer()

    def _finish_load(self, user: UserTools, failure: str | None = None) -> None:
        """Answer everybody.  ``failure``: there is no configuration, so what was known stays."""
        user.load = None
        for server in user.servers.values():
            if server.pending:
                server.failed, server.problems = True, (self._too_late,)
        now, limits = self._clock(), self._limits
        if failure is not None:
            log.warning("mcp configuration is not known", user=user.key[0], error=failure)
            user.config_problems = (ServerProblem("", failure),)
            user.fresh_until = now + limits.retry_after
            user.good_until = max(user.good_until, now + 2 * limits.retry_after)
        else:
            failed = any(server.failed for server in user.servers.values())
            user.fresh_until = now + (limits.retry_after if failed else limits.refresh_after)
            user.good_until = now + limits.keep
        self._update(user)
        self._answer_waiting(user)
        if failure is not None:
            self._repeat_refused(user)
        elif user.refused:
            # They were refused after the configuration of this load came.
            asked = user.refused[0].call.asked
            assert asked is not None
            self._start_load(user, asked.session_token)

    def _update(self, user: UserTools) -> None:
        user.update(self._shared)
        self._shelf.put(user.key, user.tool_set, user.fresh_until)

    def _answer_waiting(self, user: UserTools) -> None:
        waiting, user.waiting = user.waiting, []
        for one in waiting:
            if isinstance(one.message, GetTools):
                complete(one.message.reply, user.tool_set)
            else:
                self._run(user, one)

    # -- what sessions tell

    def _session_tools(self, message: SessionTools) -> None:
        place = self._sessions.find(message.urn)
        if place is None:
            return
        user, server = place
        server_id = server.config.id
        self._troubles.listed(server_id, {tool.name for tool in message.tools})
        for problem in message.problems:
            self._troubles.leave_out(LeftOut(server_id, "", "", problem), "definition")
            if self._troubles.is_new(server_id, problem):
                log.warning("mcp tool left out", server=server_id, reason=problem)
        server.tools = tuple(self._shared.once(tool) for tool in message.tools)
        server.problems = message.problems
        server.pending = server.failed = False
        self._sessions.answered(server)
        if message.announces_changes:
            self._sessions.let_listen(server)
        self._finish_when_all_told(user)

    def _server_failed(self, user: UserTools, server: KnownServer, text: str) -> None:
        if text not in server.problems:
            log.warning("mcp server cannot be used", server=server.config.id, error=text)
        if server.pending:
            server.tools, server.problems = (), (text,)
        # Else it was a look of its own, at what it said had changed: a server that restarts
        # keeps its tools until the next load finds it still away.
        server.pending, server.failed = False, True
        user.fresh_until = min(user.fresh_until, self._clock() + self._limits.retry_after)
        self._finish_when_all_told(user)

    def _token_refused(self, message: TokenRefused) -> None:
        place, call = self._sessions.find(message.urn), message.call
        user, asked = None if place is None else place[0], call.asked
        if user is not None:
            # The control plane may have a newer token.
            user.fresh_until = self._clock()
            self._shelf.drop(user.key)
        elif asked is not None:
            # It was asked already, on account of another call.
            user = self._users.find(user_key(asked.user_id, asked.session_token))
        if user is None or asked is None or call.repeated or not asked.session_token:
            complete(call.reply, message.failure)
            return
        left = max(0.0, call.deadline - time.monotonic())
        timer = threading.Timer(left, complete, (call.reply, message.failure))
        timer.daemon = True
        timer.start()
        user.refused.append(message)
        if place is None:
            self._repeat_refused(user)
        elif user.load is None:
            self._start_load(user, asked.session_token)

    def _watch_session(self, actor: GatewayActor, error: BaseException | None) -> None:
        # In the dying session's own thread.
        self._tell(SessionOver(actor.actor_urn, error))

    def _session_ended(self, message: SessionOver) -> None:
        place = self._sessions.ended(message.urn)
        if place is None:
            return
        user, server = place
        log.error("mcp session died", server=server.config.id, error=repr(message.error))
        if server.pending:
            self._server_failed(user, server, "the session with the server ended")

    # -- forgetting

    def _forget(self, user: UserTools) -> None:
        self._users.remove(user)
        self._shelf.drop(user.key)
        user.places = {}
        self._answer_waiting(user)
        self._repeat_refused(user)
        for server in user.servers.values():
            self._sessions.close(server)

    def _sweep(self) -> None:
        oldest = self._clock() - self._limits.keep
        for user in self._users:
            if user.used_at > oldest:
                break
            self._forget(user)
        self._schedule_sweep()

    # -- telling

    def _schedule_sweep(self) -> None:
        self._sweeper = self.later(SWEEP_EVERY, Sweep())

    def _tell(self, message: object) -> None:
        tell_quietly(self.actor_ref, message)
