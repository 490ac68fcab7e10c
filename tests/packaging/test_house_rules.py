"""The rules of the house that a reader of one file would not see broken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import grimp
import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = {"aigateway.actors": CHECKOUT / "actors", "aigateway.http": CHECKOUT / "http"}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
GENERATED = {CHECKOUT / "actors/control/coderd/wire/coderd_pb2.py"}

SANS_IO = (
    "actors/codec",
    "actors/control/coderd/wire",
    "actors/control/local/prices",
    "actors/interception",
    "actors/values",
)
"""Rooms without input and output."""

ARROWS: dict[str, set[str]] = {
    "actors/values": set(),
    "actors/codec": set(),
    "actors/upstream": {"codec", "values"},
    "actors/interception": {"codec", "values"},
    "actors/actor": {"values"},
    "actors/control": {"actor", "codec", "values"},
    "actors/control/coderd": {"actor", "codec", "control", "upstream", "values"},
    "actors/control/local": {"actor", "codec", "control", "interception", "values"},
    "actors/mcp": {"actor", "codec", "control", "interception", "upstream", "values"},
    "actors/recorder": {"actor", "codec", "control", "values"},
    "actors/providers": {
        "actor", "codec", "control", "interception", "recorder", "upstream", "values",
    },
    "actors/plan": {"actor", "mcp", "providers", "recorder", "values"},
    "actors/supervisor": {"actor", "control", "mcp", "plan", "providers", "recorder", "values"},
    "http/settings": set(),
    "http/logs": {"http/settings"},
    "http/metrics": {"http/logs", "http/settings"},
    "http/tracing": {"http/logs", "http/metrics", "http/settings"},
    "http/request": {"http/logs", "http/metrics", "http/settings", "http/tracing"},
    "http/diagnosis": {"http/logs", "http/metrics", "http/request", "http/settings"},
    "http/server": {
        "http/diagnosis", "http/logs", "http/metrics", "http/request", "http/settings",
    },
    "http/admin": {"http/settings"},
    "http/app": {
        "http/diagnosis", "http/logs", "http/metrics", "http/request", "http/server",
        "http/settings", "http/tracing",
    },
    "http/console": {"http/diagnosis", "http/request", "http/settings"},
    "http/demo": {"http/settings"},
    "http/cli": {
        "http/admin", "http/app", "http/console", "http/demo", "http/diagnosis", "http/logs",
        "http/metrics", "http/request", "http/server", "http/settings",
    },
    "http/__main__": {"http/cli"},
}  # fmt: skip
"""Who may import whom, down or to the right in docs/internals.md's map and never up.  Names
without a folder are rooms of ``actors``; a room of ``http`` may import any of those."""

OUTSIDE_WORLD = {
    "_thread", "asyncio", "concurrent", "fcntl", "gevent", "getpass", "glob", "http", "logging",
    "mmap", "multiprocessing", "os", "pathlib", "pykka", "queue", "random", "requests", "sched",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3",
    "ssl", "structlog", "subprocess", "sys", "tempfile", "termios", "threading", "time",
    "urllib3", "uuid", "websocket",
}  # fmt: skip
"""Modules through which a room would reach clocks, chance, files, sockets, threads or logs."""
OUTSIDE_CALLS = {"open", "print", "input", "breakpoint"}

DEFAULT_CLIENT = {
    "requests.Session", "requests.delete", "requests.get", "requests.head", "requests.patch",
    "requests.post", "requests.put", "requests.request", "requests.session",
}  # fmt: skip
"""What would speak HTTP through requests' own adapter."""

MAX_AT_THE_TOP = 15
"""Rooms and files of ``http``: its map is seen at a glance."""
PROGRAMS = (
    "aigateway.http.__main__",
    "aigateway.http.cli.*",
    "aigateway.http.metrics.listener",
    "aigateway.http.metrics.monitoring",
    "aigateway.http.server.conf",
    "aigateway.http.server.thread_worker",
    "aigateway.http.server.workers",
    "aigateway.http.settings.__main__",
)
"""What is started or found by its name."""
MAX_LINES = 700
"""From here on a module is split."""
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


def _room(name: str) -> str:
    """The room of a module, by its folder; a module of no room is one by itself."""
    parts = name.removeprefix("aigateway.").split(".")
    depth = 3 if parts[:2] == ["actors", "control"] and parts[2:3] in (["coderd"], ["local"]) else 2
    return "/".join(parts[:depth])


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


@cache
def _modules() -> set[str]:
    """Ours; grimp names the folder without an ``__init__.py`` by its place on the disk."""
    return {name for name in _graph().modules if name.startswith("aigateway.")}


def _arrows() -> dict[tuple[str, str], set[str]]:
    """Each arrow between two rooms, with the modules that draw it."""
    found: dict[tuple[str, str], set[str]] = {}
    for importer in _modules():
        for imported in _graph().find_modules_directly_imported_by(importer):
            arrow = (_room(importer), _room(imported))
            if arrow[0] != arrow[1] and "actors" not in arrow and "http" not in arrow:
                found.setdefault(arrow, set()).add(f"{importer} imports {imported}")
    return found


def _is_drawn(room: str, target: str) -> bool:
    if target.startswith("actors/"):
        return room.startswith("http/") or target.removeprefix("actors/") in ARROWS[room]
    return target in ARROWS[room]


def test_each_room_is_in_the_table_and_reads_as_one_package() -> None:
    assert {_room(module) for module in _modules()} - {"actors", "http"} == set(ARROWS)
    assert len(_modules()) > 250


def test_rooms_import_only_those_that_the_table_allows() -> None:
    wrong = [
        line
        for (room, target), lines in sorted(_arrows().items())
        if not _is_drawn(room, target)
        for line in sorted(lines)
    ]
    assert wrong == []


def test_the_table_has_no_circle() -> None:
    """What may import each other is one room."""
    below = {
        room: {name if "/" in name else f"actors/{name}" for name in allowed}
        for room, allowed in ARROWS.items()
    }
    done: set[str] = set()
    while ready := {room for room, targets in below.items() if targets <= done} - done:
        done |= ready
    assert done == set(below)


@pytest.mark.parametrize("room", SANS_IO)
def test_a_room_without_io_reaches_nothing_outside(room: str) -> None:
    wrong = []
    for path in sorted((CHECKOUT / room).rglob("*.py")):
        for name in _imports(path):
            if name.split(".")[0] in OUTSIDE_WORLD or _is_below(name, ("urllib.request",)):
                wrong.append(f"{_name(path)} imports {name}")
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


def test_no_module_is_longer_than_one_subject_can_be() -> None:
    wrong = [
        f"{_name(path)} has {lines} lines"
        for path in SOURCES
        if path not in GENERATED and (lines := path.read_text().count("\n")) > MAX_LINES
    ]
    assert wrong == []


def test_the_top_of_http_is_seen_at_a_glance() -> None:
    top = [path for path in (CHECKOUT / "http").iterdir() if (path / "__init__.py").exists()]
    top += (CHECKOUT / "http").glob("*.py")
    assert len(top) <= MAX_AT_THE_TOP


def test_each_module_is_imported_by_another() -> None:
    """What nobody imports is of no use, unless it is a program."""
    alone = [
        module
        for module in sorted(_modules())
        if not any(fnmatch(module, program) for program in PROGRAMS)
        and not _graph().find_children(module)
        and not _graph().find_modules_that_directly_import(module)
    ]
    assert alone == []


def test_no_module_is_a_drawer_for_everything() -> None:
    wrong = [_name(path) for path in SOURCES if set(path.stem.strip("_").split("_")) & VAGUE]
    assert wrong == []


def test_http_has_one_client() -> None:
    """What is sent anywhere goes through the room ``upstream``."""
    wrong = []
    for path in SOURCES:
        if path.is_relative_to(CHECKOUT / "actors/upstream"):
            continue
        wrong += [
            f"{_name(path)} imports {name}"
            for name in _imports(path)
            if _is_below(name, ("http.client", "requests.adapters", "urllib.request", "urllib3"))
        ]
        wrong += [
            f"{_name(path)}:{node.lineno} calls {called}"
            for node in ast.walk(_parsed(path))
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in DEFAULT_CLIENT
        ]
    assert wrong == []
