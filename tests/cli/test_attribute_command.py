"""``aigateway attribute``: what it prints does what it says, in a shell and in a repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from aigateway.actors.codec.headers import HeaderList
from aigateway.actors.interception.attribution import attribution_of
from aigateway.actors.interception.headers import identify
from aigateway.actors.values.attribution import Attribution
from aigateway.http.cli.attribute import command


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def read(headers: str) -> Attribution:
    """What the gateway makes of Claude Code's ANTHROPIC_CUSTOM_HEADERS."""
    pairs = [line.partition(":")[::2] for line in headers.splitlines()]
    listed = HeaderList([(name.strip(), value.strip()) for name, value in pairs])
    found, dropped = attribution_of(listed, identify(listed, lambda: b"{}"))
    assert dropped == ()
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    git("init", "--initial-branch", "fix/size")
    git("remote", "add", "origin", "https://ada:secret@git.example/acme/shop.git")
    git("commit", "--allow-empty", "-m", "begin")
    return folder


def run(script: str, name: str, variable: str, folder: Path, tmp_path: Path) -> str:
    """Call the function that ``script`` defines around a program, which prints a variable."""
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s" "${variable}"\n')
    program.chmod(0o755)
    return call(script, f"{name} --print", folder, tmp_path)


def call(script: str, line: str, folder: Path, tmp_path: Path) -> str:
    """What a line prints behind ``script``, with the programs of :func:`run`."""
    environ = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{line}"],
        cwd=folder, env=environ, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_claude_code_tells_what_it_is_started_in(repository: Path, tmp_path: Path) -> None:
    text = printed("claude-code", "--project", "web shop")
    script, _, setting = text.partition("# Or,")
    told = run(script, "claude", "ANTHROPIC_CUSTOM_HEADERS", repository, tmp_path)
    assert "secret" not in told
    found = read(told)
    assert (found.project, found.repository, found.branch) == (
        "web shop",
        "git.example/acme/shop",
        "fix/size",
    )
    assert found.commit is not None
    assert len(found.commit) == 40
    fixed = json.loads(setting[setting.index("{") :])["env"]["ANTHROPIC_CUSTOM_HEADERS"]
    assert read(fixed) == Attribution(project="web shop", repository="github.com/OWNER/NAME")


def test_outside_of_a_repository_nothing_bad_is_told(tmp_path: Path) -> None:
    script, _, _setting = printed("claude-code").partition("# Or,")
    told = run(script, "claude", "ANTHROPIC_CUSTOM_HEADERS", tmp_path, tmp_path)
    assert read(told) == Attribution()


def test_codex_is_told_project_and_branch_whatever_is_in_its_file(
    repository: Path, tmp_path: Path
) -> None:
    script, _, line = printed("codex", "--project", "web shop").partition("# Or,")
    assert run(script, "codex", "AIGATEWAY_BRANCH", repository, tmp_path) == "fix/size"
    (tmp_path / "bin/codex").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    told = call(script, "codex exec 'Say hello'", repository, tmp_path).splitlines()
    assert told[0::2] == ["-c", "-c", "exec"]
    assert told[-1] == "Say hello"
    given = [tomllib.loads(each) for each in told[1:4:2]]
    (fixed, named) = [each["model_providers"]["aigateway"] for each in given]
    assert fixed == {"http_headers": {"X-AI-Gateway-Project": "web shop"}}
    assert named == {"env_http_headers": {"X-AI-Gateway-Branch": "AIGATEWAY_BRANCH"}}
    # The table is in the file already, and TOML knows no second one.
    table = '[model_providers.aigateway]\nname = "aigateway"\n'
    pasted = tomllib.loads(table + line.partition("\n")[2])
    assert pasted["model_providers"]["aigateway"] == {"name": "aigateway", **fixed}


def test_each_start_of_gemini_cli_is_a_session(repository: Path, tmp_path: Path) -> None:
    script = printed("gemini-cli", "--project", "web shop")
    told = run(script, "gemini", "GEMINI_CLI_CUSTOM_HEADERS", repository, tmp_path)
    # Gemini CLI 0.61 takes a comma for the end of a header where another one's name follows.
    found = read("\n".join(re.split(r",(?=\s*[^,:]+:)", told)))
    assert (found.project, found.repository, found.branch) == (
        "web shop",
        "git.example/acme/shop",
        "fix/size",
    )
    assert found.session_id is not None
    assert found.commit is not None


@pytest.mark.parametrize("project", ["$(id)", 'a"b', "a`b", "a\\b", "a\nb", "größe", ""])
def test_a_project_that_a_shell_would_run_is_refused(project: str) -> None:
    result = CliRunner().invoke(command, ["claude-code", "--project", project])
    assert result.exit_code == 2
    assert "--project" in result.stderr
