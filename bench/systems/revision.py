"""One revision of this project, installed into an environment of its own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from bench.availability import Absent, cache_folder
from bench.environment import git, interpreter
from bench.processes import CHECKOUT
from bench.systems.aigateway import AiGateway

__all__ = ["Interpreter", "Revision", "UnknownPython", "UnknownRevision", "commit_of"]

_CONSTRAINTS = Path(".ci") / "constraints.txt"
"""The exact versions of other packages that a revision was tested with."""


class UnknownRevision(Exception):
    """Git does not know this revision."""


def commit_of(revision: str) -> str:
    """The full id of a commit.  Raises UnknownRevision."""
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        raise UnknownRevision(f"git knows no revision {revision!r} in {CHECKOUT}")
    return commit


class UnknownPython(Exception):
    """This is not a Python that can be asked for its version."""


@frozen
class Interpreter:
    """A Python that revisions can be installed with."""

    path: str
    version: str
    """As in ``3.13.0``."""
    build: str
    """Version, time and compiler, as ``sys.version`` has them."""

    @classmethod
    def here(cls) -> Interpreter:
        """The one that runs this."""
        return cls(interpreter(), platform.python_version(), sys.version)

    @classmethod
    def at(cls, path: str) -> Interpreter:
        """Ask a program, a path or a name on PATH.  Raises UnknownPython."""
        path = shutil.which(path) or path
        code = "import platform, sys; print(platform.python_version()); print(sys.version)"
        try:
            version, build = _run(path, "-I", "-c", code).strip().split("\n", 1)
        except (Absent, OSError, ValueError) as ex:
            raise UnknownPython(f"{path!r} is not a Python: {ex}") from ex
        return cls(os.path.abspath(path), version, build)

    @property
    def mark(self) -> str:
        """For the name of a folder: two builds of one version are two."""
        return f"{self.version}-{zlib.crc32((self.path + self.build).encode()):08x}"


class Revision(AiGateway):
    """The gateway as it was, or is, at a commit."""

    def __init__(
        self,
        commit: str,
        plane: str = "local",
        options: tuple[str, ...] = (),
        interpreter: Interpreter | None = None,
    ) -> None:
        """``commit`` is a full id; ``interpreter`` the Python that it gets, this one unless
        given."""
        super().__init__(plane, options)
        self.commit = commit
        self._interpreter = interpreter or Interpreter.here()
        self.label = commit[:12]
        self.does = git("log", "-1", "--format=%s", commit)
        folder = commit
        if interpreter is not None:
            self.label += f" on {interpreter.version}"
            self.does += f" (CPython {interpreter.version}, {interpreter.path})"
            folder += f"-{interpreter.mark}"
        self.name = f"{self.label}-{plane}"
        self.title = self.label if plane == "local" else f"{self.label} ({plane})"
        self._folder = cache_folder() / "revisions" / folder
        self.python = str(self._folder / "venv" / "bin" / "python")

    def prepare(self, say: Callable[[str], None]) -> str:
        done = self._folder / "installed"
        wanted = f"{self._interpreter.path}\n{self._interpreter.build}"
        if not done.exists() or done.read_text() != wanted:
            say(f"installing {self.label} (pip, own environment)")
            shutil.rmtree(self._folder, ignore_errors=True)
            checkout = self._folder / "checkout"
            checkout.mkdir(parents=True)
            self._install(checkout)
            shutil.rmtree(checkout)
            done.write_text(wanted)
        code = "from importlib.metadata import version; print(version('aigateway'))"
        return f"{_run(self.python, '-c', code).strip()} ({self.commit[:12]})"

    def _install(self, checkout: Path) -> None:
        archive = self._folder / "checkout.tar"
        if git("archive", "--output", str(archive), self.commit) or not archive.exists():
            raise Absent(f"git cannot give out {self.commit[:12]}")
        _run("tar", "-xf", str(archive), "-C", str(checkout))
        archive.unlink()
        _run(self._interpreter.path, "-m", "venv", str(self._folder / "venv"))
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constraints = checkout / _CONSTRAINTS
        more = ["-c", str(constraints)] if constraints.exists() else []
        _run(*pip, *more, str(checkout))


def _run(*command: str) -> str:
    environ = {**os.environ}
    # What the caller's own installation was told says nothing of another revision's.
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PYTHONPATH"):
        environ.pop(name, None)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environ
    )
    if done.returncode:
        last = " ".join((done.stdout + done.stderr).split()[-60:])
        raise Absent(f"{Path(command[0]).name} failed: {last}")
    return done.stdout
