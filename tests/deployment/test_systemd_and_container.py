"""The systemd unit and the Containerfile: right in themselves, and true of the gateway."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
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
    extras = re.search(r"'\.\[([a-z,]+)\]'", text)
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
