"""The systemd unit and the Containerfile: right in themselves, and true of the gateway."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider

from aigateway.http.server.hooks import FLUSH_TIMEOUT
from aigateway.http.settings import OPTIONS, load
from aigateway.http.tracing.service import FLUSH_TIMEOUT as TRACES_TIMEOUT

DOCS = Path(__file__).parents[2] / "docs"
UNIT = DOCS / "systemd" / "aigateway.service"
CONTAINERFILE = DOCS / "container" / "Containerfile"
VARIABLES = {name for row in OPTIONS for name in row.envs}


def _values(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # It also looks whether the program is there.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/aigateway/bin/aigateway", sys.executable))
    # Not the units of this machine, which may have faults of their own.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_has_time_for_the_drain_and_names_real_variables() -> None:
    default = load({}, {"CODER_AI_GATEWAY_LOCAL": "true"}).shutdown_timeout
    assert int(_values("TimeoutStopSec")[0]) > default + FLUSH_TIMEOUT + TRACES_TIMEOUT
    assert {line.partition("=")[0] for line in _values("Environment")} <= VARIABLES
    assert _values("KillMode") == ["mixed"]


def test_systemd_is_told_when_the_gateway_listens(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    assert _values("Type") == ["notify"]
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(30)
        upstreams = [Upstream("anthropic", provider.url)]
        with GatewayProcess(tmp_path / "gw", upstreams, environ={"NOTIFY_SOCKET": str(path)}):
            assert b"READY=1" in systemd.recv(4096)


def test_the_container_installs_and_sets_what_exists() -> None:
    text = CONTAINERFILE.read_text()
    extras = re.search(r"'\.\[([a-z,-]+)\]'", text)
    assert extras is not None
    pyproject = (DOCS.parent / "pyproject.toml").read_text()
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
    (constraints,) = re.findall(r"--constraint (\S+)", text)
    assert (DOCS.parent / constraints).is_file()
    assert set(re.findall(r"CODER_\w+", text)) <= VARIABLES
    for folder in re.findall(r"CODER_AI_GATEWAY_(?:STATE|RUNTIME)_DIR=(\S+)", text):
        assert os.path.isabs(folder)
        assert re.search(rf"install -d .*{folder}", text)


def test_the_image_is_made_of_the_package_and_of_nothing_else(tmp_path: Path) -> None:
    checkout = DOCS.parent
    lines = (checkout / ".containerignore").read_text().splitlines()
    assert lines[1] == "*", "all is left out, but for what is named"
    named = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for name in named:
        source, target = checkout / name, tmp_path / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # The step of the Containerfile that makes the package, without the network.
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    wheel = [sys.executable, "-m", "pip", "wheel", *offline, "-w", str(tmp_path / "dist"), "."]
    subprocess.run(wheel, cwd=tmp_path / "src", check=True, capture_output=True)
    (made,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(made) as archive:
        held = set(archive.namelist())
    for room in ("actors", "http"):
        sources = {
            f"aigateway/{path.relative_to(checkout)}" for path in (checkout / room).rglob("*.py")
        }
        assert sources <= held
    for file in re.findall(r"(\.ci/\w+(?:\.txt)?) ", CONTAINERFILE.read_text()):
        assert file in named


def test_a_bill_of_materials_and_the_licences_are_made_by_a_script() -> None:
    def made(what: str) -> str:
        script = DOCS.parent / ".ci/components"
        done = subprocess.run(
            [sys.executable, str(script), what], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    components = {each["name"]: each for each in json.loads(made("sbom"))["components"]}
    assert components["aigateway"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert components["pykka"]["version"] == version("pykka")
    assert components["prometheus_client"]["purl"].startswith("pkg:pypi/prometheus-client@")
    licences = made("licences")
    assert "\npykka " in licences
    assert "Apache License" in licences, "the texts are there too"
