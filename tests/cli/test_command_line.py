"""The command line as a whole: a real process, help, errors, exit codes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aigateway.http import cli as package
from aigateway.http.cli import COMMANDS, cli, run
from aigateway.http.settings import SettingsError
from aigateway.http.settings.version import own_version

CHECKOUT = Path(__file__).parents[2]


def aigateway(*argv: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aigateway.http", *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_help_lists_every_command_without_importing_any() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from aigateway.http.cli import run; code = run(['--help']); "
            "print('imported:', *sys.modules); sys.exit(code)",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    text, _, imported = done.stdout.partition("imported:")
    for name, help_text in COMMANDS.items():
        assert f"  {name} " in text
        assert help_text in text
        assert f"aigateway.http.cli.{name}" not in imported.split()
    for heavy in ("attrs", "structlog", "falcon", "gunicorn", "requests", "yaml", "rich"):
        assert heavy not in imported.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_is_there_has_help(name: str) -> None:
    if importlib.util.find_spec(f"{package.__name__}.{name}") is None:
        pytest.skip(f"{name} is not there")
    command = importlib.import_module(f"{package.__name__}.{name}").command
    assert isinstance(command, click.Command)
    assert command.help or command.get_short_help_str()


def test_an_unknown_command_suggests_the_near_one() -> None:
    done = aigateway("chekc")
    assert done.returncode == 2
    assert "No such command 'chekc'. Did you mean 'check'?" in done.stderr


def test_an_unknown_flag_suggests_the_near_one() -> None:
    done = aigateway("check", "--htp-address", "x")
    assert done.returncode == 2
    assert "--htp-address" in done.stderr
    assert "--http-address" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["start", "--rate-limit", "3"], "did you mean --ai-gateway-rate-limit?"),
        (["start", "--http_address", "x"], "did you mean --http-address?"),
        (["check", "--prometheus-enabled"], "did you mean --prometheus-enable?"),
        (["start", "--experiment", "x"], "did you mean --experiments?"),
        (["--url", "http://x", "start"], "did you mean aigateway start --url?"),
        (["--verbos", "start"], "did you mean aigateway start --verbose?"),
    ],
)
def test_a_misspelt_or_misplaced_flag_says_what_was_meant(
    argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    assert meant in capsys.readouterr().err


def test_a_flag_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["start", "--zebra"], ["--zebra"]):
        assert run(argv) == 2
        told = capsys.readouterr().err
        assert "--zebra" in told
        assert "mean" not in told


def test_wrong_settings_are_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def broken() -> None:
        raise SettingsError("--workers: is wrong")

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: broken)
    assert run(["check"]) == 2
    assert capsys.readouterr().err == "aigateway: error: --workers: is wrong\n"


def test_an_error_of_our_own_making_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["check"])


def test_version_names_what_is_installed() -> None:
    done = aigateway("version", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["aigateway"] == own_version() != "not installed"
    assert found["python"] == sys.version.split()[0]
    assert found["gunicorn"] != "not installed"
    text = aigateway("version").stdout
    assert text.splitlines()[0].split() == ["aigateway", own_version()]
    assert aigateway("--version").stdout == f"aigateway {own_version()}\n"


def test_the_standard_librarys_http_wins_from_the_top_of_the_checkout() -> None:
    for argv in (
        ["-c", "import http.client, http.server, http.cookies"],
        ["-m", "pip", "--version"],
        ["-m", "http.server", "--help"],
    ):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=CHECKOUT)
        assert done.returncode == 0, done.stderr
