"""Certificate, key and authority files that the settings name: can they be used?

Looked at before the gateway listens, on a reload, and by ``aigateway check``.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from aigateway.http.settings import Settings

__all__ = ["authorities_problem", "client_problems", "console_problems", "listener_problems"]


def listener_problems(settings: Settings) -> Iterator[str]:
    """A line when what clients are to see cannot be used."""
    if settings.tls_cert_file and settings.tls_key_file:
        yield from _pair(
            "serve",
            ("--tls-cert-file", settings.tls_cert_file),
            ("--tls-key-file", settings.tls_key_file),
        )


def console_problems(settings: Settings) -> Iterator[str]:
    """A line when what the console's visitors are to see cannot be used."""
    if bool(settings.console_tls_cert_file) != bool(settings.console_tls_key_file):
        yield "console: --console-tls-cert-file and --console-tls-key-file go together"
    if settings.console_tls_cert_file and settings.console_tls_key_file:
        yield from _pair(
            "console",
            ("--console-tls-cert-file", settings.console_tls_cert_file),
            ("--console-tls-key-file", settings.console_tls_key_file),
        )


def client_problems(settings: Settings) -> Iterator[str]:
    """A line for each file for the Coder deployment that cannot be used."""
    coderd = "configure Coder deployment connection"
    if settings.client_tls_cert_file and settings.client_tls_key_file:
        yield from _pair(
            coderd,
            ("--client-tls-cert-file", settings.client_tls_cert_file),
            ("--client-tls-key-file", settings.client_tls_key_file),
        )
    if settings.client_tls_ca_file:
        problem = authorities_problem(settings.client_tls_ca_file)
        if problem:
            yield f'{coderd}: --client-tls-ca-file: "{settings.client_tls_ca_file}": {problem}'


def _pair(what: str, cert: tuple[str, str], key: tuple[str, str]) -> Iterator[str]:
    for flag, path in (cert, key):
        problem = _unreadable(path)
        if problem:
            yield f'{what}: {flag}: "{path}": {problem}'
            return
    try:
        # Without this OpenSSL would ask the terminal for a passphrase, and wait for ever.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert[1], key[1], password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as ex:
        reason = getattr(ex, "reason", None) or str(ex)
        yield f'{what}: cannot use {cert[0]} "{cert[1]}" with {key[0]} "{key[1]}": {reason}'


def _no_password() -> str:
    raise ValueError(
        "the key has a passphrase, which is not supported; store it without one"
        " (openssl pkey -in KEY -out NEW_KEY)"
    )


def authorities_problem(path: str) -> str:
    """Why ``path`` is not a file of certificates in PEM form; empty when it is."""
    problem = _unreadable(path)
    if not problem:
        try:
            ssl.create_default_context(cafile=path)
        except (ssl.SSLError, OSError) as ex:
            problem = f"no certificates in PEM form ({getattr(ex, 'reason', None) or ex})"
    return problem


def _unreadable(path: str) -> str:
    """Why a file cannot be read; empty when it can."""
    try:
        with open(path, "rb"):
            return ""
    except OSError as ex:
        return str(ex.strerror)
