"""What must hold between options, in the reference's order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from aigateway.actors.codec.headers import is_secret_name, same_name
from aigateway.actors.upstream.endpoint import Proxy
from aigateway.http.settings._proxies import proxy_for
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.table import OPTIONS, Settings
from aigateway.http.settings.trace_protocol import trace_protocol

__all__ = ["check_settings"]


def check_settings(settings: Settings) -> Iterator[SettingsError]:
    """Yield what is wrong between the options of a gateway that is to serve."""
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        yield SettingsError("--tls-cert-file and --tls-key-file options must be provided together")
    if not settings.local:
        if not settings.url:
            yield SettingsError(
                "AI Gateway requires --url or CODER_URL to point at the Coder deployment, or "
                "--local to run without one"
            )
        if bool(settings.client_tls_cert_file) != bool(settings.client_tls_key_file):
            yield SettingsError(
                "configure Coder deployment connection: --client-tls-cert-file and "
                "--client-tls-key-file must be provided together"
            )
        yield from _check_proxy(settings)
        if settings.content == "full":
            yield SettingsError(
                "--content full needs --local: a Coder deployment has no place for answers; "
                "set --content to prompts"
            )
    yield from _check_actor_headers(settings)
    shared = not settings.rate_limit_storage.startswith("memory:")
    if settings.rate_limit and shared and find_spec("redis") is None:
        yield SettingsError(
            "--rate-limit-storage: the Redis client is not installed, "
            "run: pip install 'aigateway[redis]'"
        )
    if settings.traces and find_spec("opentelemetry") is None:
        yield SettingsError(
            "--trace: OpenTelemetry is not installed, run: pip install 'aigateway[tracing]'"
        )
    elif settings.trace:
        yield from _check_trace_protocol(trace_protocol(os.environ))


def _check_proxy(settings: Settings) -> Iterator[SettingsError]:
    """The way to a deployment, which takes no proxy that is meant for everything."""
    environ = {
        name: value
        for name, value in settings.provider_environ.items()
        if name.lower() != "all_proxy"
    }
    try:
        proxy = proxy_for(settings.url, environ)
        if proxy:
            Proxy.of(proxy)
    except ValueError as ex:
        yield SettingsError(
            f"configure Coder deployment connection: {ex}: correct HTTPS_PROXY, or set NO_PROXY to "
            "the deployment's host"
        )


def _check_trace_protocol(protocol: str) -> Iterator[SettingsError]:
    if protocol not in ("grpc", "http/protobuf"):
        yield SettingsError(
            f"--trace: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, choose grpc or http/protobuf"
        )
    elif protocol == "grpc" and find_spec("grpc") is None:
        yield SettingsError(
            "--trace: OTLP over gRPC is not installed, run: pip install 'aigateway[tracing-grpc]'"
        )


_RESERVED_HEADERS = frozenset(
    {
        # credentials and cookies
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "set-cookie",
        # hop by hop and framing (RFC 9110 section 7.6.1)
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "accept-encoding",
        "expect",
        # forwarding
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        # about the message and the client, in HTTP (RFC 9110 to 9112)
        "accept",
        "age",
        "allow",
        "authentication-info",
        "cache-control",
        "clear-site-data",
        "date",
        "dnt",
        "early-data",
        "etag",
        "expires",
        "from",
        "last-modified",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "referer",
        "retry-after",
        "server",
        "traceparent",
        "tracestate",
        "user-agent",
        "vary",
        "warning",
        "www-authenticate",
        # what providers take for orders
        "openai-organization",
        "openai-project",
        "x-should-retry",
    }
)
_RESERVED_PREFIXES = (
    *("x-coder-", "coder-", "x-ai-bridge-actor", "x-ai-gateway-", "x-amz-", "anthropic-"),
    *("accept-", "access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-"),
)
_OWN_NAMES = {
    "actor_header_id": "x-ai-bridge-actor-id",
    "actor_header_username": "x-ai-bridge-actor-metadata-username",
    "actor_header_email": "x-ai-bridge-actor-metadata-email",
}
"""The reference's name for each attribute."""


def _check_actor_headers(settings: Settings) -> Iterator[SettingsError]:
    seen: dict[str, str] = {}
    for row in OPTIONS:
        if not row.name.startswith("actor_header_"):
            continue
        header = getattr(settings, row.name)
        lower = same_name(header)
        if not header:
            continue
        if lower != _OWN_NAMES[row.name] and (
            lower in _RESERVED_HEADERS
            or lower.startswith(_RESERVED_PREFIXES)
            or is_secret_name(lower)
        ):
            yield SettingsError(f'{row.flags[0]}: "{header}" is a reserved header name')
        if lower in seen:
            yield SettingsError(f'{row.flags[0]}: "{header}" is already used by {seen[lower]}')
        seen[lower] = row.flags[0]
