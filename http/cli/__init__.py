"""The command line: one module per command, imported when its command is called.

Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

__all__ = ["COMMANDS", "cli", "run"]

COMMANDS = {
    "start": "Start the gateway.",
    "demo": "Try it out: a gateway in front of an imitation provider.",
    "console": "Serve pages that show what the gateway knows.",
    "usage": "Show who used what, from the local database.",
    "sessions": "List sessions: who worked on what, and what it cost.",
    "me": "Show your own sessions and usage, with your own key.",
    "session": "Show what happened in a session.",
    "prices": "Show prices, what has none, and work costs out again.",
    "users": "Make, list and disable users of the embedded control plane.",
    "groups": "Put users of the embedded control plane into groups.",
    "policy": "Show and change what users, groups and keys may.",
    "caps": "Show how full the caps of a policy are.",
    "keys": "Make, list and revoke keys of the embedded control plane.",
    "admin": "Serve the admin API, and make keys for it.",
    "export": "Write records of the local database as JSON lines or CSV.",
    "retention": "Delete old records from the local database, or say what would go.",
    "attribute": "Print what makes clients say for which work they ask.",
    "db": "Show, upgrade or copy the local database.",
    "actors": "List and restart the actors of a running gateway.",
    "check": "Show the effective configuration and what is wrong with it.",
    "bundle": "Write a support archive to attach to a bug report.",
    "version": "Show versions.",
}
"""Each is a module of this package with an attribute ``command``.  The short help is here so
that ``aigateway --help`` need not import them all."""


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as ex:
            ctx.fail(f"No such option: {ex.option_name}{_misplaced(ex.option_name)}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            # Not at the top: it is only needed for a typo.
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _misplaced(flag: str) -> str:
    """Where an option belongs that was given before the command, as the reference allows it."""
    # Not at the top: the settings cost more to import than all of click.
    from aigateway.http.settings.near import near_names
    from aigateway.http.settings.table import OPTIONS

    known = [name for row in OPTIONS for name in (*row.flags, *row.hidden_flags)]
    near = [flag] if flag in known else near_names(flag, known)
    if not near:
        return ""
    return f"; options stand behind the command, did you mean aigateway start {near[0]}?"


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from aigateway.http.settings.version import own_version

        click.echo(f"aigateway {own_version()}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """An AI gateway: it checks who may call, calls the provider with keys the user never sees,
    relays the answer byte for byte, and records who asked what."""


def run(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` (without the program's name); return the exit code."""
    try:
        cli.main(list(argv), prog_name="aigateway")
    except SystemExit as ex:
        return ex.code if isinstance(ex.code, int) else int(bool(ex.code))
    except Exception as ex:
        # Not at the top: the settings cost more to import than all of click.
        from aigateway.http.settings.errors import SettingsError

        if not isinstance(ex, SettingsError):
            raise
        click.echo(f"aigateway: error: {ex}", err=True)
        return 2
