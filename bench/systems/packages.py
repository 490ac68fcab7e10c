"""Installing peers into the cache folder, by their own ordinary packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from bench.availability import Absent, cache_folder
from bench.environment import interpreter
from bench.processes import clean_environ

__all__ = ["Program", "debian_program", "node_package", "python_package"]

Say = Callable[[str], None]


@frozen
class Program:
    """An executable and the environment that it needs."""

    path: Path
    environ: Mapping[str, str]


def _run(command: Sequence[str], what: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as ex:
        raise Absent(f"{what}: {ex}") from ex
    if done.returncode:
        last = " ".join(done.stdout.split()[-60:])
        raise Absent(f"{what} failed: {last}")
    return done.stdout


def debian_program(name: str, packages: Sequence[str], say: Say) -> Program:
    """A program that is on PATH, else from Debian packages unpacked into the cache.

    Nothing is installed: apt-get downloads, dpkg-deb unpacks.  Raises Absent.
    """
    search = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    if found := shutil.which(name, path=search):
        return Program(Path(found), clean_environ())
    root = cache_folder() / "debian"
    program = _find(root, name)
    if program is None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise Absent(f"{name} is not installed, and there is no apt-get to fetch it with")
        say(f"fetching {name} (Debian)")
        downloads = root / "archives"
        downloads.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", *packages], f"apt-get download {name}", downloads)
        for archive in downloads.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(root)], f"unpacking {archive.name}")
            archive.unlink()
        program = _find(root, name)
    if program is None:
        raise Absent(f"{name} is not in the Debian packages {', '.join(packages)}")
    libraries = {str(file.parent) for file in root.glob("usr/lib/**/*.so.*")}
    return Program(program, clean_environ(LD_LIBRARY_PATH=":".join(sorted(libraries))))


def _find(root: Path, name: str) -> Path | None:
    for folder in ("usr/sbin", "usr/bin"):
        if (root / folder / name).exists():
            return root / folder / name
    return None


def python_package(folder: str, requirement: str, say: Say) -> Path:
    """A virtual environment with ``requirement``; returns its bin folder.  Raises Absent.

    It is made of the Python that runs this: peers get no slower and no faster one.
    """
    venv = cache_folder() / folder
    done = venv / "installed"
    wanted = f"{requirement}\n{interpreter()}\n{sys.version}"
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(venv, ignore_errors=True)
        say(f"installing {requirement} (pip, own environment)")
        _run([sys.executable, "-m", "venv", str(venv)], "python -m venv")
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement]
        _run(pip, f"pip install {requirement}")
        done.write_text(wanted)
    return venv / "bin"


def node_package(folder: str, package: str, say: Say, **pinned: str) -> Path:
    """A folder with an npm package installed; returns the package's folder.

    ``pinned`` are versions of packages below it, by name.  Raises Absent.
    """
    prefix = cache_folder() / folder
    project = prefix / "package.json"
    wanted = json.dumps({"dependencies": {package: "*"}, "overrides": pinned}, indent=1)
    done = prefix / "installed"
    if not shutil.which("npm") or not shutil.which("node"):
        raise Absent("Node.js with npm is not installed")
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.mkdir(parents=True)
        project.write_text(wanted)
        say(f"installing {package} (npm, own folder)")
        _run(["npm", "install", "--prefix", str(prefix)], f"npm install {package}")
        done.write_text(wanted)
    return prefix / "node_modules" / package
