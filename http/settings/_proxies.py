"""Which HTTP proxy leads to an address.

``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` are read by curl's rules:
lower-case names first, a host in ``NO_PROXY`` covers its sub-domains, ``*`` covers everything,
networks may be given as ``10.0.0.0/8``.  The machine itself is never reached by a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

__all__ = ["PROXY_VARIABLES", "proxy_for"]

PROXY_VARIABLES = frozenset(
    name
    for base in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (base, base.upper())
)


def proxy_for(url: str, environ: Mapping[str, str]) -> str:
    """Return the address of the proxy to reach ``url``, or an empty text for none."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    names = (f"{parts.scheme}_proxy", "all_proxy")
    if _is_loopback(host) or _excepted(host, port, _value("no_proxy", environ)):
        return ""
    proxy = next((value for name in names if (value := _value(name, environ))), "")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _value(name: str, environ: Mapping[str, str]) -> str:
    # HTTP_PROXY is what a CGI server makes of a client's "Proxy:" header; this is no CGI.
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_loopback(host: str) -> bool:
    return host == "localhost" or _in_network(host, "127.0.0.0/8") or host == "::1"


def _excepted(host: str, port: int, exceptions: str) -> bool:
    for item in exceptions.replace(",", " ").split():
        pattern = item.lower().removeprefix("*.").lstrip(".")
        if item == "*" or _in_network(host, pattern):
            return True
        name, colon, wanted = pattern.rpartition(":")
        if colon and wanted.isdigit() and "]" not in wanted:
            if int(wanted) != port:
                continue
            pattern = name
        pattern = pattern.strip("[]")
        if host == pattern or host.endswith(f".{pattern}"):
            return True
    return False


def _in_network(host: str, pattern: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern.strip("[]"), strict=False)
    except ValueError:
        return False
