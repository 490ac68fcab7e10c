"""Gateways of earlier revisions of this project, out of the checkout's own history."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream
from system_programs import program, unavailable

__all__ = ["EarlierGateway", "revisions", "take_out"]

CHECKOUT = Path(__file__).parents[2]


def revisions() -> list[str]:
    """The commits of ``revisions.txt``."""
    lines = (Path(__file__).parent / "revisions.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def take_out(revision: str, folder: Path) -> Path:
    """Write the import package of a revision below ``folder``; what PYTHONPATH has to name.

    A checkout without its history (a shallow clone, an archive) skips the calling test.
    """
    git = [program("git", "apt-get install git"), "-C", os.fspath(CHECKOUT)]
    shallow = [*git, "rev-parse", "--is-shallow-repository"]
    if subprocess.run(shallow, capture_output=True, text=True, check=False).stdout != "false\n":
        pytest.skip("this checkout has no history, try: git fetch --unshallow")
    archive = [*git, "archive", revision, "actors", "http"]
    found = subprocess.run(archive, capture_output=True, check=False)
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip()
        unavailable(f"cannot take {revision} out of this checkout's history: {reason}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as packed:
        packed.extractall(folder / "aigateway", filter="data")
    return folder


class EarlierGateway(GatewayProcess):
    """A gateway of the revision in ``path``; its commands are those of that revision too."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        upstreams: Sequence[Upstream],
        options: Sequence[str] = (),
        *,
        local: bool = True,
        environ: dict[str, str] | None = None,
    ) -> None:
        environ = {**(environ or {}), "PYTHONPATH": os.fspath(path)}
        super().__init__(folder, upstreams, options, local=local, environ=environ)
        self.allowed_errors = [""]  # what it thinks of a stop with work left is not today's matter

    def key(self, user: str = "alice") -> str:
        """A new key, made by the earlier revision: today's would bring the schema up to date."""
        made = self.command("keys", "create", "--local-db", str(self.database), "--quiet", user)
        assert not made.returncode, made.stderr
        return made.stdout.strip()
