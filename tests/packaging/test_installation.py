"""What an installation gives, and that this checkout hides nothing of Python's own.

Two virtual environments, one with an editable and one with an ordinary installation, each
from a copy of the checkout: a build writes into the folder that it builds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import frozen

CHECKOUT = Path(__file__).parents[2]
BUILT_FROM = ("actors", "http", "pyproject.toml", "setup.py", "README.md", "LICENSE")
ROOMS = ("actors", "http")
SHIPPED = re.compile(r".*\.(py|pyi|proto|sql|json|html|svg|css|js|LICENSE\.txt)|py\.typed")
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]

QUIET = ["--disable-pip-version-check", "--no-cache-dir"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def _run(
    argv: Sequence[str | Path], cwd: Path, *, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this process's own Python settings."""
    foreign = ("PYTHON", "VIRTUAL_ENV", "COV_")
    done = subprocess.run(
        [str(arg) for arg in argv],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(foreign)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, f"{argv}:\n{done.stdout}"
    return done


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, which nobody writes to or edits meanwhile."""
    target = tmp_path_factory.mktemp("sources")
    for name in BUILT_FROM:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def _libraries(python: Path) -> Path:
    """Where the environment of ``python`` has its libraries."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(_run([python, "-c", code], python.parent).stdout.strip())


def _environment(folder: Path) -> Path:
    """A virtual environment with this one's libraries but ours; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    place = _libraries(python)
    for entry in sys.path:
        if not entry.endswith("-packages") or not Path(entry).is_dir():
            continue
        for item in Path(entry).iterdir():
            ours = item.name.startswith(("aigateway", "__editable__")) or item.suffix == ".pth"
            if not ours and not (place / item.name).exists():
                (place / item.name).symlink_to(item)
    return python


@frozen
class Installed:
    """A virtual environment with aigateway in it."""

    kind: str
    python: Path
    checkout: Path

    def run(self, *argv: str | Path, cwd: Path | None = None) -> str:
        return _run([self.python, *argv], cwd or self.checkout).stdout

    @property
    def package(self) -> Path:
        """Where the import package should come from."""
        if self.kind == "editable":
            return self.checkout
        return _libraries(self.python) / "aigateway"


@frozen
class Wheel:
    """A wheel and what it was built from."""

    path: Path
    checkout: Path
    python: Path

    @property
    def files(self) -> set[str]:
        return _wheel_files(self.path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Wheel:
    """Built without a warning."""
    folder = tmp_path_factory.mktemp("wheel")
    python = _environment(folder / "venv")
    checkout = shutil.copytree(sources, folder / "checkout")
    argv = [python, "-m", "pip", "wheel", "-v", *QUIET, *OFFLINE, "-w", folder / "dist"]
    said = _run([*argv, checkout], folder).stdout
    assert "warning" not in said.lower(), said
    (path,) = (folder / "dist").iterdir()
    return Wheel(path, checkout, python)


@pytest.fixture(scope="module", params=["editable", "ordinary"])
def installed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sources: Path,
    wheel: Wheel,
) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    checkout = shutil.copytree(sources, folder / "checkout")
    python = _environment(folder / "venv")
    what = [wheel.path] if request.param == "ordinary" else ["--editable", checkout]
    _run([python, "-m", "pip", "install", *QUIET, *OFFLINE, *what], folder)
    return Installed(request.param, python, checkout)


def _source_files(checkout: Path) -> set[str]:
    return {
        f"aigateway/{path.relative_to(checkout)}"
        for room in ROOMS
        for path in (checkout / room).rglob("*")
        if SHIPPED.fullmatch(path.name)
    }


def _wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Wheel) -> None:
    assert wheel.files == _source_files(wheel.checkout)
    assert "aigateway/http/__init__.py" not in wheel.files
    assert "aigateway/actors/control/coderd/wire/coderd.proto" in wheel.files
    assert {"aigateway/actors/py.typed", "aigateway/http/py.typed"} < wheel.files


def test_a_source_distribution_makes_the_same_wheel(wheel: Wheel, tmp_path: Path) -> None:
    code = "import setuptools.build_meta as build; print(build.build_sdist('dist'))"
    said = _run([wheel.python, "-c", code], wheel.checkout).stdout
    assert "warning" not in said.lower(), said
    (archive,) = (wheel.checkout / "dist").iterdir()
    argv = [wheel.python, "-m", "pip", "wheel", *QUIET, *OFFLINE, "-w", tmp_path, archive]
    _run(argv, tmp_path)
    (again,) = tmp_path.iterdir()
    assert _wheel_files(again) == wheel.files


@pytest.mark.parametrize(
    "argv",
    [
        ["-c", "import http.client, http.server, http.cookies"],
        ["-m", "pip", "--version"],
        ["-m", "pytest", "--version"],
        ["-m", "gunicorn", "--version"],
        ["-m", "http.server", "--help"],
    ],
    ids=" ".join,
)
def test_pythons_own_http_wins_in_the_checkout(installed: Installed, argv: list[str]) -> None:
    installed.run(*argv)


def test_http_in_the_checkout_is_pythons_own(installed: Installed) -> None:
    where = installed.run("-c", "import http; print(http.__file__)").strip()
    assert where.startswith(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkout", "elsewhere"])
def test_both_folders_are_one_import_package(
    installed: Installed, tmp_path: Path, inside: bool
) -> None:
    code = """if True:
        import aigateway.actors.actor.tree, aigateway.http.cli
        import aigateway.actors.control.coderd.wire, aigateway.actors.interception
        print(aigateway.actors.__file__)
        print(aigateway.http.cli.__file__)
        print(aigateway.actors.interception.__file__)
    """
    cwd = installed.checkout if inside else tmp_path
    assert installed.run("-c", code, cwd=cwd).split() == [
        str(installed.package / "actors" / "__init__.py"),
        str(installed.package / "http" / "cli" / "__init__.py"),
        str(installed.package / "actors" / "interception" / "__init__.py"),
    ]


def test_every_module_can_be_imported(installed: Installed, tmp_path: Path) -> None:
    names = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in _source_files(installed.checkout)
        if name.endswith(".py") and not name.endswith(("__main__.py", "server/conf.py"))
    )
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    installed.run("-c", code, *names, cwd=tmp_path)


def test_the_program_runs_by_both_names(installed: Installed, tmp_path: Path) -> None:
    expected = f"aigateway {VERSION}\n"
    assert installed.run("-m", "aigateway.http", "--version") == expected
    script = installed.python.with_name("aigateway")
    assert _run([script, "--version"], tmp_path).stdout == expected
