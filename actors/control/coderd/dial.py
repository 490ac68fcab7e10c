"""Dialling coderd: address, key, TLS, proxies, both paths, the version both sides know."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from attrs import Attribute, field, frozen

from aigateway.actors.control.coderd._channel import Channel, open_channel
from aigateway.actors.control.coderd._upgrade import DialError, UpgradeRefused, Validation
from aigateway.actors.control.coderd.extra_headers import (
    BadHeader,
    HeaderCommandFailed,
    headers_of_command,
    is_one_line,
)
from aigateway.actors.control.coderd.versions import NEWEST, ApiVersion
from aigateway.actors.upstream.connect import accept_company_authorities

__all__ = ["DialError", "DialSettings", "Dialer", "UpgradeRefused", "Validation"]

PATHS = ("/api/v2/ai-gateway/serve", "/api/v2/aibridge/serve")
"""Where coderd serves gateways, and where it did before; the first that exists is used."""

_MAX_REDIRECTS = 3
_KEY_HEADER = "X-Coder-AI-Governance-Gateway-Key"
_BUILD_HEADER = "X-Coder-Build-Version"


_NAMES = {"key": "the AI Gateway key (--key, --key-file)"}


def _one_line(_instance: object, attribute: Attribute[str], value: str) -> None:
    if not is_one_line(value):
        name = _NAMES.get(attribute.name, attribute.name)
        raise DialError(f"{name} must be one line of ASCII text", fatal=True)


def _one_line_each(instance: object, attribute: Attribute[Any], value: Mapping[str, str]) -> None:
    for name, text in value.items():
        _one_line(instance, attribute, f"{name}{text}")


def _web_address(_instance: object, _attribute: Attribute[str], value: str) -> None:
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise DialError(
            "the address of the Coder deployment (--url, CODER_URL) must begin with http:// or "
            "https:// and have a host",
            fatal=True,
        )


@frozen(kw_only=True)
class DialSettings:
    """Where coderd is and how to get there.  Raises DialError for values that cannot work."""

    url: str = field(validator=_web_address)
    """Of the deployment, http or https; a path in it has no meaning."""
    key: str = field(repr=False, validator=_one_line)
    build_version: str = field(default="v0.0.0", validator=_one_line)
    headers: Mapping[str, str] = field(factory=dict, repr=False, validator=_one_line_each)
    """Sent along, for whatever stands before coderd."""
    header_command: str = field(default="", repr=False)
    """A command that writes more of them, run at each dial."""
    ca_file: str = ""
    """CODER_CLIENT_TLS_CA_FILE; empty: the system's authorities."""
    cert_file: str = ""
    key_file: str = ""
    """CODER_CLIENT_TLS_CERT_FILE and _KEY_FILE, both or none."""
    proxy: str | None = field(default=None, repr=False)
    """Address of a proxy, empty for none, None for what the environment says."""
    timeout: float = 15.0
    """Seconds for a whole attempt: connecting, TLS and the upgrade."""

    @property
    def address(self) -> str:
        """Scheme, host and port of the deployment."""
        return serve_url(self.url, "", None)

    def extra_headers(self) -> dict[str, str]:
        """Headers for this dial; those of the command win.  Raises DialError, which shows none."""
        if not self.header_command:
            return dict(self.headers)
        try:
            found = headers_of_command(self.header_command, self.address, self.timeout)
        except (HeaderCommandFailed, BadHeader) as ex:
            raise DialError(f"--header-command (CODER_HEADER_COMMAND): {ex}") from ex
        again = {name.lower() for name in found}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in again}
        return {**kept, **found}

    def tls_context(self) -> ssl.SSLContext:
        """Read the files; certificates that were renewed are used from the next dial on.

        Raises DialError that names the setting.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ValueError) as ex:
            raise DialError(
                f"CODER_CLIENT_TLS_CA_FILE: cannot read authorities from {self.ca_file}: {ex}",
                fatal=True,
            ) from ex
        accept_company_authorities(context)
        # A wire never has to read before it can send.
        context.options |= ssl.OP_NO_RENEGOTIATION
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file or None)
            except (OSError, ValueError) as ex:
                raise DialError(
                    "CODER_CLIENT_TLS_CERT_FILE, CODER_CLIENT_TLS_KEY_FILE: cannot use "
                    f"{self.cert_file} with {self.key_file}: {ex}",
                    fatal=True,
                ) from ex
        return context


class Dialer:
    """Makes connections to one coderd, from any thread.

    Each dial starts from the newest version and path: coderd may have been upgraded since
    the last one.
    """

    def __init__(self, settings: DialSettings) -> None:
        self._settings = settings

    def dial(self) -> tuple[Channel, ApiVersion]:
        """Connect and agree on a version.  Blocks.

        Raises UpgradeRefused when coderd says no, DialError when it is not reached; both
        say whether it is ``fatal``.
        """
        extra = self._settings.extra_headers()
        try:
            return self._dial_path(PATHS[0], extra)
        except UpgradeRefused as ex:
            if ex.status != 404:
                raise
            missing = ex
        try:
            return self._dial_path(PATHS[1], extra)
        except UpgradeRefused as ex:
            # Neither path exists: name the one that should.
            raise missing if ex.status == 404 else ex from None

    def _dial_path(self, path: str, extra: Mapping[str, str]) -> tuple[Channel, ApiVersion]:
        try:
            return self._connect(path, NEWEST, extra), NEWEST
        except UpgradeRefused as ex:
            version = ex.older_version()
            if version is None:
                raise
        return self._connect(path, version, extra), version

    def _connect(self, path: str, version: ApiVersion, extra: Mapping[str, str]) -> Channel:
        settings = self._settings
        url = serve_url(settings.url, path, version)
        headers = {
            **extra,
            _KEY_HEADER: settings.key,
            _BUILD_HEADER: settings.build_version,
            "User-Agent": f"aigateway/{settings.build_version}",
        }
        for _ in range(_MAX_REDIRECTS):
            try:
                return self._open(url, headers)
            except UpgradeRefused as ex:
                target = _followable(url, ex)
                if target is None:
                    raise
                url = target
        return self._open(url, headers)

    def _open(self, url: str, headers: Mapping[str, str]) -> Channel:
        context = self._settings.tls_context() if url.startswith("https:") else None
        return open_channel(
            url,
            headers,
            context=context,
            timeout=self._settings.timeout,
            proxy=self._settings.proxy,
        )


def serve_url(base: str, path: str, version: ApiVersion | None) -> str:
    """The address to dial: scheme, host and port of ``base``, without its path and user."""
    parts = urlsplit(base)
    host = parts.netloc.rpartition("@")[2]
    query = urlencode({"version": version}) if version else ""
    return urlunsplit((parts.scheme, host, path, query, ""))


def _followable(url: str, refusal: UpgradeRefused) -> str | None:
    """Where a redirect leads, if the gateway key may go there: same host, no TLS lost."""
    if refusal.status not in (301, 302, 303, 307, 308) or not refusal.location:
        return None
    try:
        target = urljoin(url, refusal.location)
        here, there = urlsplit(url), urlsplit(target)
    except ValueError:
        return None
    same_host = here.hostname == there.hostname
    schemes = ("https",) if here.scheme == "https" else ("http", "https")
    return target if same_host and there.scheme in schemes else None
