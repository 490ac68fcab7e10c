"""The spans of one request.

::

    POST /anthropic/v1/messages                    until the last byte for the client
    └── Intercept                                  until the end is recorded
        ├── Intercept.CreateInterceptor            the body is read and understood
        ├── ServerProxyManager.Init                MCP servers are asked for the user's tools
        ├── Intercept.RecordInterception           until the control plane has accepted it
        ├── Intercept.ProcessRequest               until the end of the upstream's answer
        │   ├── Intercept.ProcessRequest.Upstream  one for each call of the upstream, retries inside
        │   ├── Intercept.ProcessRequest.ToolCall  one for each call of an injected tool
        │   └── Intercept.RecordTokenUsage ...     one for each record, until it is on disk
        └── Intercept.RecordInterceptionEnded

or ``Passthrough`` below the first.  On a WebSocket the first is the session's; each response has
one below it, with an ``Intercept`` of its own.  A client that leaves ends the first span, not the
others: they go on with the drain.  What comes to a span that has ended is ignored, so nothing here
has to know which of two ends came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aigateway.actors.providers.recording import Recording
from aigateway.actors.values.money import NANO_IN_DOLLAR
from aigateway.actors.values.records import (
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)
from aigateway.actors.values.tools import ToolResult
from aigateway.http.tracing import conventions as names
from aigateway.http.tracing.events import messages_of

__all__ = ["TRACE_HEADER", "CostOf", "RequestTrace"]

TRACE_HEADER = "X-Trace-ID"
MESSAGE_LIMIT = 200
"""Characters of an error's text that go into a span."""

_W3C = TraceContextTextMapPropagator()
_CONTEXT_HEADERS = frozenset(_W3C.fields)
_RECORD_SPANS: Mapping[type[Any], str] = {
    TokenUsage: "Intercept.RecordTokenUsage",
    PromptUsage: "Intercept.RecordPromptUsage",
    ToolUsage: "Intercept.RecordToolUsage",
    ModelThought: "Intercept.RecordModelThought",
    ModelAnswer: "Intercept.RecordModelAnswer",
}

Attributes = dict[str, str | bool | int | float | tuple[str, ...]]

CostOf = Callable[[TokenUsage, str, str, str], int | None]
"""Nano-dollars of a record; of the model asked for, and of the provider's type and name. None: it
has no price."""


class RequestTrace:
    """Belongs to its request; for an intercepted one also to the reader of its answer."""

    def __init__(
        self,
        tracer: Tracer,
        first: Span,
        path: str,
        cost_of: CostOf | None,
        events: Logger | None = None,
    ) -> None:
        """``first`` is the span around all others; without ``cost_of`` nothing has a price.

        ``events`` takes an event for each request to a model; None: they are not wanted.
        """
        self._tracer = tracer
        self._http = first
        self._path = path
        self._cost_of = cost_of
        self._asked = ("", "", "")
        """Model, and the provider's type and name."""
        self._attributes: Attributes = {"request_path": path}
        self._intercept: Span | None = None
        self._step: Span | None = None
        """CreateInterceptor, then RecordInterception."""
        self._process: Span | None = None
        self._upstream: Span | None = None
        self._passthrough: Span | None = None
        self._records: list[Span] = []
        self._tokens: list[TokenUsage] = []
        self._events = events
        self._told: Attributes = {}
        """What the span of the interception says that its event says too."""
        self._said: list[UsageRecord] = []
        """For that event, if one is wanted."""
        self._end_record: Span | None = None
        self._streaming = False
        self._relaying = False

    @classmethod
    def of_request(
        cls,
        tracer: Tracer,
        environ: Mapping[str, Any],
        cost_of: CostOf | None = None,
        events: Logger | None = None,
    ) -> Self:
        """That of the request of a WSGI environment."""
        carrier = {
            name: environ[key]
            for name in _CONTEXT_HEADERS
            if (key := f"HTTP_{name.upper()}") in environ
        }
        method, path = environ["REQUEST_METHOD"], _path(environ)
        first = tracer.start_span(
            f"{method} {path}",
            context=_W3C.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            attributes=_http_attributes(environ, method, path),
        )
        return cls(tracer, first, path, cost_of, events)

    def turn(self) -> RequestTrace:
        """That of one response on this request's WebSocket."""
        first = self._begin(f"WEBSOCKET {self._path}", self._http, {"request_path": self._path})
        return RequestTrace(self._tracer, first, self._path, self._cost_of, self._events)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return format_trace_id(self._http.get_span_context().trace_id)

    # -- the request

    def head(self, status: str, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The answer begins with this status line; returns its headers with the trace's id."""
        code = int(status.split(" ", 1)[0])
        self._http.set_attribute(names.HTTP_STATUS, code)
        if code >= 500:
            self._http.set_attribute(names.ERROR_TYPE, str(code))
            self._http.set_status(Status(StatusCode.ERROR, status[:MESSAGE_LIMIT]))
        kept = [pair for pair in headers if pair[0].lower() != TRACE_HEADER.lower()]
        return [*kept, (TRACE_HEADER, self.trace_id)]

    def log(self, level: str, message: str, fields: dict[str, str]) -> None:
        """Something was logged while this request was served."""
        if self._http.is_recording():
            self._http.add_event(message, {"level": level, **fields})

    def relaying(self) -> None:
        """A body follows the head; :meth:`finished` will be called."""
        self._relaying = True

    def handled(self) -> None:
        """The application has returned its answer."""
        if not self._relaying:
            _end(self._http)

    def finished(self, outcome: str) -> None:
        """The body's end: "complete", "cut" or "left"."""
        if outcome == "cut":
            _fail(self._passthrough, "the upstream broke off")
            _fail(self._http, "the upstream broke off")
        _end(self._passthrough)
        if self._http.is_recording():
            self._http.set_attribute("outcome", outcome)
        _end(self._http)

    def refused(self, status: int, body: bytes) -> None:
        """The gateway answers by itself: whatever had begun has failed."""
        text = f"{status}: {body[:MESSAGE_LIMIT].decode('utf-8', 'replace').strip()}"
        for span in (self._step, self._process, self._intercept, self._passthrough):
            _fail(span, text)
            _end(span)

    # -- passed through

    def passthrough(self, route: str, url: str, method: str) -> None:
        attributes: Attributes = {
            "passthrough_url": route,
            "passthrough_upstream_url": _bare(url),
            "passthrough_method": method,
        }
        self._passthrough = self._begin("Passthrough", self._http, attributes)

    # -- intercepted

    def intercept(self, *, provider: str, kind: str, user: str, api: str, route: str) -> None:
        """The request is of a kind that is intercepted; ``kind`` is the provider's type."""
        self._attributes.update(provider=provider, user_id=user)
        self._asked = ("", kind, provider)
        # On this span alone: a reader that adds up tokens would count them twice.
        self._intercept = self._begin("Intercept", self._http)
        self._tell(
            {
                names.OPERATION: names.operation_of(kind, api, route),
                names.PROVIDER: names.provider_of(kind),
            }
        )
        self._step = self._begin("Intercept.CreateInterceptor", self._intercept)

    def created(self, recording: Recording, *, model: str, bedrock: bool | None) -> None:
        """The body was understood; from now on the recording tells what becomes of it.

        ``bedrock`` is None for APIs that are never Bedrock's.
        """
        recording.trace = self
        interception = recording.interception
        self._asked = (model, *self._asked[1:])
        assert self._intercept is not None
        assert self._step is not None
        self._streaming = interception.streaming
        self._attributes.update(
            interception_id=interception.id,
            model=model,
            streaming=interception.streaming,
        )
        if bedrock is not None:
            self._attributes["aws_bedrock"] = bedrock
        for span in (self._intercept, self._step):
            span.set_attributes(self._attributes)
        self._tell({names.REQUEST_MODEL: model, names.REQUEST_STREAM: interception.streaming})
        _end(self._step)
        self._step = self._begin("Intercept.RecordInterception", self._intercept)

    def recorded(self, session: str | None) -> None:
        """The control plane has accepted the interception, of the client's ``session`` if it says
        one."""
        _end(self._step)
        if session:
            self._tell({names.CONVERSATION: session})
        self._process = self._begin("Intercept.ProcessRequest", self._intercept)

    def calling(self, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The upstream is called now; returns ``headers`` with this trace's context."""
        span = self._passthrough
        if span is None:
            # The call before, of an earlier round or another provider, is over.
            _end(self._upstream)
            span = self._upstream = self._begin(
                "Intercept.ProcessRequest.Upstream", self._process, kind=SpanKind.CLIENT
            )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span))
        kept = [pair for pair in headers if pair[0].lower() not in _CONTEXT_HEADERS]
        return [*kept, *carrier.items()]

    def answered(self) -> None:
        """The head of the upstream's answer is there, which is all of it that a span of a
        stream is about."""
        if self._streaming:
            _end(self._upstream)

    def tools_asked(self) -> Span:
        """The user's tools are not known; their servers are asked."""
        return self._begin("ServerProxyManager.Init", self._intercept)

    def tools_known(self, span: Span, error: str = "") -> None:
        """And have answered, as far as they do."""
        if error:
            _fail(span, error)
        _end(span)

    def tool_call(self, tool: str) -> Span:
        """An injected tool is called."""
        attributes: Attributes = {
            **self._attributes,
            "mcp_tool_name": tool,
            names.OPERATION: "execute_tool",
            names.TOOL_NAME: tool,
        }
        return self._begin("Intercept.ProcessRequest.ToolCall", self._process, attributes)

    def tool_called(self, span: Span, result: ToolResult) -> None:
        """And has answered, or failed."""
        span.set_attribute("mcp_tool_name", result.tool)
        if result.server_url:
            span.set_attribute("mcp_server_name", result.server_id)
            span.set_attribute("mcp_server_url", _bare(result.server_url))
        if result.is_error:
            _fail(span, result.transport_error or "the tool says that it failed")
        _end(span)

    # -- told by the reader of the answer

    def found(self, records: Sequence[UsageRecord]) -> None:
        """Records have become known."""
        for record in records:
            self._records.append(self._begin(_RECORD_SPANS[type(record)], self._process))
            if isinstance(record, TokenUsage):
                self._tokens.append(record)
            elif self._events is not None:
                self._said.append(record)

    def ending(self, end: InterceptionEnded) -> None:
        """The answer is over; its records are being written to disk."""
        if end.error_type is not None:
            for span in (self._upstream, self._process, self._intercept):
                _fail(span, f"{end.error_type}: {end.error_message or ''}")
            self._tell({names.ERROR_TYPE: end.error_type})
        self._tell(names.usage_of(self._tokens))
        if (cost := self._cost()) is not None:
            self._tell({names.COST: cost})
        if reason := end.metadata.get("stop_reason"):
            self._tell({names.FINISH_REASONS: (str(reason),)})
        self._emit(end)
        _end(self._upstream)
        _end(self._process)
        self._end_record = self._begin("Intercept.RecordInterceptionEnded", self._intercept)

    def ended(self) -> None:
        """All is on disk."""
        for span in (*self._records, self._end_record, self._intercept):
            _end(span)
        self._records.clear()

    def _tell(self, attributes: Attributes) -> None:
        """Say something on the span of the interception, and in its event."""
        if self._intercept is not None:
            self._intercept.set_attributes(attributes)
            self._told |= attributes

    def _emit(self, end: InterceptionEnded) -> None:
        """Tell what was asked and answered, of a request that is traced."""
        if self._events is None or self._intercept is None or not self._intercept.is_recording():
            return
        self._events.emit(
            LogRecord(
                timestamp=int(end.ended_at * 1_000_000_000),
                context=set_span_in_context(self._intercept, Context()),
                severity_number=SeverityNumber.INFO,
                event_name=names.DETAILS,
                attributes={**self._told, **messages_of(self._said, end)},
            )
        )
        self._said.clear()

    def _cost(self) -> float | None:
        """Dollars that the request has cost; None where a part of it has no price."""
        if self._cost_of is None or not self._tokens:
            return None
        nano = 0
        for record in self._tokens:
            cost = self._cost_of(record, *self._asked)
            if cost is None:
                return None
            nano += cost
        return nano / NANO_IN_DOLLAR

    def _begin(
        self,
        name: str,
        parent: Span | None,
        attributes: Attributes | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        return self._tracer.start_span(
            name,
            context=set_span_in_context(parent if parent is not None else self._http, Context()),
            kind=kind,
            attributes=attributes if attributes is not None else self._attributes,
        )


def _end(span: Span | None) -> None:
    # The library warns of a second end, in the log.
    if span is not None and span.is_recording():
        span.end()


def _fail(span: Span | None, text: str) -> None:
    if span is not None and span.is_recording():
        span.set_status(Status(StatusCode.ERROR, text[:MESSAGE_LIMIT]))


def _http_attributes(environ: Mapping[str, Any], method: str, path: str) -> Attributes:
    # Without the query: a client may have put a key into it.
    found: Attributes = {
        names.HTTP_METHOD: method,
        names.URL_PATH: path,
        names.URL_SCHEME: str(environ.get("wsgi.url_scheme", "http")),
    }
    if agent := environ.get("HTTP_USER_AGENT"):
        found[names.USER_AGENT] = str(agent)[:MESSAGE_LIMIT]
    return found


def _path(environ: Mapping[str, Any]) -> str:
    raw = environ.get("RAW_URI") or environ.get("PATH_INFO") or "/"
    return str(raw).partition("?")[0]


def _bare(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
