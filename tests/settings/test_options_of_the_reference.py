"""The table of the reference's options in docs/coderd.md: each starts this gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import frozen
from click.testing import CliRunner

from aigateway.http.cli.check import command
from aigateway.http.settings.table import OPTIONS, Option

PAGE = Path(__file__).parents[2] / "docs" / "coderd.md"
MARK = "<!-- options of the reference -->"
EXAMPLES = {
    "bool": "true",
    "int": "3",
    "duration": "7s",
    "url": "http://coderd.example",
    "address": "127.0.0.1:0",
    "header": "X-Some-Header",
    "header list": "x-some=planted-value",
    "regex list": "planted.*",
    "word list": "planted-experiment",
    "choice": "both",
    "path": "/tmp/some-file",
    "str": "planted-text",
}
"""A value for each kind of option."""


@frozen
class Row:
    flags: tuple[str, ...]
    envs: tuple[str, ...]
    yaml: str
    default: str
    note: str

    def __str__(self) -> str:
        return self.flags[0]


def rows() -> list[Row]:
    lines = PAGE.read_text().partition(f"{MARK}\n")[2].partition("\n\n")[0].splitlines()[2:]
    found = []
    for line in lines:
        flags, envs, yaml_key, _there, default, note = re.split(r"(?<!\\) \| ", line[2:-2])
        found.append(
            Row(
                tuple(re.findall(r"`(.+?)`", flags)),
                tuple(re.findall(r"`(.+?)`", envs)),
                yaml_key.strip("`") if yaml_key != "none" else "",
                default.strip("`") if default != "none" else "",
                note,
            )
        )
    return found


OF_THE_TABLE = {flag: row for row in OPTIONS for flag in row.flags}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Take the options through the command line; give back the report and the output."""

    def run(*argv: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", {"HOME": str(tmp_path), **(env or {})})
            result = CliRunner().invoke(command, ["--json", *argv])
        assert result.exit_code in (0, 1), result.output
        found: dict[str, Any] = json.loads(result.output)
        return {**found, "output": result.output}

    return run


def value_of(row: Row, tmp_path: Path) -> str:
    option = OF_THE_TABLE[row.flags[0]]
    if option.name == "config":
        (tmp_path / "config.yaml").write_text("{}")
        return str(tmp_path / "config.yaml")
    return EXAMPLES[option.kind.name]


def nested(dotted: str, value: Any) -> str:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return yaml.safe_dump(value)


def judge(row: Row, report: dict[str, Any], name: str) -> None:
    option: Option = OF_THE_TABLE[row.flags[0]]
    assert not [
        error for error in report["errors"] if error.startswith((f"{name}:", "config file"))
    ]
    source = report["settings"][option.name]["from"]
    assert source.rpartition(": ")[2] == name
    told = [warning for warning in report["warnings"] if name in json.dumps(warning)]
    assert bool(told) is ("no effect" in row.note), told
    if row.flags[0] == "--experiments":
        assert "planted-experiment" in json.dumps(told)
    if option.secret:
        assert "planted" not in report["output"]


def test_the_page_has_the_whole_table() -> None:
    names = {row.flags[0] for row in rows()}
    inherited = {
        flag for row in OPTIONS for flag in row.flags[:1] if flag.startswith("--ai-gateway-")
    }
    own = {name for name in inherited if name.endswith("-models")}
    assert inherited - own <= names
    assert {"--key", "--key-file", "--url", "--experiments", "--header-command"} <= names


@pytest.mark.parametrize("row", rows(), ids=str)
def test_each_option_is_taken_as_flag_as_variable_and_in_yaml(
    row: Row, check: Any, tmp_path: Path
) -> None:
    option = OF_THE_TABLE[row.flags[0]]
    assert (row.flags, row.envs, row.yaml) == (option.flags, option.envs, option.yaml)
    assert row.default == option.default
    value = value_of(row, tmp_path)
    for flag in row.flags:
        judge(row, check(flag, value), row.flags[0])
    if option.kind.name == "bool":
        judge(row, check(row.flags[0]), row.flags[0])
    for name in row.envs:
        judge(row, check(env={name: value}), name)
    if row.yaml:
        file = tmp_path / "settings.yaml"
        file.write_text(nested(row.yaml, [value] if option.kind.is_list else yaml.safe_load(value)))
        judge(row, check("-c", str(file)), row.yaml)
