"""What the documentation says is where, is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]
    if path.name != "CHANGELOG.md"
)
INTERNALS = CHECKOUT / "docs" / "internals.md"

QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:actors|http|tests|bench|docs)/[\w./-]*|\.ci/\w+|[\w-]+\.py|\w+(?:/\w+)*/")
"""From the top of the checkout, or beside what was named before it in the same passage."""
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
PLACED = re.compile(r"((?:`[\w.]+`(?:,| and)? )+)in `([\w/]+/[\w/]+\.py)`")
"""Names in a module."""
REFERENCE = re.compile(r":(?:class|func|mod|meth|data):`~?(aigateway\.|\.+)([\w.]+)`")
"""What a docstring refers to in another module, by its whole name or by the end of it."""
OF_OTHERS = {"Upgrade", "X-Accel-Buffering"}


def _text(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _passages(text: str) -> list[str]:
    """Paragraphs, entries of lists, rows of tables."""
    return [" ".join(each.split()) for each in re.split(r"\n\n|\n(?=[-|]|\d+\. )", text)]


@cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines: ``Class``, ``Class.method`` and ``method``, ``function``, ``NAME``."""
    names: set[str] = set()

    def look(body: list[ast.stmt], inside: str) -> None:
        for node in body:
            match node:
                case ast.ClassDef():
                    names.add(f"{inside}{node.name}")
                    look(node.body, f"{inside}{node.name}.")
                case ast.FunctionDef():
                    names.add(f"{inside}{node.name}")
                case ast.Assign(targets=[ast.Name("__all__")]):
                    names.update(ast.literal_eval(node.value))
                case ast.Assign():
                    names.update(f"{inside}{ast.unparse(target)}" for target in node.targets)
                case ast.AnnAssign():
                    names.add(f"{inside}{ast.unparse(node.target)}")

    look(ast.parse(path.read_text()).body, "")
    return frozenset(names | {name.rpartition(".")[2] for name in names})


@cache
def _sources() -> list[Path]:
    return [p for folder in ("actors", "http") for p in sorted((CHECKOUT / folder).rglob("*.py"))]


@cache
def _names_of_all() -> frozenset[str]:
    return frozenset().union(*map(_names, _sources()))


def _wrong_in(passage: str) -> list[str]:
    """What it names and is not where it says."""
    wrong: list[str] = []
    folder = CHECKOUT
    for word in QUOTED.findall(passage):
        if PATH.fullmatch(word):
            path = next((p for p in (CHECKOUT / word, folder / word) if p.exists()), None)
            if path is None:
                wrong.append(f"no {word}: {passage}")
                continue
            folder = path if path.is_dir() else path.parent
        elif (
            NAME.fullmatch(word)
            and re.search("[A-Z]", word)
            and word not in _names_of_all() | OF_OTHERS
        ):
            wrong.append(f"nothing is called {word}")
    for names, place in PLACED.findall(passage):
        path = CHECKOUT / place
        wrong += [
            f"no {name} in {place}" for name in QUOTED.findall(names) if name not in _names(path)
        ]
    return wrong


def test_what_the_internals_name_is_where_they_say() -> None:
    wrong = [found for each in _passages(_text(INTERNALS)) for found in _wrong_in(each)]
    assert wrong == []


def test_each_room_is_on_the_map() -> None:
    page = INTERNALS.read_text()
    drawn = re.search(r"^```\n(http/      app.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert drawn is not None
    words = set(re.findall(r"[\w.]+", drawn.group(1)))
    rooms = {
        path
        for folder in ("actors", "http")
        for path in (CHECKOUT / folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    names = {path.name if path.parent.name == "http" else path.stem for path in rooms}
    assert names - {"__init__"} - words == set()


def _is_there(referred: str) -> bool:
    """``package.module``, or a name behind it."""
    parts = referred.split(".")
    for size in range(len(parts), 0, -1):
        ends = ("/".join(parts[:size]) + ".py", "/".join([*parts[:size], "__init__.py"]))
        name = ".".join(parts[size:])
        for path in _sources():
            if f"/{path.relative_to(CHECKOUT)}".endswith(tuple(f"/{end}" for end in ends)) and (
                not name or name in _names(path)
            ):
                return True
    return False


def test_docstrings_refer_to_what_is_there() -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}: {whole + referred}"
        for path in _sources()
        for whole, referred in REFERENCE.findall(path.read_text())
        if not _is_there(referred)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:actors|http|tests|bench|docs|\.ci)/[\w./-]+)`", _text(page))
    made = ("bench/results/",)
    wrong = [n for n in named if not n.startswith(made) and not (CHECKOUT / n).exists()]
    assert wrong == []
