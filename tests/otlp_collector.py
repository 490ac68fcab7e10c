"""Collectors that take traces and events by OTLP, over HTTP or gRPC, and remember them."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc
from attrs import field, frozen
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

__all__ = ["Collector", "Event", "GrpcCollector", "Span"]


@frozen
class Span:
    """One received span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    message: str
    attributes: dict[str, Any]
    resource: dict[str, Any] = field(repr=False)
    scope: str = ""
    started: int = 0
    ended: int = 0
    events: dict[str, dict[str, Any]] = field(factory=dict)


@frozen
class Event:
    """One received event."""

    name: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any] = field(repr=False)


class _Received:
    """The spans and events that came, however they came."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.events: list[Event] = []
        self.paths: list[str] = []

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def names(self, trace_id: str) -> Counter[str]:
        return Counter(span.name for span in self.of_trace(trace_id))

    def one(self, trace_id: str, name: str) -> Span:
        (found,) = [span for span in self.of_trace(trace_id) if span.name == name]
        return found

    def _take(self, path: str, request: ExportTraceServiceRequest) -> None:
        self.paths.append(path)
        for resource_spans in request.resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self.spans.append(_span(span, resource, scope_spans.scope.name))

    def _take_events(self, path: str, request: ExportLogsServiceRequest) -> None:
        self.paths.append(path)
        for resource_logs in request.resource_logs:
            resource = _plain(resource_logs.resource.attributes)
            for scope_logs in resource_logs.scope_logs:
                self.events += [
                    Event(
                        each.event_name,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        _plain(each.attributes),
                        resource,
                    )
                    for each in scope_logs.log_records
                ]


class Collector(_Received):
    """Listens while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = threading.Event()
        """Cleared: requests are answered only when it is set again."""
        self.hold.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.hold.wait(60)
                if self.path.endswith("/logs"):
                    collector._take_events(self.path, ExportLogsServiceRequest.FromString(body))
                    answer = ExportLogsServiceResponse().SerializeToString()
                else:
                    collector._take(self.path, ExportTraceServiceRequest.FromString(body))
                    answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, ex: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcCollector(_Received):
    """The same by gRPC."""

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_TraceServiceServicer_to_server(_Service(self._take), self._server)
        add_LogsServiceServicer_to_server(_EventService(self._take_events), self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


class _Service(TraceServiceServicer):
    def __init__(self, take: Callable[[str, ExportTraceServiceRequest], None]) -> None:
        self._take = take

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> Any:
        self._take("grpc", request)
        return ExportTraceServiceResponse()


class _EventService(LogsServiceServicer):
    def __init__(self, take: Callable[[str, ExportLogsServiceRequest], None]) -> None:
        self._take = take

    def Export(self, request: ExportLogsServiceRequest, context: Any) -> Any:
        self._take("grpc", request)
        return ExportLogsServiceResponse()


def _span(span: WireSpan, resource: dict[str, Any], scope: str) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == Status.STATUS_CODE_ERROR,
        span.status.message,
        _plain(span.attributes),
        resource,
        scope,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        {event.name: _plain(event.attributes) for event in span.events},
    )


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(value, kind)
    if kind == "array_value":
        return [_value(each) for each in found.values]
    return _plain(found.values) if kind == "kvlist_value" else found
