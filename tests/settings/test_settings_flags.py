"""Flags: parsing without side effects, help, and secrets kept out of argv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aigateway.http.settings import SettingsError, load, load_from_argv
from aigateway.http.settings.flags import (
    SettingsCommand,
    parse_flags,
    settings_options,
)


@click.command(cls=SettingsCommand)
@settings_options()
@click.option("--own", is_flag=True, help="An option of its own.")
def everything(own: bool, **flags: object) -> None:
    """A command with all options."""
    click.echo(load(flags, {}).workers)


@click.command()
@settings_options(only=("local_db", "runtime_dir"))
def few(**flags: object) -> None:
    """A command with two of the options."""
    click.echo(" ".join(sorted(flags)))


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--coderd-stream-reuse"], True),
        (["--coderd-stream-reuse=true"], True),
        (["--coderd-stream-reuse=false"], False),
        (["--coderd-stream-reuse=0", "--workers", "3"], False),
        (["--coderd-stream-reuse", "--workers", "3"], True),
    ],
)
def test_a_bool_flag_may_stand_alone_or_take_a_value(argv: list[str], value: bool) -> None:
    assert load_from_argv(["--local", *argv], {}).coderd_stream_reuse is value


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ([], ""),
        (["--console"], "127.0.0.1:4002"),
        (["--console", "--local"], "127.0.0.1:4002"),
        (["--console", "localhost:5000"], "localhost:5000"),
        (["--console=[::1]:0"], "[::1]:0"),
        (["--console=false"], ""),
    ],
)
def test_an_address_may_be_wanted_without_being_given(argv: list[str], value: str) -> None:
    assert load_from_argv([*argv, "--url", "https://c", "--key", "k"], {}).console == value


def test_an_address_that_may_be_wanted_is_an_address_in_yaml_too(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for text, value in (("true", "127.0.0.1:4002"), ("false", ""), ("'[::1]:0'", "[::1]:0")):
        file.write_text(f"ai_gateway: {{local: true, console: {text}}}")
        assert load_from_argv(["--config", str(file)], {}).console == value
    file.write_text("ai_gateway: {local: true, console: 4002}")
    with pytest.raises(SettingsError, match="host:port"):
        load_from_argv(["--config", str(file)], {})


def test_short_flags_work() -> None:
    settings = load_from_argv(["--local", "-v", "-l", "a", "-l", "b"], {})
    assert settings.verbose
    assert settings.log_filter == ("a", "b")


def test_flags_that_are_not_given_are_none() -> None:
    flags = parse_flags(["--local"])
    assert flags["local"] == "true"
    assert flags["workers"] is None


def test_an_unknown_flag_is_an_error_that_suggests_the_near_one() -> None:
    with pytest.raises(SettingsError) as caught:
        load_from_argv(["--workrs", "3"], {})
    assert "--workrs" in str(caught.value)
    assert "--workers" in str(caught.value)


@pytest.mark.parametrize("argv", [["--help"], ["stray"], ["--workers"]])
def test_parsing_never_exits(argv: list[str]) -> None:
    with pytest.raises(SettingsError):
        load_from_argv(argv, {})


def test_a_command_takes_all_options_and_its_own() -> None:
    result = CliRunner().invoke(everything, ["--local", "--workers", "3", "--own"])
    assert result.output == "3\n"


def test_a_command_may_take_only_some_options() -> None:
    assert CliRunner().invoke(few, []).output == "local_db runtime_dir\n"


def test_help_shows_every_option_that_is_not_hidden_with_names_and_default() -> None:
    text = " ".join(CliRunner().invoke(everything, ["--help"]).output.split())
    assert "--http-address HOST:PORT Address to serve on." in text
    assert "default 127.0.0.1:4001" in text
    assert "env CODER_AI_GATEWAY_HTTP_ADDRESS" in text
    assert "YAML ai_gateway.http_address" in text
    assert "--own" in text
    assert "--aibridge-" not in text
    assert "circuit-breaker-max-requests" not in text
    assert text.index("Gateway:") < text.index("TLS:") < text.index("Other options:")


def test_settings_load_without_the_libraries_that_serve() -> None:
    program = (
        "import sys; from aigateway.http.settings import load_from_argv; "
        "load_from_argv(['--local'], {}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    heavy = {"falcon", "gunicorn", "requests", "pykka", "gevent", "structlog", "yaml", "ssl"}
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())
