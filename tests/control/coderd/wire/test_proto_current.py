"""The generated modules are what the .proto says, and run on every protobuf we allow."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aigateway.actors.control.coderd.wire import coderd_pb2

CHECKOUT = Path(__file__).resolve().parents[4]
WIRE = "actors/control/coderd/wire"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("protoc")
    source = f"aigateway/{WIRE}/coderd.proto"
    # Called by its path: whoever runs pytest need not have the environment's bin on PATH.
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    options = [f"--python_out={out}", f"--mypy_out={out}", f"--plugin=protoc-gen-mypy={plugin}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iaigateway=.", *options, source],
        cwd=CHECKOUT,
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    return out / "aigateway" / WIRE


@pytest.mark.parametrize("name", ["coderd_pb2.py", "coderd_pb2.pyi"])
def test_the_committed_file_is_what_the_compiler_makes_of_the_proto(
    regenerated: Path, name: str
) -> None:
    committed = (CHECKOUT / WIRE / name).read_text()
    assert committed == (regenerated / name).read_text(), (
        f"{name} is stale: docs/development.md, section Protocol buffers, says how to make it"
    )


def test_the_allowed_protobuf_versions_are_those_the_generated_code_runs_on() -> None:
    generated = (CHECKOUT / WIRE / "coderd_pb2.py").read_text()
    match = re.search(r"^# Protobuf Python Version: (\d+)\.(\d+)\.(\d+)$", generated, re.M)
    assert match is not None
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    major_after_next = int(match[1]) + 2
    oldest = ".".join(match.groups())
    assert f"protobuf>={oldest},<{major_after_next}" in project["dependencies"]


def test_the_module_knows_its_own_name() -> None:
    message = coderd_pb2.IsAuthorizedRequest
    assert message.__module__ == "aigateway.actors.control.coderd.wire.coderd_pb2"
    assert coderd_pb2.DESCRIPTOR.name == "aigateway/actors/control/coderd/wire/coderd.proto"
