"""Tools of MCP servers in requests: offering them, and running what the model calls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import pykka
import structlog
from attrs import define, evolve

from aigateway.actors.actor.base import Reply, complete, new_reply
from aigateway.actors.codec.headers import Headers
from aigateway.actors.control.messages import Accepted, CapBusy, CapFull, HoldMore, NoPrice
from aigateway.actors.interception.injected import InjectedCall, InjectedInterception
from aigateway.actors.interception.injection import Encodings, takes_tools
from aigateway.actors.interception.interface import Interception
from aigateway.actors.interception.opening import INJECTABLE, with_tools
from aigateway.actors.interception.routes import GEMINI
from aigateway.actors.interception.tool_refusals import refused_tools
from aigateway.actors.interception.tool_rules import ToolRules
from aigateway.actors.mcp.messages import CallTool, GetTools, LeftOut
from aigateway.actors.mcp.shelf import user_key
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import Opened, Refused, UpstreamRequest
from aigateway.actors.upstream.errors import Quiet, UpstreamCut
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.policy import CallerRules
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.actors.values.tools import Tool, ToolResult, ToolSet
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import api_error
from aigateway.http.request.caps import hold_for, said_of
from aigateway.http.request.inbound import Call
from aigateway.http.request.relay import Upstream
from aigateway.http.request.runtime import NoAnswer, Runtime, Stopping

__all__ = ["Injector", "Rounds", "without_codings"]

_GRACE = 5.0
"""Seconds beyond the limit on a tool's call for the actor to say so."""
TRIES = 5
"""How often one request is sent again because of injected tools that its provider refuses."""
REFUSALS = (400, 422)
"""Statuses of requests that were understood and not liked."""
_REFUSAL_SIZE = 256 * 1024
_REFUSAL_WAIT = 5.0
"""Bytes and seconds of silence up to which a refusal is read."""
_QUOTED = 500
"""Characters of it that are logged."""
_TOOLS_WAIT = 15.0
"""Seconds to wait for the actor; it answers within 10, with the tools it has."""

log = structlog.get_logger("ai-gateway.mcp")

_NO_TOOLS = (
    "this gateway offers you tools of MCP servers, and cannot put them into requests to Gemini's "
    "API: use another provider, or have your administrator withdraw the tools"
)


class Injector:
    """Asks the actor of this process for tools and has it run them."""

    def __init__(
        self, runtime: Runtime, *, max_rounds: int, tool_timeout: float, max_result_size: int
    ) -> None:
        """One call of a tool may take ``tool_timeout`` seconds, then the model is told that it
        failed; it is shown ``max_result_size`` bytes of the result."""
        self.runtime = runtime
        self._max_rounds = max_rounds
        self._tool_timeout = tool_timeout
        self._max_result_size = max_result_size
        self._troubles = runtime.plan.tool_troubles
        self._encodings = Encodings(self._changed)

    def offer(self, interception: Interception, call: Call, api: str, token: str) -> Interception:
        """The interception with the user's tools, or the same one when there are none.

        Raises an Answer where there are some and the API takes none.
        """
        if api == GEMINI and self._tools(call, token).tools:
            call.interception_id = ""
            raise api_error(api, 400, _NO_TOOLS, reason=Reason.BAD_REQUEST)
        if api not in INJECTABLE or interception.refusal is not None:
            return interception
        if not takes_tools(api, interception.model):
            return interception
        tool_set = self._tools(call, token)
        if not tool_set.tools:
            return interception
        offering = with_tools(
            interception,
            tool_set,
            self._encodings,
            content_encoding=call.inbound.header("Content-Encoding"),
            max_rounds=self._max_rounds,
            without=self._troubles.refused(call.provider_name, tool_set.tools),
        )
        known, offered = len(tool_set.tools), 0
        if isinstance(offering, InjectedInterception):
            offered = len(offering.tools)
        if offered < known:
            log.debug("tools left out of a request", offered=offered, known=known)
        return offering

    def has_tools(self, call: Call, token: str) -> bool:
        """Whether this user has tools."""
        return bool(self._tools(call, token).tools)

    def _tools(self, call: Call, token: str) -> ToolSet:
        """The user's tools, at once where they are known."""
        # PERF: a question to the actor takes longer than all else that injection does.
        key = user_key(call.user_id, token)
        fresh = self.runtime.plan.tool_shelf.find(key, time.monotonic())
        if fresh is not None:
            return fresh
        span = call.trace.tools_asked()
        found, error = ToolSet(), ""
        try:
            found = self.runtime.ask(
                "mcp", lambda reply: GetTools(call.user_id, token, reply), _TOOLS_WAIT
            )
        except NoAnswer as ex:
            error = str(ex)
            log.warning("request without injected tools", error=error)
        call.trace.tools_known(span, error)
        return found

    def run(
        self,
        calls: Sequence[tuple[InjectedCall, str]],
        user_id: str,
        token: str,
        ended: Callable[[int, ToolResult], None],
    ) -> list[ToolResult]:
        """Run calls at once, each with the arguments that the tool's server expects; each has
        a result at its deadline, whatever happens.

        ``ended`` is told of each with its number, in order.
        """
        actor = self.runtime.tree.find("mcp")
        limit = self._tool_timeout
        end = time.monotonic() + limit + _GRACE
        inflight = self.runtime.inflight
        replies: list[Reply[ToolResult]] = []
        for call, arguments in calls:
            reply: Reply[ToolResult] = new_reply()
            replies.append(reply)
            message = CallTool(user_id, call.tool, arguments.encode(), limit, reply, token)
            try:
                if actor is None:
                    raise pykka.ActorDeadError("mcp is being restarted")
                inflight.expect(reply)
                actor.tell(message)
            except (pykka.ActorDeadError, Stopping) as ex:
                complete(reply, _failed(call, str(ex)))
        results = []
        for (call, _), reply in zip(calls, replies, strict=True):
            try:
                result = reply.get(timeout=max(0.0, end - time.monotonic()))
                results.append(result.within(self._max_result_size))
            except pykka.Timeout:
                results.append(_failed(call, f"no result within {limit:g} s"))
            except Exception as ex:
                results.append(_failed(call, str(ex)))
            finally:
                inflight.forget(reply)
            ended(len(results) - 1, results[-1])
        return results

    # -- definitions that providers do not take

    def _changed(self, tool: Tool, rules: ToolRules, problem: str, *, left_out: bool) -> None:
        """How a definition goes out, if it does."""
        server = tool.server_id
        if left_out:
            self._troubles.leave_out(LeftOut(server, tool.name, rules.name, problem), "api")
        else:
            self._troubles.offer(server, tool.name, rules.name)
        if problem and self._troubles.is_new(server, tool.name, rules.name, problem):
            told = log.warning if left_out else log.info
            told(
                "mcp tool left out" if left_out else "mcp tool changed for the provider",
                server=server, tool=tool.name, api=rules.name, reason=problem,
            )  # fmt: skip

    def without_refused(
        self,
        loop: InjectedInterception,
        result: Opened | Refused,
        send: Callable[[bytes], Opened | Refused],
        provider: str,
    ) -> Opened | Refused:
        """Send the first round again while the provider refuses it because of injected tools.

        ``send`` takes the body.  Each time it goes without the tools that are named; after
        ``TRIES`` such refusals without any.  They stay out of later requests to ``provider``
        if the request passes without them.
        """
        taken_out: dict[str, tuple[Tool, str]] = {}
        for tries in range(1, TRIES + 1):
            if isinstance(result, Refused) or result.exchange.status not in REFUSALS:
                break
            refusal = _read_refusal(result.exchange)
            suspects = refused_tools(loop.body, refusal, loop.tools.keys())
            if not suspects:
                result.exchange.unread(refusal)
                break
            for name, text in suspects.items():
                taken_out[name] = (loop.tools[name], text)
            result.give_back()
            loop.leave_out(suspects if tries < TRIES else loop.tools.keys())
            result = send(loop.upstream_body())
        if taken_out and isinstance(result, Opened) and result.exchange.status < 400:
            for tool, text in taken_out.values():
                self._refused(provider, tool, text)
        return result

    def _refused(self, provider: str, tool: Tool, text: str) -> None:
        text = text[:_QUOTED]
        self._troubles.refuse(provider, tool)
        self._troubles.leave_out(LeftOut(tool.server_id, tool.name, provider, text), "refused")
        if self._troubles.is_new(tool.server_id, tool.name, provider, text):
            log.warning(
                "mcp tool left out: the provider refuses its definition",
                server=tool.server_id, tool=tool.name, provider=provider, reason=text,
            )  # fmt: skip


def _read_refusal(exchange: Exchange) -> bytes:
    """What has come of a refusal's body, up to a limit of size and time."""
    body = b""
    exchange.set_quiet(_REFUSAL_WAIT)
    with contextlib.suppress(Quiet, UpstreamCut):
        while len(body) < _REFUSAL_SIZE and (data := exchange.read()):
            body += data
    return body


def without_codings(headers: Headers) -> Headers:
    """The client's headers for an answer that has to be edited: it must not come encoded."""
    return [(name, value) for name, value in headers if name.lower() != "accept-encoding"]


def _failed(call: InjectedCall, text: str) -> ToolResult:
    return ToolResult(tool=call.tool, is_error=True, transport_error=text)


@define(eq=False)
class Rounds:
    """What it takes to go on with a request whose answer calls injected tools."""

    injector: Injector
    upstream: Upstream
    call: Call
    loop: InjectedInterception
    recording: Recording
    token: str
    request: UpstreamRequest
    """The first round's without its body; each other round has one of its own."""
    config: ProviderConfig
    headers: Headers
    """Of the newest round's answer."""
    rules: CallerRules | None = None
    """The caller's, if caps hold."""
    max_wait: float = 60.0
    """Seconds that a round may wait for its caps."""

    def run(self) -> list[ToolResult]:
        """Run the calls of the round that has ended."""
        user_id, trace = self.call.user_id, self.call.trace
        calls = [(call, self.loop.arguments_of(call)) for call in self.loop.calls]
        spans = [trace.tool_call(call.tool) for call, _ in calls]
        return self.injector.run(
            calls,
            user_id,
            self.token,
            lambda number, result: trace.tool_called(spans[number], result),
        )

    def send(self, before: Opened) -> Opened | Refused:
        """Send the next round to the provider that answered the one ``before``.

        Nobody else is asked: what that one said goes along, with ids and signatures that
        others refuse or take for something else.
        """
        config = self.upstream.provider_of(before)
        if config is None:
            return Refused(503, f"the provider {before.provider_name} is not there any more")
        if (refused := self._reserve()) is not None:
            return refused
        request = evolve(
            self.request,
            headers=self.call.trace.calling(self.request.headers),
            body=self.loop.upstream_body(),
            attempts=None,
        )
        result = self.upstream.perform(config, request, alone=True)
        self.recording.abandoned(result.abandoned)
        self.call.trace.answered()
        if isinstance(result, Opened):
            self.headers = self.recording.begin_answer(
                result, asked=(self.config.name, self.call.model)
            )
        return result

    def _reserve(self) -> Refused | None:
        """Have what the round may cost reserved; the refusal if its caps do not let it begin."""
        rules, caller = self.rules, self.call.caller
        if rules is None or caller is None:
            return None
        hold = hold_for(
            caller, rules, self.config, self.injector.runtime.tree,
            api=self.loop.api, model=self.loop.model, recorded=self.call.model,
            readable=self.loop.body, streaming=self.loop.streaming,
        )  # fmt: skip
        so_far = tuple(self.recording.tokens)
        try:
            answer = self.injector.runtime.ask(
                "control-plane",
                lambda reply: HoldMore(self.loop.id, hold, so_far, reply),
                self.max_wait * 2 + 5.0,
            )
        except (NoAnswer, Stopping) as ex:
            return Refused(503, str(ex), retry_after=1)
        if isinstance(answer, Accepted):
            return None
        if isinstance(answer, CapFull | CapBusy | NoPrice):
            status, said, seconds = said_of(answer, rules)
            return Refused(status, said, "rate_limited", retry_after=seconds)
        return Refused(503, answer.message, retry_after=1)
