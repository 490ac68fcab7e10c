"""The rules of the house that a reader of one file would not see broken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = {"aigateway.actors": CHECKOUT / "actors", "aigateway.http": CHECKOUT / "http"}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
GENERATED = {CHECKOUT / "actors/control/coderd/wire/coderd_pb2.py"}

SANS_IO = {
    "actors/control/coderd/wire": ("aigateway.actors.control.coderd.wire",),
    "actors/interception": (
        "aigateway.actors.interception",
        "aigateway.actors.values.records",
    ),
}
"""Rooms without input and output, and what they may import of this package."""

OUTSIDE_WORLD = {
    "_thread", "asyncio", "concurrent", "fcntl", "gevent", "getpass", "glob", "http", "logging",
    "mmap", "multiprocessing", "os", "pathlib", "pykka", "queue", "random", "requests", "sched",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3",
    "ssl", "structlog", "subprocess", "sys", "tempfile", "termios", "threading", "time",
    "urllib3", "uuid", "websocket",
}  # fmt: skip
"""Modules through which a room would reach clocks, chance, files, sockets, threads or logs."""
OUTSIDE_CALLS = {"open", "print", "input", "breakpoint"}

MAX_LINES = 400
VAGUE = {"common", "helper", "helpers", "misc", "util", "utils"}


def _name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def _dotted(path: Path) -> str:
    """The name under which the module in ``path`` is imported."""
    package, folder = next(item for item in PACKAGES.items() if path.is_relative_to(item[1]))
    inside = path.relative_to(folder).with_suffix("").parts
    return ".".join((package, *(part for part in inside if part != "__init__")))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _imports(path: Path) -> Iterator[str]:
    """What a module imports, anywhere in it, by full name."""
    package = _dotted(path) if path.name == "__init__.py" else _dotted(path).rpartition(".")[0]
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join((*(above if node.level else ()), node.module or "")).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def test_http_is_no_regular_package() -> None:
    """With an ``__init__.py`` it would hide the standard library's ``http``."""
    assert not (CHECKOUT / "http" / "__init__.py").exists()


def test_actors_know_nothing_of_the_edge() -> None:
    wrong = [
        f"{_name(path)} imports {name}"
        for path in SOURCES
        if path.is_relative_to(PACKAGES["aigateway.actors"])
        for name in _imports(path)
        if _is_below(name, ("aigateway.http",))
    ]
    assert wrong == []


@pytest.mark.parametrize("room", SANS_IO)
def test_a_room_without_io_reaches_nothing_outside(room: str) -> None:
    wrong = []
    for path in sorted((CHECKOUT / room).rglob("*.py")):
        for name in _imports(path):
            if name.split(".")[0] in OUTSIDE_WORLD or _is_below(name, ("urllib.request",)):
                wrong.append(f"{_name(path)} imports {name}")
            if _is_below(name, ("aigateway",)) and not _is_below(name, SANS_IO[room]):
                wrong.append(f"{_name(path)} imports {name}, from another room")
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in OUTSIDE_CALLS:
                wrong.append(f"{_name(path)}:{node.lineno} calls {ast.unparse(node.func)}()")
    assert wrong == []


def test_each_module_says_what_is_public() -> None:
    wrong = []
    for path in SOURCES:
        body = _parsed(path).body
        has_code = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)
        names = {
            target.id
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if has_code and "__all__" not in names and path not in GENERATED:
            wrong.append(_name(path))
    assert wrong == []


def test_each_module_says_what_it_is_for() -> None:
    wrong = [
        _name(path)
        for path in SOURCES
        if path not in GENERATED and not (ast.get_docstring(_parsed(path)) or "").strip()
    ]
    assert wrong == []


def test_no_module_is_a_drawer_for_everything() -> None:
    wrong = [_name(path) for path in SOURCES if set(path.stem.strip("_").split("_")) & VAGUE]
    assert wrong == []
