"""Where an upstream or a proxy is."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

__all__ = ["PROXY_SCHEMES", "Endpoint", "Proxy"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
PROXY_SCHEMES = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""How proxies are spoken to, with the port where the address has none (as curl has them).  With
``https`` by TLS; with ``socks5h`` the proxy resolves names, with ``socks5`` the gateway does."""


@frozen
class Endpoint:
    """One host and port, and how to speak to it."""

    scheme: str
    host: str
    """A name in its ASCII form, or a numeric address without brackets."""
    port: int

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """Take apart ``url``.  Raises ValueError unless it is http or https with a host."""
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("the address must begin with http:// or https://")
        if not parts.hostname:
            raise ValueError("the address has no host")
        port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
        if port == 0:
            raise ValueError("the address has port 0")
        return cls(parts.scheme, _ascii(parts.hostname), port)

    @property
    def numeric(self) -> bool:
        """Whether the host needs no resolving."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def authority(self) -> str:
        """Host and port, an IPv6 address in brackets."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of ``Host``: the scheme's own port is left out."""
        if self.port == _DEFAULT_PORTS[self.scheme]:
            return self._bracketed
        return self.authority

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@frozen
class Proxy:
    """A proxy and what it wants to know of us."""

    endpoint: Endpoint
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User and password; None for neither."""

    @classmethod
    def of(cls, url: str) -> Proxy:
        """Read ``scheme://[user:password@]host[:port]``; :data:`PROXY_SCHEMES` has the schemes.

        Raises ValueError, whose text has no credentials in it.
        """
        parts = urlsplit(url)
        if parts.scheme not in PROXY_SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
            if "://" not in url:
                raise ValueError(f"the proxy's address begins with none of {known}")
            raise ValueError(f"a proxy by {parts.scheme}:// is not supported, only by {known}")
        try:
            port = PROXY_SCHEMES[parts.scheme] if parts.port is None else parts.port
            if not (parts.hostname and port):
                raise ValueError
            endpoint = Endpoint(parts.scheme, _ascii(parts.hostname), port)
        except ValueError:
            # Python's own texts quote what they could not read, credentials included.
            raise ValueError("the proxy's address has no valid host and port") from None
        if parts.username is None:
            return cls(endpoint)
        return cls(endpoint, (unquote(parts.username), unquote(parts.password or "")))

    @property
    def authorization(self) -> str:
        """The value of ``Proxy-Authorization``; empty: none."""
        if self.login is None:
            return ""
        return f"Basic {b64encode(':'.join(self.login).encode()).decode()}"

    @property
    def is_socks(self) -> bool:
        return self.endpoint.scheme.startswith("socks")

    @property
    def resolves(self) -> bool:
        """Whether the proxy looks up the names of upstreams; if not, we do."""
        return self.endpoint.scheme != "socks5"


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as ex:
        raise ValueError("the address has a host that is no domain name") from ex
