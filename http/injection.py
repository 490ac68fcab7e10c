"""Tools of MCP servers in requests: offering them, and running what the model calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pykka
import structlog
from attrs import define, evolve

from aigateway.actors.actor import Reply, complete, new_reply
from aigateway.actors.mcp.messages import CallTool, GetTools, ToolSet
from aigateway.actors.mcp.results import ToolResult
from aigateway.actors.mcp.shelf import user_key
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.injected import InjectedCall, InjectedInterception
from aigateway.actors.providers.interception.injection import Encodings, takes_tools
from aigateway.actors.providers.interception.interface import Headers, Interception
from aigateway.actors.providers.interception.opening_injected import INJECTABLE, with_tools
from aigateway.actors.providers.messages import Opened, Refused
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.http.call import Call
from aigateway.http.inflight import Stopping
from aigateway.http.runtime import NoAnswer, Runtime
from aigateway.http.upstream import Upstream

__all__ = ["TOOL_DEADLINE", "Injector", "Rounds", "without_codings"]

TOOL_DEADLINE = 60.0
"""Seconds that one call of a tool may take; then the model is told that it failed."""
_GRACE = 5.0
"""Seconds beyond that for the actor to say so."""
_TOOLS_WAIT = 15.0
"""Seconds to wait for the actor; it answers within 10, with the tools it has."""

log = structlog.get_logger("ai-gateway.mcp")


class Injector:
    """Asks the actor of this process for tools and has it run them."""

    def __init__(self, runtime: Runtime, max_rounds: int) -> None:
        self._runtime = runtime
        self._max_rounds = max_rounds
        self._encodings = Encodings()

    def offer(self, interception: Interception, call: Call, api: str, token: str) -> Interception:
        """The interception with the user's tools, or the same one when there are none."""
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
        )
        known, offered = len(tool_set.tools), 0
        if isinstance(offering, InjectedInterception):
            offered = len(offering.tools)
        if offered < known:
            log.debug("tools left out of a request", offered=offered, known=known)
        return offering

    def _tools(self, call: Call, token: str) -> ToolSet:
        """The user's tools, at once where they are known."""
        # PERF: a question to the actor takes longer than all else that injection does.
        key = user_key(call.user_id, token)
        fresh = self._runtime.plan.tool_shelf.find(key, time.monotonic())
        if fresh is not None:
            return fresh
        trace = call.trace
        span = trace.tools_asked() if trace is not None else None
        found, error = ToolSet(), ""
        try:
            found = self._runtime.ask(
                "mcp", lambda reply: GetTools(call.user_id, token, reply), _TOOLS_WAIT
            )
        except NoAnswer as ex:
            error = str(ex)
            log.warning("request without injected tools", error=error)
        if trace is not None and span is not None:
            trace.tools_known(span, error)
        return found

    def run(
        self,
        calls: Sequence[InjectedCall],
        user_id: str,
        token: str,
        ended: Callable[[int, ToolResult], None] = lambda _number, _result: None,
    ) -> list[ToolResult]:
        """Run calls at once; each has a result at its deadline, whatever happens.

        ``ended`` is told of each with its number, in order.
        """
        actor = self._runtime.tree.find("mcp")
        end = time.monotonic() + TOOL_DEADLINE + _GRACE
        inflight = self._runtime.inflight
        replies: list[Reply[ToolResult]] = []
        for call in calls:
            reply = new_reply()
            replies.append(reply)
            message = CallTool(
                user_id, call.tool, call.arguments.encode(), TOOL_DEADLINE, reply, token
            )
            try:
                if actor is None:
                    raise pykka.ActorDeadError("mcp is being restarted")
                inflight.expect(reply)
                actor.tell(message)
            except (pykka.ActorDeadError, Stopping) as ex:
                complete(reply, _failed(call, str(ex)))
        results = []
        for call, reply in zip(calls, replies, strict=True):
            try:
                results.append(reply.get(timeout=max(0.0, end - time.monotonic())))
            except pykka.Timeout:
                results.append(_failed(call, f"no result within {TOOL_DEADLINE:g} s"))
            except Exception as ex:
                results.append(_failed(call, str(ex)))
            finally:
                inflight.forget(reply)
            ended(len(results) - 1, results[-1])
        return results


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
    """The first round's; of the others only the body is another."""
    config: ProviderConfig

    def run(self) -> list[ToolResult]:
        """Run the calls of the round that has ended."""
        calls, user_id, trace = self.loop.calls, self.call.user_id, self.call.trace
        if trace is None:
            return self.injector.run(calls, user_id, self.token)
        spans = [trace.tool_call(call.tool) for call in calls]
        return self.injector.run(
            calls,
            user_id,
            self.token,
            lambda number, result: trace.tool_called(spans[number], result),
        )

    def send(self, before: Opened) -> Opened | Refused:
        """Send the next round to whoever answered the one ``before``."""
        config = self.upstream.provider_of(before) or self.config
        request = evolve(
            self.request,
            headers=self.call.traced(self.request.headers),
            body=self.loop.upstream_body(),
            attempts=None,
        )
        result = self.upstream.perform(config, request)
        if self.call.trace is not None:
            self.call.trace.answered()
        if isinstance(result, Opened):
            recording, exchange = self.recording, result.exchange
            recording.credential_hint = result.credential_hint
            recording.answered_by(
                result.provider_name,
                result.model,
                instead_of=(self.config.name, self.call.model),
            )
            recording.interception = self.loop
            if result.converted:
                recording.interception = BedrockInterception(self.loop, self.call.model)
            recording.interception.begin_answer(exchange.status, exchange.headers)
        return result
