"""The options of the console, a part of the table: where it is reached, and who signs in."""

from __future__ import annotations

from functools import partial

from attrs import frozen

from aigateway.http.settings._kinds import PATH, STRING, URL, WORDS, optional_address
from aigateway.http.settings._option import option

__all__ = ["ConsoleOptions"]

_console = partial(option, group="Console")


@frozen(kw_only=True)
class ConsoleOptions:
    """What :class:`~.table.Settings` has of the console."""

    console: str = _console(
        optional_address("127.0.0.1:4002"),
        help="Run the console beside the gateway, as a process of its own that listens there, at"
        " 127.0.0.1:4002 unless an address is given. Needs the extra console.",
    )
    console_url: str = _console(
        URL,
        help="The console's address as browsers see it: https:// and a name, no path. Needed where"
        " it listens beyond loopback addresses, or a proxy stands before it.",
    )
    console_tls_cert_file: str = _console(
        PATH, help="PEM file with the certificate (chain) that the console serves TLS with."
    )
    console_tls_key_file: str = _console(
        PATH, help="PEM file with the private key of --console-tls-cert-file."
    )
    oidc_issuer: str = _console(
        URL,
        help="OpenID provider that signs people in to the console: its issuer, as its discovery"
        " document has it.",
    )
    oidc_client_id: str = _console(STRING, help="The console's client id with --oidc-issuer.")
    oidc_client_secret: str = _console(
        STRING,
        secret=True,
        flag="",
        yaml="",
        help="The console's secret with --oidc-issuer. Without one it is a public client.",
    )
    oidc_scopes: tuple[str, ...] = _console(
        WORDS,
        "openid,profile,email",
        help="What is asked for at --oidc-issuer. Some providers tell groups only to those who ask"
        " for groups.",
    )
    oidc_user_claim: str = _console(
        STRING,
        "email",
        help="The claim that says which user of the gateway somebody is: its value is the user's"
        " name. An email counts only if it is verified.",
    )
    oidc_groups_claim: str = _console(
        STRING,
        "groups",
        help="The claim with the groups of --oidc-admins and --oidc-viewers; realm_access.roles"
        " is the claim roles within the claim realm_access.",
    )
    oidc_admins: tuple[str, ...] = _console(
        WORDS, help="Groups whose members see and change all in the console."
    )
    oidc_viewers: tuple[str, ...] = _console(
        WORDS,
        help="Groups whose members see all in the console and change nothing. Who is in none of"
        " these and not in --oidc-admins sees what is theirs.",
    )
