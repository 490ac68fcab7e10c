"""From where the console is reached: the names that it answers to, and who may stand before it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import falcon
from attrs import field, frozen

from aigateway.http.request.client_address import ClientAddresses
from aigateway.http.settings import Settings, SettingsError
from aigateway.http.settings.tls_files import console_problems

__all__ = ["Reach", "is_local_name", "reach_of"]


def is_local_name(host: str) -> bool:
    """Whether a ``Host`` header names this machine by a name that no other page can have.

    APPSEC: a page elsewhere whose name an attacker's server points at 127.0.0.1 brings that name
    along.  The port may differ: of a tunnel, for example.
    """
    name = host.rsplit(":", 1)[0] if ":" in host and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    return _is_loopback(name.strip("[]"))


@frozen
class Reach:
    """How requests come here."""

    tls: bool = False
    """The console serves TLS itself."""
    origin: str = ""
    """``--console-url`` as browsers write it: scheme, host, and the port where it is not the usual
    one; empty: there is none."""
    proxies: ClientAddresses = field(factory=lambda: ClientAddresses(()))
    local: bool = True
    """It listens on a loopback address."""

    @property
    def host(self) -> str:
        """What stands in ``Host`` behind :attr:`origin`."""
        return self.origin.partition("://")[2]

    def is_meant(self, req: falcon.Request) -> bool:
        """Whether a request names the console by a name of its own."""
        host = req.get_header("Host") or ""
        return is_local_name(host) or bool(self.host and host.lower() == self.host)

    def comes_safely(self, req: falcon.Request) -> bool:
        """Whether nobody on the way could have read a request.

        APPSEC: without TLS of its own what comes from elsewhere has to come through a proxy that is
        trusted, which then has it by TLS.
        """
        if self.tls:
            return True
        peer = req.remote_addr or ""
        if not (_is_loopback(peer) or self.proxies.trusts(peer)):
            return False
        told = req.get_header("X-Forwarded-Proto") if self.proxies.trusts(peer) else None
        return told is None or told.strip().lower() == "https"

    def origin_of(self, req: falcon.Request) -> str:
        """The origin of the page that a request to us comes from, when that is ours."""
        host = (req.get_header("Host") or "").lower()
        if self.host and host == self.host:
            return self.origin
        return f"{'https' if self.tls else 'http'}://{host}"

    def is_secure(self, req: falcon.Request) -> bool:
        """Whether the browser speaks TLS, so that cookies may be for that alone."""
        return self.origin_of(req).startswith("https://")

    def client_of(self, req: falcon.Request) -> str:
        """The address of whoever asks."""
        forwarded = req.get_header("X-Forwarded-For")
        headers = [("X-Forwarded-For", forwarded)] if forwarded else []
        return self.proxies.of(req.remote_addr or "", headers)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def reach_of(settings: Settings, address: str, flag: str = "--address") -> Reach:
    """How a console is reached that listens on ``address``, which ``flag`` gives.

    Raises SettingsError where somebody on the way could read what it shows.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise SettingsError(
            f"{flag} {address}: give HOST:PORT of a loopback address, such as 127.0.0.1:4002"
        )
    for problem in console_problems(settings):
        raise SettingsError(problem)
    origin = _origin(settings.console_url)
    tls = bool(settings.console_tls_cert_file)
    if origin.startswith("http://") and (tls or not is_local_name(origin.partition("://")[2])):
        raise SettingsError(
            f"--console-url {settings.console_url}: browsers must come by https://, with"
            " --console-tls-cert-file or through a proxy"
        )
    local = is_local_name(host)
    if not local:
        _check_beyond(settings, address, flag, origin, tls)
    return Reach(tls, origin, ClientAddresses(settings.trusted_proxies), local)


def _check_beyond(settings: Settings, address: str, flag: str, origin: str, tls: bool) -> None:
    """Raises SettingsError for what is not enough beyond loopback addresses."""
    missing = []
    if not settings.oidc_issuer:
        # The link is for whoever sits at this machine.
        missing.append("--oidc-issuer, by which people sign in")
    if not origin:
        missing.append("--console-url, the address that browsers know it by")
    if not tls and not settings.trusted_proxies:
        missing.append(
            "TLS: --console-tls-cert-file and --console-tls-key-file, or --trusted-proxies with"
            " the proxy that has it"
        )
    if missing:
        raise SettingsError(
            f"{flag} {address}: without more the console listens on loopback addresses only,"
            f" for example 127.0.0.1:4002. Beyond them it needs {'; '.join(missing)}. Or reach it"
            " through a tunnel: ssh -L 4002:127.0.0.1:4002 this-host"
        )


def _origin(url: str) -> str:
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise SettingsError(
            f"--console-url {parts.scheme}://{parts.hostname}: give scheme, name and port alone;"
            " the console has no path"
        )
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
