"""``aigateway attribute``: lines that make clients say for which work they ask."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import click

from aigateway.actors.interception.attribution import (
    BRANCH,
    COMMIT,
    PROJECT,
    REPOSITORY,
    SESSION,
)

__all__ = ["command"]

_PROJECT = re.compile(r"[\w .:@/+=~#-]{1,128}", re.ASCII)


@click.command(name="attribute")
@click.argument("client", type=click.Choice(["claude-code", "codex", "gemini-cli"]))
@click.option(
    "--project",
    metavar="NAME",
    help="The project that the requests are for, unless the key has one.  [default: none]",
)
def command(client: str, project: str | None) -> None:
    """Print lines for a user to paste, so that requests say for which project, repository, branch
    and commit they are.

    Which session and which agent asks Claude Code and Codex say by themselves, and Codex also the
    repository and commit. For Gemini CLI each start is a session. The gateway keeps what it is
    told beside each request, and sends its own headers to no provider.
    """
    # It stands in a shell's quotes, in JSON and in TOML.
    if project is not None and not _PROJECT.fullmatch(project):
        raise click.BadParameter(
            "write it with at most 128 letters, digits, spaces and . _ : @ / + = ~ # -",
            param_hint="--project",
        )
    click.echo(_CLIENTS[client](project), nl=False)


# The address of a remote may hold a token; sed takes it out before anybody hears of it.
_REMOTE = "git config --get remote.origin.url 2>/dev/null | sed 's#//[^/@]*@#//#'"
_ON_BRANCH = "git symbolic-ref --quiet --short HEAD 2>/dev/null"
_AT_COMMIT = "git rev-parse --quiet --verify HEAD 2>/dev/null"


def _claude_code(project: str | None) -> str:
    fixed = [f"{PROJECT}: {project}"] if project else []
    told = (
        *fixed,
        f"{REPOSITORY}: $({_REMOTE})",
        f"{BRANCH}: $({_ON_BRANCH})",
        f"{COMMIT}: $({_AT_COMMIT})",
    )
    headers = "\n".join(told)
    same = "\n".join([*fixed, f"{REPOSITORY}: github.com/OWNER/NAME"])
    setting = {"env": {"ANTHROPIC_CUSTOM_HEADERS": same}}
    return f"""\
# Either for ~/.bashrc or ~/.zshrc: where Claude Code is started says what it works on.
claude() {{
  ANTHROPIC_CUSTOM_HEADERS="{headers}" command claude "$@"
}}

# Or, if branches do not matter, for the repository's .claude/settings.json:
{json.dumps(setting, indent=2)}
"""


def _codex(project: str | None) -> str:
    table = "model_providers.aigateway"
    fixed = f'{{"{PROJECT}"="{project}"}}'
    told = f'{{"{BRANCH}"="AIGATEWAY_BRANCH"}}'
    # Options, since a table may stand in a file once only, and is there already.
    options = [f"-c '{table}.env_http_headers={told}'"]
    also = ""
    if project:
        options.insert(0, f"-c '{table}.http_headers={fixed}'")
        also = f"""
# Or, if branches do not matter, for ~/.codex/config.toml, below the line [{table}]:
http_headers = {{ "{PROJECT}" = "{project}" }}
"""
    lines = " \\\n    ".join([*options, '"$@"'])
    return f"""\
# For ~/.bashrc or ~/.zshrc: where Codex is started says the branch.  It tells the repository and
# the commit by itself.  The gateway is the provider "aigateway" of ~/.codex/config.toml here.
codex() {{
  AIGATEWAY_BRANCH="$({_ON_BRANCH})" command codex \\
    {lines}
}}
{also}"""


def _gemini_cli(project: str | None) -> str:
    fixed = [f"{PROJECT}: {project}"] if project else []
    told = (
        f"{SESSION}: $(date +%s)-$$",
        *fixed,
        f"{REPOSITORY}: $({_REMOTE})",
        f"{BRANCH}: $({_ON_BRANCH})",
        f"{COMMIT}: $({_AT_COMMIT})",
    )
    headers = ", ".join(told)
    return f"""\
# For ~/.bashrc or ~/.zshrc: where Gemini CLI is started says what it works on.
gemini() {{
  GEMINI_CLI_CUSTOM_HEADERS="{headers}" command gemini "$@"
}}
"""


_CLIENTS: dict[str, Callable[[str | None], str]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "gemini-cli": _gemini_cli,
}
