"""OpenTelemetry traces, an optional extra; imported only where tracing is switched on.

Spans are passed along by hand, on the request's :class:`~aigateway.http.request.inbound.Call`: a
request changes greenlets and threads on its way, an ambient context would not follow.
"""
