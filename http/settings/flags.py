"""The options as click options: for ``aigateway start``'s help and for parsing alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from aigateway.http.settings._option import OLD_FLAG, Option
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.near import near_names, suggestion
from aigateway.http.settings.table import GROUPS, OPTIONS

__all__ = ["SettingsCommand", "parse_flags", "settings_options"]

F = TypeVar("F", bound=Callable[..., Any])


class _SettingsOption(click.Option):
    """A click option that leaves values as text: the table knows how to read them."""

    def __init__(self, row: Option, *, hidden_names: bool = False) -> None:
        names = row.hidden_flags if hidden_names else row.flags
        self.group = row.group
        flag: dict[str, Any] = {}
        if row.kind.alone:
            # `--flag`, `--flag=false`: as in the reference.
            flag = {"is_flag": False, "flag_value": row.kind.alone}
        super().__init__(
            [(OLD_FLAG if hidden_names else "") + row.name, *names],
            metavar=row.kind.metavar,
            help=_help(row),
            hidden=row.hidden or hidden_names,
            multiple=row.kind.is_list,
            type=click.UNPROCESSED,
            **flag,
        )


def _help(row: Option) -> str:
    notes = []
    if row.envs:
        notes.append("env " + ", ".join(row.envs))
    if row.yaml:
        notes.append("YAML " + row.yaml)
    shown = row.default_note or row.default
    notes.append(f"default {shown}" if shown else "no default")
    return f"{row.help}  [{'; '.join(notes)}]"


def _params(names: Iterable[str] | None) -> list[click.Parameter]:
    wanted = None if names is None else set(names)
    rows = [row for row in OPTIONS if wanted is None or row.name in wanted]
    params: list[click.Parameter] = [_SettingsOption(row) for row in rows if row.flags]
    params += [_SettingsOption(row, hidden_names=True) for row in rows if row.hidden_flags]
    return params


class SettingsCommand(click.Command):
    """A command whose help shows the options by group, and that says which one was meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as ex:
            params = [p for p in self.get_params(ctx) if not (p.name or "").startswith(OLD_FLAG)]
            known = [name for param in params for name in param.opts if name.startswith("--")]
            near = near_names(ex.option_name, known)
            text = f"No such option: {ex.option_name}{suggestion(near)}"
            raise click.UsageError(text, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", "Other options"), []).append(record)
        for name in (*GROUPS, "Other options"):
            if name in groups:
                with formatter.section(name):
                    formatter.write_dl(groups[name])


def settings_options(only: Iterable[str] | None = None) -> Callable[[F], F]:
    """Add the table's options (or those named in ``only``) to a click command.

    The function receives them as raw keyword arguments by option name, None for those that
    were not given: collect them in ``**flags`` and pass them to ``load``.
    """

    def decorate(function: F) -> F:
        if isinstance(function, click.Command):
            function.params.extend(_params(only))
            return function
        params = function.__dict__.setdefault("__click_params__", [])
        params.extend(reversed(_params(only)))
        return function

    return decorate


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Parse ``argv`` (the arguments after the command's name) to raw values by option name.

    Raises SettingsError with click's text, which suggests the near name for a typo.
    """
    command = SettingsCommand("start", params=_params(None), add_help_option=False)
    try:
        context = command.make_context("start", list(argv))
    except click.UsageError as ex:
        raise SettingsError(ex.format_message()) from None
    return dict(context.params)
