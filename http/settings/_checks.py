"""What must hold between options, in the reference's order."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.table import OPTIONS, Settings

__all__ = ["check_settings"]


def check_settings(settings: Settings) -> Iterator[SettingsError]:
    """Yield what is wrong between the options of a gateway that is to serve."""
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        yield SettingsError("--tls-cert-file and --tls-key-file options must be provided together")
    if not settings.local:
        if not settings.url:
            yield SettingsError(
                "AI Gateway requires --url or CODER_URL to point at the Coder deployment"
            )
        if bool(settings.client_tls_cert_file) != bool(settings.client_tls_key_file):
            yield SettingsError(
                "configure Coder deployment connection: --client-tls-cert-file and "
                "--client-tls-key-file must be provided together"
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
    }
)
_RESERVED_PREFIXES = ("x-coder-", "coder-", "x-ai-bridge-actor", "x-ai-gateway-")


def _check_actor_headers(settings: Settings) -> Iterator[SettingsError]:
    seen: dict[str, str] = {}
    for row in OPTIONS:
        if not row.name.startswith("actor_header_"):
            continue
        header = getattr(settings, row.name)
        lower = header.lower()
        if not header:
            continue
        if lower != row.default.lower() and (
            lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_PREFIXES)
        ):
            yield SettingsError(f'{row.flags[0]}: "{header}" is a reserved header name')
        if lower in seen:
            yield SettingsError(f'{row.flags[0]}: "{header}" is already used by {seen[lower]}')
        seen[lower] = row.flags[0]
