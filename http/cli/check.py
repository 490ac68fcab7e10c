"""``aigateway check``: the effective configuration, where each value is from, what is wrong."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from attrs import define, field

from aigateway.actors.control.local.address import is_postgresql
from aigateway.actors.interception.headers import mask
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.cli._file_checks import check_files
from aigateway.http.settings import (
    OPTIONS,
    Option,
    OptionWarning,
    Settings,
    SettingsError,
    all_failed,
    build_providers,
    examine,
    provider_outcomes,
    provider_warnings,
    read_providers,
)
from aigateway.http.settings.flags import SettingsCommand, settings_options
from aigateway.http.settings.table import GROUPS

if TYPE_CHECKING:
    from aigateway.http.diagnosis.dialling import Dialled

from aigateway.http.settings.printable import printable

__all__ = [
    "Report",
    "command",
    "dial_all",
    "examine_all",
    "report_as_json",
    "report_as_lines",
]


@define
class Report:
    """Everything that can be said; ``dialled`` is empty unless somebody was."""

    settings: Settings
    providers: tuple[ProviderConfig, ...] = ()
    errors: list[str] = field(factory=list)
    warnings: list[OptionWarning] = field(factory=list)
    dialled: list[Dialled] = field(factory=list)


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--changed", is_flag=True, help="Leave out options that have their default.")
@click.option(
    "--dial",
    is_flag=True,
    help="Dial each provider with each of its keys, and coderd or PostgreSQL.",
)
@settings_options()
def command(as_json: bool, changed: bool, dial: bool, **flags: object) -> None:
    """Show the effective configuration and what is wrong with it.

    Takes the options and the environment of `aigateway start`. Secrets are masked. Exits with
    1 when something is wrong.
    """
    report = examine_all(flags)
    if dial:
        dial_all(report)
    if as_json:
        click.echo(json.dumps(report_as_json(report, changed=changed), indent=2))
    else:
        for line in report_as_lines(report, changed=changed):
            click.echo(line)
    if report.errors:
        raise SystemExit(1)


def examine_all(flags: dict[str, object]) -> Report:
    """Load everything from ``flags`` and the environment, collecting what is wrong."""
    settings, errors = examine(flags, os.environ)
    report = Report(settings, errors=[str(error) for error in errors])
    report.warnings += settings.warnings
    try:
        listed = read_providers(settings.provider_environ, settings.provider_commands)
    except SettingsError as ex:
        report.errors.append(str(ex))
    else:
        report.providers = build_providers(listed.entries, settings)
        report.warnings += listed.warnings
        report.warnings += provider_warnings(report.providers)
    report.errors += [f'provider "{p.name}": {p.error}' for p in report.providers if p.error]
    if all_failed(report.providers):
        report.errors.append(
            "all enabled ai providers failed to build; only disabled providers remain"
        )
    if settings.local and not report.providers:
        text = "no provider is configured: set this and its KEY, or CODER_AI_GATEWAY_OPENAI_KEY"
        report.warnings.append(OptionWarning(text, "CODER_AI_GATEWAY_PROVIDER_0_TYPE"))
    report.errors += check_files(settings, report.providers)
    return report


def dial_all(report: Report) -> None:
    """Dial every provider that could serve, and coderd or the database server that is used."""
    # Only here: what calls providers is a large part of the gateway.
    from aigateway.http.diagnosis.dialling import dial_coderd, dial_database, dial_providers

    report.dialled = dial_providers(report.providers)
    settings = report.settings
    if not settings.local and settings.url and settings.gateway_key:
        report.dialled.append(dial_coderd(settings))
    if settings.local and is_postgresql(settings.local_db):
        report.dialled.append(dial_database(settings.local_db))
    report.errors += [
        f"{_target(each)}, {each.what}: {each.problem}" for each in report.dialled if each.problem
    ]


def _target(dialled: Dialled) -> str:
    if dialled.target in ("coderd", "local database"):
        return dialled.target
    return f'provider "{dialled.target}"'


# -- as text


def report_as_lines(report: Report, *, changed: bool) -> Iterator[str]:
    """For people; ``changed`` leaves out options that have their default."""
    for group in GROUPS:
        rows = [row for row in _rows(report.settings, changed) if row.group == group]
        if rows:
            yield group
            yield from _columns([_option_cells(row, report.settings) for row in rows])
            yield ""
    yield "Configured providers"
    yield from _provider_lines(report)
    yield ""
    if report.dialled:
        yield "Dialled"
        yield from _columns([_dial_cells(each) for each in report.dialled])
        yield ""
    if report.warnings:
        yield "Warnings"
        yield from (f"  {w.setting}: {w.message}" for w in report.warnings)
        yield ""
    if report.errors:
        yield "Wrong"
        yield from (f"  {error}" for error in report.errors)
    else:
        yield "Nothing is wrong."


def _rows(settings: Settings, changed: bool) -> Iterator[Option]:
    for row in OPTIONS:
        is_default = settings.sources[row.name].kind == "default"
        if not is_default or not (changed or row.hidden):
            yield row


def _option_cells(row: Option, settings: Settings) -> tuple[str, str, str]:
    shown = row.show(getattr(settings, row.name))
    return row.shown, printable(shown) or "-", str(settings.sources[row.name])


def _provider_lines(report: Report) -> Iterator[str]:
    if not report.providers:
        where = "none" if report.settings.local else "none here: the Coder deployment has them"
        yield f"  {where}"
        return
    cells = []
    for provider, outcome in zip(
        report.providers, provider_outcomes(report.providers), strict=True
    ):
        cells.append(
            (
                printable(provider.name),
                printable(provider.type) or "-",
                outcome.status,
                _address(provider.base_url) or "-",
                _credentials(provider),
                f"fallback {printable(', '.join(provider.fallback))}" if provider.fallback else "",
                f"group {_group(provider)}" if provider.group else "",
            )
        )
    yield from _columns(cells)


def _group(provider: ProviderConfig) -> str:
    return printable(", ".join(f"{name}:{weight}" for name, weight in provider.group))


def _dial_cells(each: Dialled) -> tuple[str, ...]:
    return (
        each.target,
        printable(each.what),
        str(each.status or "-"),
        f"{each.seconds * 1000:.0f} ms",
        printable(each.problem or each.note or "fine"),
    )


def _credentials(provider: ProviderConfig) -> str:
    if provider.bedrock is not None:
        if provider.bedrock.bearer_token:
            token = mask(provider.bedrock.bearer_token)
            return f"aws bearer token {token}{_by_command(provider)}"
        access_key = mask(provider.bedrock.access_key)
        return f"aws key {access_key}" if access_key else "aws credential chain"
    if provider.vertex is not None:
        return f"google credentials of {provider.vertex.credentials_file or 'the machine'}"
    if provider.keys:
        return "keys " + ", ".join(map(mask, provider.keys)) + _by_command(provider)
    if provider.no_key:
        return "no key"
    return "the user's own key"


def _by_command(provider: ProviderConfig) -> str:
    """Whether it is renewed, and when it ends if that is known."""
    command = provider.key_command
    if command is None:
        return ""
    if command.expires_at is None:
        return " by a command"
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(command.expires_at))
    return f" by a command, until {ends}"


def _address(url: str) -> str:
    """Without a password that somebody has put into it."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return printable(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}")


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


# -- as JSON


def report_as_json(report: Report, *, changed: bool) -> dict[str, object]:
    """The same for programs."""
    settings = report.settings
    return {
        "ok": not report.errors,
        "errors": report.errors,
        "warnings": [{"setting": w.setting, "message": w.message} for w in report.warnings],
        "settings": {
            row.name: {
                "value": _json_value(row, getattr(settings, row.name)),
                "source": settings.sources[row.name].kind,
                "from": settings.sources[row.name].name,
            }
            for row in _rows(settings, changed)
        },
        "providers": [
            {
                "name": outcome.name,
                "type": outcome.type,
                "status": outcome.status,
                "error": outcome.error or None,
                "base_url": _address(provider.base_url),
                "credentials": _credentials(provider),
                "fallback": list(provider.fallback),
            }
            for provider, outcome in zip(
                report.providers, provider_outcomes(report.providers), strict=True
            )
        ],
        "dialled": [
            {
                "target": each.target,
                "credential": each.what,
                "status": each.status,
                "duration_ms": round(each.seconds * 1000, 1),
                "note": each.note,
                "problem": each.problem or None,
            }
            for each in report.dialled
        ],
    }


def _json_value(row: Option, value: object) -> Any:
    if row.secret or row.kind.may_hold_secret or isinstance(value, str):
        return row.show(value)
    return list(value) if isinstance(value, tuple) else value
